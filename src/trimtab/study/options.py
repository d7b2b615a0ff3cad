"""The options of `trimtab study` beside those that all commands have. Imports nothing heavy."""

from dataclasses import dataclass

from trimtab.executors.options import WorkerOptions


@dataclass(frozen=True)
class StudyOptions(WorkerOptions):
    """How a study is run.

    Args:
        dry_run: Show the cells, and what they share and what is missing; make nothing.
    """

    dry_run: bool = False
