"""The report of a run, and those of other settings that are kept beside it.

`runs/demo/report` is the last one. A report that was written with other settings, or from other artifacts, stays as
`runs/demo/report-` and its hash; `trimtab runs` says which is which.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.pipeline.decoded import ARTIFACTS, note_artifacts
from trimtab.store.artifacts import Artifact
from trimtab.store.files import replace_folder, write_json, write_text

REPORT = "report"
SETTINGS = "settings.json"
"""The file in a report's folder that holds the settings of its experiment, but those that change no result."""
EXPERIMENT = "experiment.json"
"""The file in a report's folder that holds its whole experiment, which `trimtab serve` reads."""


@contextlib.contextmanager
def report_folder(
    run: Path, experiment: Experiment, artifacts: Mapping[str, Artifact], more: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A folder to fill, which becomes the report of a run or study if the block ends without an exception.

    The report so far stays beside it where it is of another experiment, of other artifacts, or of `more` settings that
    differ; else it is replaced.
    """
    report, partial = run / REPORT, run / f"{REPORT}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    write_json(partial / SETTINGS, {**experiment.hashed(), **(more or {})})
    write_text(partial / EXPERIMENT, [experiment.model_dump_json(exclude_unset=True), "\n"])
    note_artifacts(partial, {step: artifact.folder for step, artifact in artifacts.items()})
    shutil.rmtree(_kept(partial), ignore_errors=True)  # settings that were changed back
    if _kept(report) != _kept(partial):
        _put_aside(report)
    shutil.rmtree(report, ignore_errors=True)
    partial.rename(report)


@contextlib.contextmanager
def preliminary_folder(run: Path, experiment: Experiment) -> Iterator[Path]:
    """A folder to fill with what is known so far, which is the run's report until `report_folder` gives the last one.

    It names no artifacts. A report of an earlier run is put aside.
    """
    with replace_folder(run / REPORT) as folder:
        yield folder
        write_json(folder / SETTINGS, experiment.hashed())
        _put_aside(run / REPORT)


def _put_aside(report: Path) -> None:
    """Keep a report beside the one to come, unless it is preliminary."""
    preliminary = (report / SETTINGS).is_file() and not (report / ARTIFACTS).is_file()
    if report.is_dir() and not preliminary:
        shutil.rmtree(_kept(report), ignore_errors=True)
        report.rename(_kept(report))


def _kept(report: Path) -> Path:
    """Where a report is kept, by the hash of what it is of."""
    made_from = [read_if_any(report / name) for name in (SETTINGS, ARTIFACTS)]
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return report.with_name(f"{REPORT}-{digest}")


def read_if_any(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, as in reports of earlier versions."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
