"""What a run writes down of itself in its directory: `log.txt` to read later, `status.json` to look at meanwhile.

The log holds times, stages, warnings and versions; the status how far each stage is. Both hold times and hosts, and
take no part in any hash. Knows nothing of what the stages do.

    >>> with keeping(Path("runs/demo"), watch, previous=None):                          # doctest: +SKIP
    ...     run_the_stages(watch)
"""

import contextlib
import json
import logging
import platform
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from trimtab.errors import RunError, TrimtabError
from trimtab.store.artifacts import LIBRARIES
from trimtab.store.blocks import Shard
from trimtab.store.files import write_text
from trimtab.store.lock import LOCK, Holder, command_line, holder_of, suffix
from trimtab.store.progress import Stage, Watch

STATUS_SECONDS = 1.0
"""The status is written at most so often, besides wherever a stage begins or ends."""
_log = logging.getLogger("trimtab")


@dataclass(frozen=True)
class Status:
    """What is known of a run from outside: its stages, and the process that works on it or died doing so."""

    shard: str | None
    updated: float
    stages: list[Stage]
    holder: Holder | None


@contextlib.contextmanager
def keeping(folder: Path, watch: Watch, previous: Holder | None, shard: Shard | None = None) -> Iterator[None]:
    """Inside, keep the log and the status of what `watch` is told; `previous` is a process that died in this run."""
    status = _StatusFile(folder / f"status{suffix(shard)}.json", watch, shard)
    with _logging(folder / f"log{suffix(shard)}.txt", _Said(watch)):
        _log.info("begins: %s", command_line())
        libraries = ", ".join(f"{name} {version(name)}" for name in ("trimtab", *LIBRARIES))
        _log.info("python %s on %s; %s", platform.python_version(), platform.node(), libraries)
        if previous is not None:
            _log.warning("%s did not end in order: this run goes on where it was", previous)
        own = [status.tell, _log_stage]
        watch.listeners += own
        status.write()  # the last session's is no news of this one
        try:
            yield
            _log.info("ends")
        except TrimtabError as error:
            _log.error("%s", error)
            raise
        except BaseException as error:
            _log.error("ends by %s: %s", type(error).__name__, error)
            raise
        finally:
            for listener in own:  # others listen to this watch before and after a run
                watch.listeners.remove(listener)
            status.write()


def read_statuses(folder: Path) -> list[Status]:
    """The status of the plain run and of each shard, where there is one.

    Raises:
        RunError: a status cannot be read.
    """
    found = []
    for file in sorted(folder.glob("status*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            stages = [Stage(**stage) for stage in values["stages"]]
        except (ValueError, TypeError, KeyError):
            raise RunError(f"{file} cannot be read: delete it, the next run writes it anew") from None
        lock = folder / f"{LOCK}{file.stem.removeprefix('status')}"
        found.append(Status(values["shard"], values["updated"], stages, holder_of(lock)))
    return found


def _log_stage(stage: Stage) -> None:
    """Log where a stage begins and ends; what is done between them is the status's."""
    if stage.reports and stage.state == "runs":
        return
    counts = f" ({stage.done} of {stage.total})" if stage.total else ""
    taken = stage.seconds(time.time()) if stage.state in ("made", "stopped") else None
    _log.info("%s: %s%s%s", stage.name, stage.state, "" if taken is None else f" after {taken:.1f} s", counts)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk stops the run where it matters, and not here with a traceback."""


class _StatusFile:
    def __init__(self, path: Path, watch: Watch, shard: Shard | None) -> None:
        self._path, self._watch, self._shard = path, watch, shard
        self._written = 0.0

    def tell(self, stage: Stage) -> None:
        between = stage.reports and stage.state == "runs"
        if not between or time.monotonic() - self._written >= STATUS_SECONDS:
            self.write()

    def write(self) -> None:
        stages = [{k: v for k, v in asdict(stage).items() if k != "reports"} for stage in self._watch.stages.values()]
        shard = None if self._shard is None else str(self._shard)
        values = {"shard": shard, "updated": time.time(), "stages": stages}
        # a full disk stops the run where it matters; here it would only hide what has stopped it
        with contextlib.suppress(RunError):
            write_text(self._path, [json.dumps(values, indent=1) + "\n"], lasting=False)
        self._written = time.monotonic()


class _Said(logging.Handler):
    """Tells those who watch what they are warned of."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # an error ends the run, and is told there
            self._watch.say(f"warning: {record.getMessage()}")


@contextlib.contextmanager
def _logging(file: Path, said: logging.Handler) -> Iterator[None]:
    """Inside, trimtab's own log and all warnings of Python go to `file`, the former's warnings also to `said`."""
    handler = _LogFile(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"))
    loggers = [_log, logging.getLogger("py.warnings")]
    levels = [(logger, logger.level, logger.propagate) for logger in loggers]
    shown_by = warnings.showwarning
    logging.captureWarnings(True)
    captures = warnings.showwarning is not shown_by  # else the program around this one has captured them before
    try:
        for logger in loggers:
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(handler)
        _log.addHandler(said)
        yield
    finally:
        if captures:
            logging.captureWarnings(False)
        _log.removeHandler(said)
        for logger, level, propagate in levels:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
