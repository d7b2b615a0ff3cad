"""`trimtab runs`: which folder of a run directory is which setting.

$ trimtab runs runs/quickstart
"""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from trimtab.pipeline.contents import Folder


def runs(directory: Annotated[Path, Positional, arg(metavar="DIR")] = Path("runs"), json: bool = False) -> None:
    """Say which folder of a run directory is which setting: what sets folders of one step apart, and which report
    shows them.

    Args:
        directory: A run directory, such as runs/quickstart, or a folder of several.
        json: Print one JSON object instead of a table, with all settings that each folder was made from.
    """
    from trimtab.pipeline.contents import contents, run_directories

    found = {run: contents(run) for run in run_directories(directory)}
    if json:
        listed = {str(run): [asdict(folder) for folder in folders] for run, folders in found.items()}
        print(json_format.dumps(listed, indent=2, ensure_ascii=False))
        return
    for run, folders in found.items():
        _print_run(run, folders)


def _print_run(run: Path, folders: "list[Folder]") -> None:
    """The reports, the folders of steps that have several, and in one line the others."""
    from rich.console import Console

    from trimtab.pipeline.reports import REPORT
    from trimtab.store.text_table import print_rows

    reports = [folder for folder in folders if folder.step == REPORT]
    made = [folder for folder in folders if folder.step != REPORT]
    several = [folder for folder in made if folder.apart]
    print(f"{run}: {len(made)} artifacts, {len(reports)} reports")
    if len(reports) > 1:
        rows = [
            (report.name, "the\N{NO-BREAK SPACE}last" if report.name == REPORT else "kept", report.apart)
            for report in reports
        ]
        print_rows(Console(), ["report", "", "set apart by"], rows)
    if several:
        shown = [(one.name, one.step, one.apart, _reports(one.reports, len(reports))) for one in several]
        print_rows(Console(), ["folder", "step", "set apart by", "in"], shown)
    alone = ", ".join(folder.name for folder in made if not folder.apart)
    Console().print(f"the only ones of their steps: {alone or 'none'}", highlight=False, markup=False, soft_wrap=True)


def _reports(names: list[str], count: int) -> str:
    return "all reports" if count > 1 and len(names) == count else ", ".join(names) or "no report"
