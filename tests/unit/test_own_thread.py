"""Threads that compute in turns: none leaves helpers behind, which would slow down the next one."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from trimtab.models.own_thread import in_own_thread

COUNTED = """
import os, time, torch
from trimtab.models.own_thread import in_own_thread

def threads():
    return len(os.listdir("/proc/self/task"))

def compute():
    torch.randn(1 << 20).exp_()
    return threads()

before = threads()
within = in_own_thread(compute)
end = time.monotonic() + 20
while threads() > before and time.monotonic() < end:  # they end after it, in their own time
    time.sleep(0.01)
after = threads()
print(before, within, after)
"""


def test_its_result_and_its_error_are_the_callers() -> None:
    assert in_own_thread(lambda: threading.current_thread().name) != threading.current_thread().name
    with pytest.raises(ZeroDivisionError):
        in_own_thread(lambda: 1 // 0)


def test_ctrl_c_stops_what_it_does() -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless() -> None:
        begun.set()
        try:
            for _ in range(6000):
                time.sleep(0.01)
        finally:
            ended.set()

    def interrupt() -> None:
        assert begun.wait(60)
        time.sleep(0.2)  # until the main thread waits for it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a library may have put its own there
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            in_own_thread(endless)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()


def test_helpers_of_its_operations_end_with_it() -> None:
    """In a process of its own, where no other thread has computed."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
        env={"OMP_NUM_THREADS": "2", "PATH": ""},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, within, after = map(int, done.stdout.split())
    assert within >= before + 2 and after == before
