"""A process that makes the artifacts, or the parts of them, that its parent orders, one after another.

Orders come as lines of JSON on standard input, what is heard of them goes out as such on standard output. The end of
the input is the end of the parent, however it came: then the process ends at once, and what it was making stays in the
state that a kill leaves, from which the same command goes on. Standard error goes to a log.

    $ python -m trimtab.executors.worker 1 4711 runs/slic-study
"""

import gc
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
from trimtab.executors.messages import Event, Order, Tell, listening
from trimtab.executors.threads import wait_briefly
from trimtab.store.lock import hold_as_worker

ENDED = 0
"""The exit code of a worker whose parent has ended."""


def main() -> None:
    """Work until the parent ends. A fault of ours ends the process, with its traceback in the log."""
    wait_briefly()  # before anything imports torch
    worker, parent, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            print(json.dumps(asdict(event)), file=replies, flush=True)

    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    _log_to_standard_error(tell)
    try:
        with hold_as_worker(folder, worker, parent):
            import trimtab.executors.chosen  # noqa: F401 (while there is nothing else to do)

            while (order := orders.get()) is not None:
                _work(Order(**order), worker, folder, tell)
    except TrimtabError as error:
        sys.exit(f"trimtab: {error}")


def _listen(orders: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        order = json.loads(line)
        orders.put(order)
        if order is None:
            return
    os._exit(ENDED)


def _work(order: Order, worker: int, folder: Path, tell: Tell) -> None:
    import torch

    from trimtab.assets.resolve import Assets
    from trimtab.config.experiment import Experiment
    from trimtab.executors.chosen import Part, decode_share, make_artifact
    from trimtab.store.artifacts import RunDirectory

    torch.set_num_threads(order.threads)
    path_map = None if order.path_map is None else Path(order.path_map)
    try:
        experiment = Experiment.model_validate_json(order.experiment)
        decoders = [experiment.guide.decoder(name) for name in order.decoders]
        assets = Assets(cache=Path(order.cache), path_map=path_map)
        part = Part(experiment, decoders, RunDirectory(folder), assets, listening(order.digest, tell, worker))
        if order.blocks is None:
            make_artifact(order.digest, part, order.beside)
        else:
            decode_share(order.digest, order.blocks, order.beside, part)
    except TrimtabError as error:
        tell(Event(order.digest, "failed", str(error), worker=worker))
    else:
        tell(Event(order.digest, "made", worker=worker))
    gc.collect()  # models know each other in circles, and the next order may want the memory


class _Said(logging.Handler):
    """Tells the parent what the worker's log is warned of."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(Event("", "said", record.getMessage()))


def _log_to_standard_error(tell: Tell) -> None:
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.captureWarnings(True)
    own = logging.getLogger("trimtab")
    own.setLevel(logging.INFO)  # tracebacks of a user's code are no warnings
    own.addHandler(_Said(tell))


if __name__ == "__main__":
    main()
