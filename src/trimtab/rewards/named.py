"""A reward function of the user's own, by name: `module:function` or `file.py:function`.

Modules are looked for in the working directory, too. Runs the module's code, as Python's import does. Knows nothing of
what the function does.

    >>> named_function("math:isfinite")(1.0)
    True
"""

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigurationError


def named_function(name: str) -> Callable[..., Any]:
    """The function that `name` stands for. What its module raises while it is imported is the module's own.

    Raises:
        ConfigurationError: there is no such module or file, it is no Python, or it has no such function.
    """
    place, _, function = name.rpartition(":")
    spec = _spec(place)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _working_directory_first():
            spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigurationError(f"{name!r}: {place} cannot be imported ({error}): mend it") from None
    found = vars(module).get(function)
    if not callable(found):
        raise ConfigurationError(f"{name!r}: {place} has no function {function}")
    return found


def source_hash(name: str) -> str:
    """The sha256 of the file that the function is in, so that what it judged is known by its code; runs nothing.

    Raises:
        ConfigurationError: there is no such module or file.
    """
    place = name.rpartition(":")[0]
    origin = _spec(place).origin
    file = Path(origin) if origin is not None else None
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else place


def _spec(place: str) -> ModuleSpec:
    """Where a module or file lies and how it is loaded."""
    if place.endswith(".py"):
        file = Path(place)
        spec = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
    else:
        try:
            with _working_directory_first():
                spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):  # a parent package that is not there, or a name such as `..x`
            spec = None
    if spec is None or spec.loader is None:
        raise ConfigurationError(
            f"there is no Python module {place} here or installed: give module:function or file.py:function"
        )
    return spec


@contextlib.contextmanager
def _working_directory_first() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
