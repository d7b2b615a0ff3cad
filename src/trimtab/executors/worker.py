"""A process that makes the artifacts, or the parts of them, that its parent orders, one after another.

Orders come as lines of JSON on standard input, what is heard of them goes out as such on standard output. The end of
the input is the end of the parent, however it came: then the process ends at once, and what it was making stays in the
state that a kill leaves, from which the same command goes on. Standard error goes to a log.

    $ python -m trimtab.executors.worker 1 4711 runs/slic-study
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
from trimtab.executors.messages import Event, Order, Tell
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
            from trimtab.executors.in_process import InProcess  # while there is nothing else to do

            executor = InProcess(folder, worker)
            while (order := orders.get()) is not None:
                executor.take(Order(**order))
                executor.wait(tell)
    except TrimtabError as error:
        sys.exit(f"trimtab: {error}")


def _listen(orders: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        order = json.loads(line)
        orders.put(order)
        if order is None:
            return
    os._exit(ENDED)


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
