"""The options of `trimtab study` beside those that all commands have. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run.

    Args:
        jobs: Processes that work side by side: one for each visible GPU if not given.
        threads: Threads of each process; its share of the machine's cores if not given.
        dry_run: Show the cells, and what they share and what is missing; make nothing.
    """

    jobs: int | None = None
    threads: int | None = None
    dry_run: bool = False
