"""Registries: the names that an experiment file may use for a loss, a strategy, a reward kind, a value or a column.

An entry carries all facts about its name. Plug-ins add entries in the same way as trimtab does.

    >>> def shout(text):
    ...     return text.upper()
    >>> voices = Registry("voice", arguments=("text",))
    >>> _ = voices.add(Entry(name="loud", function=shout, words="in capital letters"))
    >>> voices["loud"].function("hello")
    'HELLO'
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from trimtab.errors import ConfigurationError, shown, suggestion
from trimtab.plugins.user_functions import find_module, source_hash

REGISTRIES = {
    "loss": "trimtab.training.losses:LOSSES",
    "strategy": "trimtab.preferences.strategies:STRATEGIES",
    "reward kind": "trimtab.rewards.kinds:REWARD_KINDS",
    "value": "trimtab.search.values:VALUES",
    "column": "trimtab.report.columns:COLUMNS",
}
"""The module of each registry. It holds trimtab's own entries, and imports nothing heavy."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The facts about one name. Each registry has a subclass with the facts that only its kind has.

    words: what it is, for the report's page and the model card.
    paper: its source, with the arXiv number.
    limits: a sentence about what it cannot do or needs.
    also: other names for it in use, in small letters; they are not taken, and answered with its name.
    """

    name: str
    function: Callable[..., Any]
    words: str
    paper: str = ""
    limits: str = ""
    also: Sequence[str] = ()

    @property
    def own(self) -> bool:
        """Whether the entry is trimtab's own."""
        return self.function.__module__.partition(".")[0] == "trimtab"

    @property
    def origin(self) -> str:
        """`module:function`, or `file.py:function` for a plug-in in a file."""
        module = sys.modules.get(self.function.__module__)
        file = None if self.own or module is None else vars(module).get("__file__")
        return f"{file or self.function.__module__}:{self.function.__qualname__}"

    def identity(self) -> dict[str, str]:
        """What the results of an entry depend on beyond its name: the hash of a plug-in's code.

        Raises:
            ConfigurationError: the plug-in's file was deleted.
        """
        if self.own:
            return {}
        location = self.origin.rpartition(":")[0]
        if find_module(location) is None:
            raise ConfigurationError(f"the plug-in {location}, which adds {self.name}, is gone: put it back")
        return {f"code of {self.name}": source_hash(self.origin)}


E = TypeVar("E", bound=Entry)


class Registry(dict[str, E]):
    """The entries of one kind, by name and in the order in which they were added.

    `noun` is what messages call an entry. Its function is called with values for `arguments`, by position.
    """

    def __init__(self, noun: str, *, arguments: Sequence[str]) -> None:
        super().__init__()
        self.noun = noun
        self._arguments = tuple(arguments)

    def add(self, entry: E) -> E:
        """Add an entry. The same function may be added again, as when its file is imported again after a change.

        Raises:
            ConfigurationError: the name is taken or no name, or the function cannot be called with the arguments.
        """
        title = f"the {self.noun} {shown(entry.name)}"
        if not isinstance(entry.name, str) or not _NAME.fullmatch(entry.name):
            raise ConfigurationError(f"{title} has no good name: use letters, digits, dots, hyphens and underscores")
        if not isinstance(entry.function, FunctionType | type):
            raise ConfigurationError(f"{title} has as function {shown(entry.function)}: give a function made by def")
        other = self.get(entry.name)
        if other is not None and other.origin != entry.origin:
            raise ConfigurationError(
                f"two entries are the {self.noun} {entry.name}, {other.origin} and {entry.origin}: rename one"
            )
        signature = inspect.signature(entry.function)
        try:
            signature.bind(*self._arguments)
        except TypeError:
            raise ConfigurationError(
                f"the {self.noun} {entry.name} has the function {entry.origin}{signature}, which is called with "
                f"({', '.join(self._arguments)}): mend its arguments"
            ) from None
        self[entry.name] = entry
        return entry

    def __missing__(self, name: str) -> E:
        for entry in self.values():
            if str(name).lower() in entry.also:
                raise ConfigurationError(f"{name!r} is no {self.noun}: write {entry.name} for {entry.words}")
        raise ConfigurationError(f"{name!r} is no {self.noun}: {suggestion(name, self)}")

    def discard(self, name: str) -> None:
        """Remove an entry, if there is one of this name."""
        self.pop(name, None)


def registry(noun: str) -> Registry[Any]:
    """The registry of a kind, such as `loss`, with trimtab's own entries in it."""
    module, _, name = REGISTRIES[noun].partition(":")
    entries: Registry[Any] = vars(importlib.import_module(module))[name]
    return entries
