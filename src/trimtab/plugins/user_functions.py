"""A user's own function, by name: `module:function` or `file.py:function`.

The code is imported as Python imports it: it is a module in `sys.modules`, so its classes can be pickled, and it can
import its neighbours, the modules in its folder. Modules are also looked for in the working directory.

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
from types import ModuleType
from typing import Any

from trimtab.errors import ConfigurationError
from trimtab.plugins.source_files import sources_hash
from trimtab.plugins.user_errors import one_line_faults

_STUB = """import importlib.util, sys
spec = importlib.util.spec_from_file_location(__name__, {file!r})
sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
"""
_STANDARD = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"), "lib-dynload")}
_imported: dict[str, tuple[str, ModuleType]] = {}
"""The modules that were imported here, by file: the hash of the sources, and the module."""
_neighbours: dict[str, Path] = {}
"""The folder of each module that was imported because one of these modules imports it."""


def named_function(name: str) -> Callable[..., Any]:
    """The function of this name. Its module is run once, and again where its code has changed since.

    Raises:
        ConfigurationError: the module or file does not exist, cannot be imported, or has no such function.
    """
    place, _, attribute = name.rpartition(":")
    function = vars(import_module(place)).get(attribute)
    if not callable(function):
        raise ConfigurationError(f"{name!r}: {place} has no function {attribute}")
    return function


def source_hash(name: str) -> str:
    """The hash of the code of a function, so that a change of the code is noticed; runs none of it.

    It covers the module's file and, of a user's own code, the neighbours that it imports, and what those import.

    Raises:
        ConfigurationError: the module or file does not exist.
    """
    place = name.rpartition(":")[0]
    return _hash(_existing(place), place)


def find_module(place: str) -> ModuleSpec | None:
    """How the module or file at a place (`package.module` or `file.py`) is imported; None where there is none.

    Raises:
        ConfigurationError: the code of a parent package raises an error.
    """
    if place.endswith(".py"):
        file = Path(place).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(_name_of(file), file) if file.is_file() else None
    else:
        with one_line_faults(place), _importing_from(Path.cwd()):
            try:
                spec = importlib.util.find_spec(place)
            except (ImportError, ValueError):  # a parent package that does not exist, or a name such as `..x`
                spec = None
    return None if spec is None or spec.loader is None else spec


def import_module(place: str) -> ModuleType:
    """The module at a place (`package.module` or `file.py`). It is imported anew where one of its files has changed.

    Raises:
        ConfigurationError: it does not exist, or its code raises an error.
    """
    spec = _existing(place)
    digest, is_file = _hash(spec, place), place.endswith(".py")
    known, module = _imported.get(spec.origin or spec.name, ("", None))
    if module is not None and known == digest:
        return module
    if module is None and not is_file and spec.name in sys.modules:  # the program that uses trimtab imported it
        return sys.modules[spec.name]
    folder = Path.cwd() if _is_installed(spec) else _folder(spec, Path(spec.origin or ""))
    _forget_others(folder, None if module is None else spec.name)
    before = set(sys.modules)
    try:
        with one_line_faults(place), _importing_from(folder):
            module = _run(spec) if is_file else importlib.import_module(spec.name)
    finally:
        new = set(sys.modules) - before - {spec.name}
        _neighbours.update({name: folder for name in new if _lies_in(folder, name)})
    if is_file:  # for what a function imports when it is called, and for processes that it starts
        renamed = [] if spec.name == Path(place).stem else [_stub_folder(spec.name, Path(spec.origin or ""))]
        sys.path += [str(path) for path in (folder, *renamed) if str(path) not in sys.path]
    _imported[spec.origin or spec.name] = digest, module
    return module


def _stub_folder(name: str, file: Path) -> Path:
    """A folder from which other processes import a file by a name that is not its own."""
    folder = _temporary_folder()
    (folder / f"{name}.py").write_text(_STUB.format(file=str(file)), encoding="utf-8")
    return folder


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="trimtab-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _existing(place: str) -> ModuleSpec:
    spec = find_module(place)
    if spec is None:
        raise ConfigurationError(
            f"there is no Python module {place} here or installed: give module:function or file.py:function"
        )
    return spec


def _hash(spec: ModuleSpec, place: str) -> str:
    file = Path(spec.origin or "")
    if not file.is_file():
        return place
    alone = _is_installed(spec)
    return sources_hash(file, file.parent if alone else _folder(spec, file), alone=alone)


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is not the user's own code: Python's, an installed package's or trimtab's."""
    file = Path(spec.origin or "")
    named = spec.name.partition(".")[0] in {*sys.stdlib_module_names, "trimtab"}
    return not file.is_file() or named or bool({"site-packages", "dist-packages"} & set(file.parts))


def _folder(spec: ModuleSpec, file: Path) -> Path:
    """The folder that a module's absolute imports start from: for `a.b.c` the one that `a` lies in."""
    return file.parents[spec.name.count(".") + (file.stem == "__init__")]


def _name_of(file: Path) -> str:
    """The name of a file as a module: its stem, with a hash where another module has that name, as Python's may."""
    plain = file.stem.replace(".", "_")
    other = sys.modules.get(plain)
    spec = importlib.util.find_spec(plain) if other is None else other.__spec__
    # a folder without __init__.py has no origin, and leaves its name to a file
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
    """Forget neighbours from other folders whose name is needed in `folder`; where a module has `changed`, it too, and
    all neighbours in its folder."""
    importlib.invalidate_caches()
    for name, home in list(_neighbours.items()):
        top = folder / name.partition(".")[0]
        if changed is not None if home == folder else top.with_name(f"{top.name}.py").is_file() or top.is_dir():
            sys.modules.pop(name, None)
            del _neighbours[name]
    if changed is not None:
        sys.modules.pop(changed, None)


def _lies_in(folder: Path, name: str) -> bool:
    """Whether an imported module is one of a folder's own."""
    spec = sys.modules[name].__spec__
    path = folder.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return spec is not None and (path.is_dir() if spec.origin is None else Path(spec.origin) in files)


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Inside, modules are also looked for in `folder`: after Python's own, and before the installed ones.

    No byte code is written: Python would take it for that of a file that was changed in the same second.
    """
    before, writes_none = list(sys.path), sys.dont_write_bytecode
    standard = [index for index, entry in enumerate(before) if Path(entry) in _STANDARD]
    sys.path.insert(max(standard, default=-1) + 1, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_none
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before and entry != str(folder))]
