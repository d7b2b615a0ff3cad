"""Registries: the names that an experiment file may use for a loss, a strategy, a reward kind, a value or a column.

All facts about a name hang on its entry, and whoever needs one reads it there. trimtab's own entries and those of
plug-ins are added in the same way.

    >>> from trimtab.plugins.registry import Entry, Registry
    >>> def shout(text):
    ...     return text.upper()
    >>> voices = Registry("voice", arguments=("text",))
    >>> _ = voices.add(Entry(name="loud", function=shout, words="in capital letters"))
    >>> voices["loud"].function("hello")
    'HELLO'
"""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trimtab.errors import ConfigurationError
from trimtab.plugins.user_functions import source_hash

REGISTRIES = {
    "loss": "trimtab.training.losses:LOSSES",
    "strategy": "trimtab.preferences.strategies:STRATEGIES",
    "reward kind": "trimtab.rewards.kinds:REWARD_KINDS",
    "value": "trimtab.search.values:VALUES",
    "column": "trimtab.report.columns:COLUMNS",
}
"""Where each registry lies. The modules hold trimtab's own entries, and import nothing heavy."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one name. Each registry has a subclass with the facts that only its kind has.

    `words` say what it is, as the page and the model card do; `paper` is its source, with the arXiv number; `limits`
    is a sentence about what it cannot do or needs.
    """

    name: str
    function: Callable[..., Any]
    words: str
    paper: str = ""
    limits: str = ""

    @property
    def own(self) -> bool:
        """Whether the entry is trimtab's own."""
        return self.function.__module__.partition(".")[0] == "trimtab"

    @property
    def origin(self) -> str:
        """`module:function`, or `file.py:function` for a plug-in in a file."""
        module = sys.modules.get(self.function.__module__)
        file = getattr(module, "__file__", None) if not self.own else None
        return f"{file or self.function.__module__}:{self.function.__qualname__}"

    def identity(self) -> dict[str, str]:
        """What the results of an entry depend on beyond its name: the hash of a plug-in's code."""
        return {} if self.own else {f"code of {self.name}": source_hash(self.origin)}


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind, by name and in the order in which they were added.

    `noun` is what messages call an entry; its function is called with values for `arguments`, by their places.
    """

    def __init__(self, noun: str, *, arguments: Sequence[str]) -> None:
        self.noun = noun
        self._arguments = tuple(arguments)
        self._entries: dict[str, E] = {}

    def add(self, entry: E) -> E:
        """Add an entry. The same function may be added again: its file has been run anew.

        Raises:
            ConfigurationError: the name is taken or no name, or the function cannot be called with the arguments.
        """
        if not _NAME.fullmatch(entry.name):
            raise ConfigurationError(
                f"the {self.noun} {entry.name!r} has no good name: use letters, digits, dots, hyphens and underscores"
            )
        other = self._entries.get(entry.name)
        if other is not None and other.origin != entry.origin:
            raise ConfigurationError(
                f"two entries are the {self.noun} {entry.name}, {other.origin} and {entry.origin}: rename one"
            )
        try:
            inspect.signature(entry.function).bind(*self._arguments)
        except TypeError:
            raise ConfigurationError(
                f"the {self.noun} {entry.name} has the function {entry.origin}{inspect.signature(entry.function)}, "
                f"which is called with ({', '.join(self._arguments)}): mend its arguments"
            ) from None
        self._entries[entry.name] = entry
        return entry

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(self._entries)}"
            raise ConfigurationError(f"{name!r} is no {self.noun}: {hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def discard(self, name: str) -> None:
        """Forget an entry, if it is there."""
        self._entries.pop(name, None)


def registry(noun: str) -> Registry[Any]:
    """The registry of a kind, such as `loss`, with trimtab's own entries in it."""
    module, _, name = REGISTRIES[noun].partition(":")
    found: Registry[Any] = vars(importlib.import_module(module))[name]
    return found
