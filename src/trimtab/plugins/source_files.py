"""The files that a Python file is made of: itself, and the modules in its own folder that it imports.

They are found by reading import statements; nothing is run. What `importlib.import_module(...)` imports is not seen.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path


def sources_hash(file: Path, folder: Path, *, alone: bool = False) -> str:
    """The sha256 of a file that imports none of its neighbours; else of the names and hashes of all `sources`.

    `alone` leaves the neighbours out.
    """
    files = [file] if alone else sources(file, folder)
    hashes = {str(source.relative_to(folder)): hashlib.sha256(source.read_bytes()).hexdigest() for source in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def sources(file: Path, folder: Path) -> list[Path]:
    """The file, the modules below `folder` that it imports, and those that they import; `folder` holds the file."""
    files = [file]
    for source in files:  # which grows meanwhile
        files += dict.fromkeys(other for other in _imported(source, folder) if other not in files)
    return files


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    """The files in `folder` that a file's import statements may read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the import will report it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = folder if node.level == 0 else file.parents[min(node.level, len(file.parents)) - 1]
            for alias in node.names:
                yield from _files(base, ".".join(filter(None, [node.module, alias.name])), absolute=node.level == 0)


def _files(folder: Path, name: str, *, absolute: bool = True) -> Iterator[Path]:
    """The files that importing `a.b.c` reads: the packages a and a.b, and the module or package a.b.c."""
    parts = name.split(".")
    if absolute and parts[0] in sys.stdlib_module_names:  # Python's own come first
        return
    for end in range(1, len(parts) + 1):
        path = folder.joinpath(*parts[:end])
        yield from (source for source in (path / "__init__.py", path.with_name(f"{path.name}.py")) if source.is_file())
