"""The log of a run, `log.txt`: its steps, warnings and versions, with times. No hash depends on it.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> with recording(folder, Watch(), previous=None):
...     _log.warning("the disk is almost full")
>>> "WARNING the disk is almost full" in (folder / "log.txt").read_text()
True
"""

import contextlib
import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from trimtab.errors import TrimtabError, one_line
from trimtab.store.artifacts import LIBRARIES
from trimtab.store.blocks import Shard
from trimtab.store.lock import Holder, command_line, suffix
from trimtab.store.progress import Stage, Watch, throttled
from trimtab.store.status import write_status
from trimtab.store.stopping import Terminated, stopping

STATUS_SECONDS = 1.0
"""The shortest time between two updates of the status while a stage runs."""
_log = logging.getLogger("trimtab")


@contextlib.contextmanager
def recording(folder: Path, watch: Watch, previous: Holder | None, shard: Shard | None = None) -> Iterator[None]:
    """Keep the log and the status of a run in its folder; `previous` is a process that died in this run."""

    end = ""

    def update_status() -> None:
        write_status(folder, watch, shard, end)

    listeners = [throttled(STATUS_SECONDS, update_status), _log_stage]
    with _logging(folder / f"log{suffix(shard)}.txt", WarningHandler(lambda text: watch.print(f"warning: {text}"))):
        _log.info("start: %s", command_line())
        libraries = ", ".join(f"{name} {version(name)}" for name in ("trimtab", *LIBRARIES))
        _log.info("python %s on %s; %s", platform.python_version(), platform.node(), libraries)
        if previous is not None:
            _log.warning("%s was killed: resuming its run", previous)
        watch.listeners += listeners
        update_status()  # replaces the status of the session before
        try:
            with stopping():
                yield
            _log.info("end")
        except BaseException as error:
            end = _end(error)
            _log.error("%s%s", "" if isinstance(error, TrimtabError) else f"ended by {type(error).__name__}: ", error)
            raise
        finally:
            for listener in listeners:  # the caller's own listeners stay
                watch.listeners.remove(listener)
            update_status()


def _end(error: BaseException) -> str:
    """How a run ended by this error, for its status."""
    if isinstance(error, Terminated):
        return "killed by SIGTERM"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    return f"failed ({one_line(str(error)) or type(error).__name__})"


class WarningHandler(logging.Handler):
    """Passes the text of each warning to a function. Errors are left out: what they end reports them."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._show(record.getMessage())


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk here: the next artifact reports it, without a traceback."""


def _log_stage(stage: Stage) -> None:
    """Log when a stage begins and ends."""
    if stage.in_progress:
        return
    counts = f" ({stage.counts.replace('/', ' of ')})" if stage.total else ""
    seconds = stage.seconds(time.time()) if stage.state in ("made", "stopped") else None
    _log.info("%s: %s%s%s", stage.name, stage.state, "" if seconds is None else f" after {seconds:.1f} s", counts)


@contextlib.contextmanager
def _logging(file: Path, warning_handler: logging.Handler) -> Iterator[None]:
    """Write trimtab's log and Python's warnings to `file`; trimtab's log goes to `warning_handler`, too."""
    handler = _LogFile(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"))
    loggers = [_log, logging.getLogger("py.warnings")]
    levels = [(logger, logger.level, logger.propagate) for logger in loggers]
    showwarning = warnings.showwarning
    logging.captureWarnings(True)
    captured_here = warnings.showwarning is not showwarning  # else the calling program had captured them before
    try:
        for logger in loggers:
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(handler)
        _log.addHandler(warning_handler)
        yield
    finally:
        if captured_here:
            logging.captureWarnings(False)
        _log.removeHandler(warning_handler)
        for logger, level, propagate in levels:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
