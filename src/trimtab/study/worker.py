"""A process that makes the artifacts that a study tells it to, one after another.

Tasks come as lines of JSON on standard input, what is heard of them goes out as such on standard output. The end of
the input is the end of the study, however it came: then the process ends at once, and what it was making stays in the
state that a kill leaves, from which the study goes on. Standard error goes to a log.

    $ python -m trimtab.study.worker 1 4711 runs/slic-study
"""

import json
import logging
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.experiment_file import parse_experiment
from trimtab.lock import hold_as_worker
from trimtab.study.events import Event, Tell, listening

ENDED = 0
"""The exit code of a worker whose study has ended."""


def main() -> None:
    """Work until the study ends. A fault of ours ends the process, with its traceback in the log."""
    worker, study, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            print(json.dumps(asdict(event)), file=replies, flush=True)

    tasks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    _log_to_standard_error(tell)
    try:
        with hold_as_worker(folder, worker, study):
            while (task := tasks.get()) is not None:
                _work(task, folder, tell)
    except TrimtabError as error:
        sys.exit(f"trimtab: {error}")


def _listen(tasks: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        task = json.loads(line)
        tasks.put(task)
        if task is None:
            return
    os._exit(ENDED)


def _work(task: dict[str, Any], folder: Path, tell: Tell) -> None:
    import torch

    from trimtab.assets.resolve import Assets
    from trimtab.runs import RunDirectory
    from trimtab.study.plan import make_artifact

    digest = task["digest"]
    torch.set_num_threads(task["threads"])
    path_map = None if task["path_map"] is None else Path(task["path_map"])
    try:
        experiment = parse_experiment(task["experiment"], origin=task["run"])
        decoders = [experiment.guide.decoder(name) for name in task["decoders"]]
        assets = Assets(cache=Path(task["cache"]), path_map=path_map)
        make_artifact(digest, experiment, decoders, RunDirectory(folder), assets, listening(digest, tell))
    except TrimtabError as error:
        tell(Event(digest, "failed", str(error)))
    else:
        tell(Event(digest, "made"))


class _Said(logging.Handler):
    """Tells the study what the worker's log is warned of."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(Event("", "said", record.getMessage()))


def _log_to_standard_error(tell: Tell) -> None:
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.captureWarnings(True)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as in `cli`
    logging.getLogger("trimtab").addHandler(_Said(tell))


if __name__ == "__main__":
    main()
