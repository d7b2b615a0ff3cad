"""A reward function of the user's own, by name: `module:function` or `file.py:function`.

The code is imported as Python imports it: it is a module in `sys.modules`, so its classes can be pickled, and it can
import its neighbours. Modules are looked for in the working directory, too.

    >>> named_function("math:isfinite")(1.0)
    True
"""

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.errors import ConfigurationError, TrimtabError
from trimtab.plugins.source_files import sources_hash
from trimtab.plugins.user_errors import fault_in

_log = logging.getLogger(__name__)
_STANDARD = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"), "lib-dynload")}
_imported: dict[str, tuple[str, ModuleType]] = {}
"""What `named_function` has imported, by its file: the hash of the sources, and the module."""
_neighbours: dict[Path, set[str]] = {}
"""Names of the modules that were imported from a folder because a module of a user's imports them."""


def named_function(name: str) -> Callable[..., Any]:
    """The function that `name` stands for. Its code is run once, and again where it has changed since.

    Raises:
        ConfigurationError: there is no such module or file, its code cannot be imported, or it has no such function.
    """
    place, _, function = name.rpartition(":")
    found = vars(import_module(place)).get(function)
    if not callable(found):
        raise ConfigurationError(f"{name!r}: {place} has no function {function}")
    return found


def source_hash(name: str) -> str:
    """The hash of the code that a function is in, so that what it judged is known by its code; runs nothing of it.

    It covers the file and, where they lie beside it, the modules that it imports, and what those import.

    Raises:
        ConfigurationError: there is no such module or file.
    """
    place = name.rpartition(":")[0]
    return _hash(_spec(place), place)


def _hash(spec: ModuleSpec, place: str) -> str:
    file = Path(spec.origin) if spec.origin is not None else None
    if file is None or not file.is_file():
        return place
    # of an installed package only the file counts
    return sources_hash(file, file.parent if _is_installed(spec) else _folder(spec, file), alone=_is_installed(spec))


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is no code of the user's own: Python's, an installed package's or ours."""
    file = Path(spec.origin or "")
    named = spec.name.partition(".")[0] in {*sys.stdlib_module_names, "trimtab"}
    return not file.is_file() or named or bool({"site-packages", "dist-packages"} & set(file.parts))


def _folder(spec: ModuleSpec, file: Path) -> Path:
    """The folder that a module's absolute imports start from: for `a.b.c` the one that `a` lies in."""
    return file.parents[spec.name.count(".") + (file.stem == "__init__")]


def _spec(place: str) -> ModuleSpec:
    """Where a module or file lies and how it is loaded."""
    if place.endswith(".py"):
        file = Path(place).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(_name_of(file), file) if file.is_file() else None
    else:
        try:
            with _importing_from(Path.cwd()):
                spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):  # a parent package that is not there, or a name such as `..x`
            spec = None
        except (Exception, SystemExit) as error:  # whatever the code of a parent package raises
            raise _broken(place, error) from error
    if spec is None or spec.loader is None:
        raise ConfigurationError(
            f"there is no Python module {place} here or installed: give module:function or file.py:function"
        )
    return spec


def _name_of(file: Path) -> str:
    """What a file is called as a module: its own name, unless another module has it, as one of Python's own may."""
    plain = file.stem.replace(".", "_")
    taken = sys.modules.get(plain)
    spec = importlib.util.find_spec(plain) if taken is None else taken.__spec__
    # a folder without __init__.py has no origin, and leaves its name to a file
    free = taken is None if spec is None else spec.origin in (None, str(file))
    return plain if free else f"{plain}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def import_module(place: str) -> ModuleType:
    """The module at a place (`package.module` or `file.py`), imported unless it was and its files are unchanged.

    Raises:
        ConfigurationError: there is none, or its code cannot be imported.
    """
    spec = _spec(place)
    digest, is_file = _hash(spec, place), place.endswith(".py")
    known, module = _imported.get(spec.origin or spec.name, ("", None))
    if module is not None and known == digest:
        return module
    if module is None and not is_file and spec.name in sys.modules:  # imported by somebody else
        return sys.modules[spec.name]
    folder = Path.cwd() if _is_installed(spec) else _folder(spec, Path(spec.origin or ""))
    _make_way(folder, None if module is None else spec.name)
    before = set(sys.modules)
    try:
        with _importing_from(folder):
            module = _run(spec) if is_file else importlib.import_module(spec.name)
    except TrimtabError as error:  # an entry of a plug-in that no registry takes
        raise ConfigurationError(f"{place}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise _broken(place, error) from error
    finally:
        came = {name for name in set(sys.modules) - before - {spec.name} if _lies_in(folder, name)}
        _neighbours.setdefault(folder, set()).update(came)
    if is_file and str(folder) not in sys.path:
        sys.path.append(str(folder))  # for what a function imports when it is called, and for processes that it starts
    _imported[spec.origin or spec.name] = digest, module
    return module


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


def _make_way(folder: Path, changed: str | None) -> None:
    """Forget modules of other folders that have a namesake in this one, and all of this one where one has `changed`."""
    importlib.invalidate_caches()
    for other, names in _neighbours.items():
        for name in list(names):
            top = folder / name.partition(".")[0]
            namesake = top.with_name(f"{top.name}.py").is_file() or top.is_dir()
            if changed is not None if other == folder else namesake:
                sys.modules.pop(name, None)
                names.discard(name)
    if changed is not None:
        sys.modules.pop(changed, None)


def _lies_in(folder: Path, name: str) -> bool:
    """Whether an imported module is one of a folder's own."""
    module = sys.modules[name]
    spec = module.__spec__ if isinstance(module, ModuleType) else None
    path = folder.joinpath(*name.split("."))
    own = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return spec is not None and (path.is_dir() if spec.origin is None else Path(spec.origin) in own)


def _broken(place: str, error: BaseException) -> ConfigurationError:
    _log.info("%s cannot be imported", place, exc_info=True)
    return ConfigurationError(f"{place} cannot be imported {fault_in(error)}: mend it")


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Inside, modules are looked for in `folder`, too: behind Python's own, and before the installed ones.

    No byte code is written: Python takes it for a file's that was changed in the same second.
    """
    before, writes_none = list(sys.path), sys.dont_write_bytecode
    standard = [number for number, entry in enumerate(before) if Path(entry) in _STANDARD]
    sys.path.insert(max(standard, default=-1) + 1, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_none
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before and entry != str(folder))]
