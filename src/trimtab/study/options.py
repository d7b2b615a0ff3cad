"""What `trimtab study` is told besides which study: how it is made.

Imports nothing heavy.

    >>> StudyOptions(jobs=2).threads is None
    True
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StudyOptions:
    """How a study is made.

    Args:
        jobs: Processes that work side by side: one for each visible GPU if not given.
        threads: Threads of each process; its share of the machine's cores if not given.
        dry_run: Show the cells, and what they share and what is missing; make nothing.
    """

    jobs: int | None = None
    threads: int | None = None
    dry_run: bool = False
