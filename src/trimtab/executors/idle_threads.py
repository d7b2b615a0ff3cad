"""Limits how long idle OpenMP threads spin.

GNU OpenMP, which torch's builds for Linux include, lets idle threads spin for milliseconds before they sleep. When
other processes are busy, the spinning threads occupy cores that working threads need, and a small operation takes up to
80 times as long (`benchmarks/threads.py`). OpenMP reads its settings when torch is imported: call this before.
"""

import os

SPINS = 3_000
"""Iterations of the waiting loop, some microseconds: waking a thread costs as much."""
SERVER_SPINS = 30_000
"""For a server, which is mostly the busiest process of its machine: none of its threads sleeps within a step."""


def wait_briefly(spins: int = SPINS) -> None:
    """Let idle OpenMP threads of this process and its children sleep after so many turns of their loop.

    Does nothing where the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins))
