"""The exception tree: every mistake a user can make, as one line that names the value and the remedy.

    TrimtabError
    ├── ConfigurationError     an experiment file, override or option that cannot be run
    ├── AssetError             a model or data set that cannot be found, read or trusted
    │   └── HashMismatchError  a downloaded file that is not the one the catalogue names
    ├── DataError              reviews, prompts or preference records that cannot be used
    ├── ModelError             a model that cannot play the role it was given
    │   └── VocabularyError    models that would have to share a vocabulary and do not
    ├── EndpointError          a service behind HTTP that does not answer as it should
    │   └── TooLongError       a server that refuses a text as longer than its model's context
    ├── RunError               a run directory that cannot be used
    └── StudyError             cells of a study that failed, while the others finished

`cli.main` prints the message of any of these and exits with `exit_code`. Code never raises them for its own faults:
those are `assert`s.

    >>> str(ConfigurationError("width is 0: give a width of at least 1"))
    'width is 0: give a width of at least 1'
"""

import datetime


class TrimtabError(Exception):
    """Base of all errors that a user can mend; its message is one line."""

    exit_code = 2


class ConfigurationError(TrimtabError):
    """An experiment file, an override or an option that cannot be run."""


class AssetError(TrimtabError):
    """A model or data set that cannot be found, read or trusted."""


class HashMismatchError(AssetError):
    """A downloaded file whose sha256 is not the one that the catalogue names."""


class DataError(TrimtabError):
    """Reviews, prompts or preference records that cannot be used."""


class ModelError(TrimtabError):
    """A model that cannot play the role it was given."""


class VocabularyError(ModelError):
    """Models that would have to share one vocabulary and do not."""


class EndpointError(TrimtabError):
    """A service behind HTTP that does not answer, or not as it should."""


class TooLongError(EndpointError):
    """A server refuses a text as longer than its model's context."""


class RunError(TrimtabError):
    """A run directory that cannot be used."""


class StudyError(TrimtabError):
    """Cells of a study failed; the others finished, and their report is written."""

    exit_code = 1


def one_line(text: str) -> str:
    """`text` as a terminal may be shown it: one line, control characters as their escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split()))


def shown(value: object, longest: int = 60) -> str:
    """The beginning of a value on one line, as messages repeat it: up to `longest` characters; a date as it is written.

    >>> shown("5 % of all"), shown([1, 2, 3], longest=4)
    ("'5 % of all'", '[1, ...')
    """
    written = isinstance(value, datetime.date | datetime.time | datetime.timedelta)
    text = one_line(str(value) if written else repr(value))
    return text if len(text) <= longest else f"{text[:longest]}..."
