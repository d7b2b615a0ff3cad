"""The exceptions: every mistake that a user can make, as one line that names the value and the remedy.

    TrimtabError
    ├── ConfigurationError
    ├── AssetError ── HashMismatchError, AbsentError
    ├── DataError
    ├── ModelError ── VocabularyError
    ├── EndpointError ── TooLongError
    ├── RunError ── TakenOverError
    └── StudyError

`cli.main` prints the message of any of these and exits with `exit_code`. For its own faults the code uses `assert`.
"""

import datetime
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class TrimtabError(Exception):
    """Base of all errors that a user can mend; its message is one line."""

    exit_code = 2


class ConfigurationError(TrimtabError):
    """An experiment file, an override or an option that cannot be run."""


class AssetError(TrimtabError):
    """A model or data set that cannot be found, read or trusted."""


class HashMismatchError(AssetError):
    """A downloaded file whose sha256 is not the one that the catalogue names."""


class AbsentError(AssetError):
    """A model or data set that is not on this machine yet, where nothing may be downloaded; a run downloads it."""


class DataError(TrimtabError):
    """Reviews, prompts or preference records that cannot be used."""


class ModelError(TrimtabError):
    """A model that cannot be used in the role that it was given."""


class VocabularyError(ModelError):
    """Models that must share one vocabulary, and do not."""


class EndpointError(TrimtabError):
    """A service behind HTTP that does not answer, or not as it should."""


class TooLongError(EndpointError):
    """A server refuses a text as longer than its model's context."""


class RunError(TrimtabError):
    """A run directory that cannot be used."""


class TakenOverError(RunError):
    """Another process writes to the run directory's URL now: this run ends."""


class StudyError(TrimtabError):
    """Cells of a study failed; the others finished, and their report is written."""

    exit_code = 1


def one_line(text: str) -> str:
    """`text` on one line that is safe to print: control characters become their escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.split()))


def shown(value: object, longest: int = 60) -> str:
    """The beginning of a value, up to `longest` characters on one line, for error messages; dates in ISO format.

    >>> shown("5 % of all"), shown([1, 2, 3], longest=4)
    ("'5 % of all'", '[1, ...')
    """
    is_date = isinstance(value, datetime.date | datetime.time | datetime.timedelta)
    text = one_line(str(value) if is_date else repr(value))
    return text if len(text) <= longest else f"{text[:longest]}..."


def check_type(name: str, value: object, kinds: Any, remedy: str) -> None:
    """Raise ConfigurationError where an argument that a user gives is none of these types.

    >>> check_type("search", {"width": 4}, int, "a trimtab.Search")
    Traceback (most recent call last):
    trimtab.errors.ConfigurationError: search is {'width': 4}: give a trimtab.Search
    """
    if not isinstance(value, kinds):
        raise ConfigurationError(f"{name} is {shown(value)}: give {remedy}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigurationError where an argument that a user gives is no whole number, or below `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} is {shown(value)}: give a whole number of at least {least}")


def check_finite(name: str, value: object) -> None:
    """Raise ConfigurationError where an argument that a user gives is no finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigurationError(f"{name} is {shown(value)}: give a number")


def faults_in(error: "ValidationError", whole: str) -> str:
    """All faults that pydantic names, on one line, each with its field and value; `whole` names what was validated."""
    faults = []
    for fault in error.errors(include_url=False):
        field = ".".join(map(str, fault["loc"])) or whole
        value = "missing" if fault["type"] == "missing" else f"{shown(fault['input'])} ({fault['msg']})"
        faults.append(f"{field} is {value}")
    return "; ".join(faults)


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to write in the place of an unknown name: the closest known one, else all of them.

    >>> suggestion("betta", ["beta", "loss"]), suggestion("xyz", ["beta", "loss"])
    ('did you mean beta?', 'known are beta, loss')
    """
    return meant(name, known := list(known), 0.5) or f"known are {', '.join(known)}"


def meant(name: str, known: Iterable[str], likeness: float) -> str:
    """A question for the closest known name; empty where none is as like as `likeness`, between 0 and 1 (`difflib`).

    >>> meant("betta", ["beta", "loss"], 0.6), meant("xyz", ["beta", "loss"], 0.6)
    ('did you mean beta?', '')
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=likeness)
    return f"did you mean {close[0]}?" if close else ""
