"""How long OpenMP's threads wait busily for their next work.

GNU OpenMP, which torch's builds for Linux bring, has idle threads spin for milliseconds before they sleep. Alone that
costs nothing; beside another busy process the spinning threads hold the cores that the working ones need, and a small
operation takes up to 80 times as long (`benchmarks/threads.py`). The library reads its environment when it is loaded,
so this has to come before torch is imported.

    >>> wait_briefly()
"""

import os

SPINS = "1000"
"""Turns of the waiting loop, some microseconds."""


def wait_briefly() -> None:
    """Have OpenMP's threads of this process, and of those that it starts, sleep after some microseconds without work.

    Who has set GOMP_SPINCOUNT or OMP_WAIT_POLICY has decided already.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
