"""Python's collector of reference cycles, kept from what it will never find: libraries stay until the process ends.

torch, transformers and what they import make some 600,000 objects. Each whole collection looks at all of them, 0.1 to
0.3 s, and a run needs one after each step, so that a step's models do not stay into the next one's.

>>> with importing():
...     import json
>>> with setting_apart():
...     gc.get_freeze_count() > 0
True
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, libraries are imported without collections, which take a fifth of the time and find next to nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def set_apart() -> None:
    """Have collections pass over all objects that there are now; one that nothing names any more is still freed."""
    gc.collect()  # cycles that nothing reaches would stay
    gc.freeze()


@contextlib.contextmanager
def setting_apart() -> Iterator[None]:
    """Inside, collections pass over all objects that were there before. For a process that is the user's: where it had
    set objects apart itself, they stay so.
    """
    by_user = gc.get_freeze_count() > 0
    set_apart()
    try:
        yield
    finally:
        if not by_user:
            gc.unfreeze()
