"""Threads that compute in turns, each as fast as the process' only one.

torch's OpenMP (GNU) gives every thread that computes helpers of its own, and keeps them until that thread ends. Once
there are more of them than processors, a helper is put to sleep after each operation and woken at the next, instead of
waiting for it: on two processors, a second thread's forward passes then take 1.6 times as long.

>>> in_own_thread(lambda: 2 + 2)
4
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from typing import TypeVar

Result = TypeVar("Result")


def in_own_thread(call: Callable[[], Result]) -> Result:
    """The result of a call in a thread that ends with it, and the helpers of its operations with the thread.

    Raises:
        What `call` raises. Ctrl-C stops the call as it would in the caller's thread.
    """
    future: Future[Result] = Future()
    thread = own_thread(call, future)
    try:
        thread.start()
        wait([future])  # an interrupted join would take the thread for ended
    except KeyboardInterrupt as stop:
        if thread.ident is None:  # it has not begun
            raise
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(type(stop)))
        wait([future])
        raise
    thread.join()
    return future.result()


def own_thread(call: Callable[[], Result], future: "Future[Result]", name: str = "trimtab-own") -> threading.Thread:
    """A thread, to be started, that ends with a call. `future` gets what comes of it, unless it has been given up.

    A process that ends, as by a second Ctrl-C, does not wait for it.
    """

    def run() -> None:
        with contextlib.suppress(InvalidStateError):  # it is given up
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 (the caller gets it)
                future.set_exception(error)

    return threading.Thread(target=run, name=name, daemon=True)
