"""A worker process: reads tasks from standard input and runs them one after another.

Tasks arrive and messages leave as lines of JSON, on standard input and output; standard error is a log. When standard
input ends, the parent has died, and the worker exits at once: as after a kill, the same command resumes its task.

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
from trimtab.executors.messages import Message, Task
from trimtab.executors.threads import wait_briefly
from trimtab.store.lock import worker_lock
from trimtab.store.log import WarningHandler

ORPHANED = 0
"""The exit code of a worker whose parent has died."""


def main() -> None:
    """Run tasks until the parent sends None or dies. An unexpected error ends the process with a traceback."""
    wait_briefly()  # before anything imports torch
    worker, parent, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            print(json.dumps(asdict(message)), file=output, flush=True)

    tasks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    log = logging.getLogger("trimtab")
    log.setLevel(logging.INFO)  # includes tracebacks of a user's code
    log.addHandler(WarningHandler(lambda text: send(Message("", "warning", text))))
    try:
        with worker_lock(folder, worker, parent):
            from trimtab.executors.in_process import InProcess  # imports torch while the worker is idle

            executor = InProcess(folder, worker)
            while (task := tasks.get()) is not None:
                executor.submit(Task(**task))
                executor.wait(send)
    except TrimtabError as error:
        sys.exit(f"trimtab: {error}")


def _read(tasks: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        task = json.loads(line)
        tasks.put(task)
        if task is None:
            return
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
