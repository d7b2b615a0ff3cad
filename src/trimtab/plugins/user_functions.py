"""A user's own function, by name: `module:function` or `file.py:function`.

The code is imported as Python imports it: it is a module in `sys.modules`, so its classes can be pickled, and it can
import its neighbours, the modules in its folder. Modules are also looked for in the working directory. The part before
the colon, `package.module` or `file.py`, is called a location here.

    >>> named_function("math:isfinite")(1.0)
    True
"""

import atexit
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from trimtab.errors import ConfigurationError, suggestion
from trimtab.plugins.source_files import sources_hash
from trimtab.plugins.user_errors import one_line_faults

_STUB = """import importlib.util, sys
spec = importlib.util.spec_from_file_location(__name__, {file!r})
sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
"""
_STANDARD = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"), "lib-dynload")}
_imported: dict[str, tuple[str, ModuleType]] = {}
"""The modules that `import_module` has imported, by file: the hash of the sources, and the module."""
_neighbours: dict[str, Path] = {}
"""The folder of each module that was imported because a module in `_imported` imports it."""


def named_function(name: str) -> Callable[..., Any]:
    """The function called `module:function` or `file.py:function`. Its module is imported once, and again after a
    change of its code.

    Raises:
        ConfigurationError: the module or file does not exist, cannot be imported, or has no such function.
    """
    location, _, attribute = name.rpartition(":")
    module = import_module(location)
    function = vars(module).get(attribute)
    if not callable(function):
        own = [key for key, value in vars(module).items() if isinstance(value, FunctionType)
               and value.__module__ == module.__name__ and not key.startswith("_")]  # fmt: skip
        known = f": {suggestion(attribute, own)}" if own else ""
        raise ConfigurationError(f"{name!r}: {location} has no function {attribute}{known}")
    return function


def source_hash(name: str) -> str:
    """The hash of the code of a function, so that a change of the code is noticed; runs none of it.

    It covers the module's file and, of a user's own code, the neighbours that it imports, and what those import.

    Raises:
        ConfigurationError: the module or file does not exist.
    """
    location = name.rpartition(":")[0]
    return _hash(_spec_at(location), location)


def find_module(location: str) -> ModuleSpec | None:
    """The import spec of the module or file at a location; None where there is none.

    Raises:
        ConfigurationError: the code of a parent package raises an error.
    """
    if location.endswith(".py"):
        file = Path(location).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(_name_of(file), file) if file.is_file() else None
    else:
        with one_line_faults(location), _importing_from(Path.cwd()):
            try:
                spec = importlib.util.find_spec(location)
            except (ImportError, ValueError):  # a parent package that does not exist, or a name such as `..x`
                spec = None
    return None if spec is None or spec.loader is None else spec


def import_module(location: str) -> ModuleType:
    """The module at a location. It is imported again where one of its files has changed.

    Raises:
        ConfigurationError: it does not exist, or its code raises an error.
    """
    spec = _spec_at(location)
    digest, is_file = _hash(spec, location), location.endswith(".py")
    imported_digest, module = _imported.get(spec.origin or spec.name, ("", None))
    if module is not None and imported_digest == digest:
        return module
    if module is None and not is_file and spec.name in sys.modules:  # the program that uses trimtab imported it
        return sys.modules[spec.name]
    folder = Path.cwd() if _is_installed(spec) else _folder(spec, Path(spec.origin or ""))
    _forget_others(folder, None if module is None else spec.name)
    before = set(sys.modules)
    try:
        with one_line_faults(location), _importing_from(folder):
            module = _run(spec) if is_file else importlib.import_module(spec.name)
    finally:
        new = set(sys.modules) - before - {spec.name}
        _neighbours.update({name: folder for name in new if _lies_in(folder, name)})
    if is_file:  # for what a function imports when it is called, and for processes that it starts
        renamed = [] if spec.name == Path(location).stem else [_stub_folder(spec.name, Path(spec.origin or ""))]
        sys.path += [str(path) for path in (folder, *renamed) if str(path) not in sys.path]
    _imported[spec.origin or spec.name] = digest, module
    return module


def _stub_folder(name: str, file: Path) -> Path:
    """A folder from which other processes can import a file under a name that differs from the file's."""
    folder = _temporary_folder()
    (folder / f"{name}.py").write_text(_STUB.format(file=str(file)), encoding="utf-8")
    return folder


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="trimtab-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _spec_at(location: str) -> ModuleSpec:
    spec = find_module(location)
    if spec is None and location.endswith(".py"):
        raise ConfigurationError(f"there is no file {location}: give the path of the file that holds the function")
    if spec is None:
        raise ConfigurationError(
            f"there is no Python module {location} here or installed: give module:function or file.py:function"
        )
    return spec


def _hash(spec: ModuleSpec, location: str) -> str:
    file = Path(spec.origin or "")
    if not file.is_file():
        return location
    alone = _is_installed(spec)
    return sources_hash(file, file.parent if alone else _folder(spec, file), alone=alone)


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module belongs to Python, an installed package or trimtab, and so is not the user's code."""
    file = Path(spec.origin or "")
    named = spec.name.partition(".")[0] in {*sys.stdlib_module_names, "trimtab"}
    return not file.is_file() or named or bool({"site-packages", "dist-packages"} & set(file.parts))


def _folder(spec: ModuleSpec, file: Path) -> Path:
    """The folder that a module's absolute imports start from: for `a.b.c` the one that contains `a`."""
    return file.parents[spec.name.count(".") + (file.stem == "__init__")]


def _name_of(file: Path) -> str:
    """The module name for a file: its stem, with a hash where another module, such as Python's, has that name."""
    plain = file.stem.replace(".", "_")
    other = sys.modules.get(plain)
    spec = importlib.util.find_spec(plain) if other is None else other.__spec__
    # a folder without __init__.py has no origin, and a file may have its name
    free = other is None if spec is None else spec.origin in (None, str(file))
    return plain if free else f"{plain}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def _run(spec: ModuleSpec) -> ModuleType:
    """Run a file as a module."""
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # before it runs: dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _forget_others(folder: Path, changed: str | None) -> None:
    """Remove modules from `sys.modules` that must be imported again before a module in `folder` is.

    These are neighbours from other folders that have the name of a module in `folder`; and, where the code of a module
    has changed (`changed` is its name), that module and all neighbours in `folder`.
    """
    importlib.invalidate_caches()
    for name, home in list(_neighbours.items()):
        top = folder / name.partition(".")[0]
        same_name = top.with_name(f"{top.name}.py").is_file() or top.is_dir()
        if (changed is not None) if home == folder else same_name:
            sys.modules.pop(name, None)
            del _neighbours[name]
    if changed is not None:
        sys.modules.pop(changed, None)


def _lies_in(folder: Path, name: str) -> bool:
    """Whether an imported module was imported from this folder."""
    spec = sys.modules[name].__spec__
    path = folder.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return spec is not None and (path.is_dir() if spec.origin is None else Path(spec.origin) in files)


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Inside, modules are also looked for in `folder`: after Python's own, and before the installed ones.

    No byte code is written: Python would reuse it after a change of the file within the same second.
    """
    before, dont_write_bytecode = list(sys.path), sys.dont_write_bytecode
    standard = [index for index, entry in enumerate(before) if Path(entry) in _STANDARD]
    sys.path.insert(max(standard, default=-1) + 1, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = dont_write_bytecode
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before and entry != str(folder))]
