"""A warmed-up process that forks a `trimtab` command for each request: a test that starts sixty of them pays once.

A forked command is a process of its own: signals kill it as they would kill any other. Nothing is run in this process
itself, so it has no threads that a fork would lose.

    warm = Warm()
    pid = warm.start("run", "quickstart", "--quiet", errors=Path("errors.txt"))
    os.kill(pid, signal.SIGKILL)
    assert warm.wait(pid) == -signal.SIGKILL
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


class Warm:
    """The test's side."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def start(self, *arguments: str, errors: Path, environment: Mapping[str, str] | None = None) -> int:
        """Start a command, whose standard error goes to a file, and return its process id."""
        return self._ask({"arguments": arguments, "errors": str(errors), "environment": dict(environment or {})})

    def call(self, function: str, argument: object, *, errors: Path, environment: Mapping[str, str]) -> int:
        """Start `module:name` of the tests with one argument, which JSON can hold, in the place of a command."""
        return self._ask({"call": function, "of": argument, "errors": str(errors), "environment": dict(environment)})

    def wait(self, pid: int) -> int:
        """The exit code of a command when it has ended; minus the signal's number where a signal killed it."""
        return self._ask({"wait": pid})

    def processor_seconds(self, pid: int) -> float:
        """The processor time of a command that was waited for, and of the processes that it waited for."""
        return self._ask({"seconds": pid}) / 1000

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _ask(self, request: dict[str, object]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


def killed(pid: int, seconds: float) -> list[psutil.Process]:
    """Kill the process after so many seconds of its and its children's processor time, however busy the machine is.

    Gives the children that it had then.
    """
    process = psutil.Process(pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        children = process.children()
        if _processor_seconds(process) + sum(map(_processor_seconds, children)) >= seconds:
            time.sleep(seconds % 0.01)  # those times come in hundredths
            os.kill(pid, signal.SIGKILL)
            return children
        time.sleep(0.002)
    return []


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def serve() -> None:
    """The server's side: a whole number for each request."""
    milliseconds: dict[int, int] = {}
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status, used = os.wait4(request["wait"], 0)
            milliseconds[pid] = round(1000 * (used.ru_utime + used.ru_stime))
            reply = os.waitstatus_to_exitcode(status)
        elif "seconds" in request:
            reply = milliseconds[request["seconds"]]
        else:
            reply = os.fork() or _command(request)
        print(reply, file=replies, flush=True)


def _warm_up() -> None:
    import torch

    import trimtab.cli
    import trimtab.executors.run
    import trimtab.store.status  # noqa: F401
    from trimtab.executors.collector import set_apart

    torch.set_num_threads(1)
    set_apart()  # a collection in a child would copy the pages of all objects


def _command(request: dict[str, Any]) -> int:
    """In the forked child: be the command, and never return."""
    from trimtab import cli

    code = 70  # an error that is no line
    os.dup2(os.open(str(request["errors"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.environ.update(request["environment"])
    sys.argv = ["trimtab", *request.get("arguments", [])]
    try:
        if "call" in request:
            module, _, name = request["call"].partition(":")
            getattr(importlib.import_module(module), name)(request["of"])
        else:
            cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 70
    except BaseException:  # noqa: BLE001 (a child must not go on as a second server)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
