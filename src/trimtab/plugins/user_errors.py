"""Errors in a user's own code, as a part of one line: the file, the line number and the message."""

import contextlib
import logging
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from trimtab.errors import ConfigurationError, TrimtabError, one_line

_LIBRARIES = (Path(sysconfig.get_path("stdlib")), Path(__file__).parents[1])
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def one_line_faults(origin: str, remedy: str = "mend it") -> Iterator[None]:
    """Inside, an error of code that is being imported becomes a ConfigurationError; the log has the traceback."""
    try:
        yield
    except TrimtabError as error:  # such as an entry that a registry refuses
        raise ConfigurationError(f"{origin}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        _log.info("%s cannot be imported", origin, exc_info=True)
        raise ConfigurationError(f"{origin} cannot be imported {fault_in(error)}: {remedy}") from error


def fault_in(error: BaseException) -> str:
    """`in FILE, line 7 (ValueError: ...)`: the last line of the user's code that was run, and what was raised.

    Installed packages and Python's own modules are not the user's. Where none of the user's code was run, or the
    message names file and line itself, as a SyntaxError's does, the message stands alone.
    """
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    has_position = bool(lines) and not isinstance(error, SyntaxError)
    position = f"in {lines[-1].filename}, line {lines[-1].lineno} " if has_position else ""
    reason = one_line(str(error))[:200]
    return f"{position}({type(error).__name__}{': ' if reason else ''}{reason})"


def _is_users(file: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return file.is_file() and not installed and not any(file.is_relative_to(folder) for folder in _LIBRARIES)
