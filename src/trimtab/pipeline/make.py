"""Makes one step, or one block of it, in this process."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trimtab.errors import RunError, TrimtabError
from trimtab.pipeline.decoded import GENERATIONS, SCORES, point
from trimtab.pipeline.reports import report_folder
from trimtab.pipeline.results import show_preliminary
from trimtab.pipeline.step import Decoding, Step
from trimtab.pipeline.workspace import Job, Workspace
from trimtab.plugins.user_errors import fault_in
from trimtab.search.trace import Trace
from trimtab.store.artifacts import Artifact
from trimtab.store.files import link_to
from trimtab.store.progress import Advance, Watch

_log = logging.getLogger(__name__)
Inputs = Mapping[str, Artifact]
"""The artifacts that a step reads, by the names of the steps that made them."""


class StepMaker:
    """Makes steps, or blocks of them, in this process; what is loaded stays in the workspace for the next one."""

    def __init__(self, workspace: Workspace, run: Path) -> None:
        self.workspace = workspace
        self._run = run

    def make(
        self, step: Step, artifact: Artifact, inputs: Inputs, advance: Advance, jobs: int = 1, *, main: bool = True
    ) -> Any:
        """Fill `artifact.partial` with what a step makes that is not decoded in blocks; gives what its function gives.

        Raises:
            TrimtabError: anything that a user can mend.
        """
        with named(step):
            return step.make(
                self._job(step, artifact, inputs, advance, jobs, main=main), **step.parts, **step.execution
            )

    def decoding(
        self, step: Step, artifact: Artifact, inputs: Inputs, jobs: int = 1, trace: Trace | None = None
    ) -> Decoding:
        """What a decoding step works on, its models loaded; each step of a search is told to `trace`."""
        with named(step):
            job = self._job(step, artifact, inputs, lambda done, total: None, jobs, trace)
            decoding: Decoding = step.make(job, **step.parts, **step.execution)
        return decoding

    def _job(
        self,
        step: Step,
        artifact: Artifact,
        inputs: Inputs,
        advance: Advance,
        jobs: int,
        trace: Trace | None = None,
        main: bool = True,
    ) -> Job:
        return Job(
            step=step,
            inputs=inputs,
            workspace=self.workspace,
            folder=artifact.partial,
            work=artifact.work,
            advance=advance,
            run=self._run,
            jobs=jobs,
            observe=None if trace is None else trace.observe,
            main=main,
        )

    def report(self, step: Step, inputs: Inputs, advance: Advance) -> Any:
        """Write the report again. It replaces the earlier one, or is put beside it where that had other settings."""
        with report_folder(self._run, step.execution["experiment"], inputs) as folder, named(step):
            job = Job(step, inputs, self.workspace, folder, folder, advance, self._run)
            return step.make(job, **step.execution)

    def show(self, step: Step, inputs: Inputs, watch: Watch, decoder: str) -> None:
        """Show what the step `report` will say of the decoders that are measured so far, of which one is new."""
        job = Job(step, inputs, self.workspace, self._run, self._run, lambda done, total: None, self._run)
        show_preliminary(job, step.execution["experiment"], watch, decoder)


def link_results(run: Path, step: Step, artifact: Artifact) -> None:
    """Links with fixed names: `tuned` to the tuned model, `decoders/NAME/...` to generations and scores."""
    if step.folder == "tune":
        link_to(run / "tuned", Path(artifact.folder.name) / "model")
    elif step.folder in _LINKED:
        point(run, step.name.partition(" ")[2], _LINKED[step.folder], artifact.folder)


_LINKED: Mapping[str, str] = {"guide": GENERATIONS, "evaluate": SCORES}


@contextlib.contextmanager
def named(step: Step) -> Iterator[None]:
    """Errors in a user's own code, and `sys.exit`, become one line that names the step; faults of trimtab's get the
    step as a note."""
    try:
        yield
    except (TrimtabError, MemoryError, OSError, torch.OutOfMemoryError):
        raise  # of which others say what to do
    except (Exception, SystemExit) as error:
        fault = fault_in(error)
        if not fault.startswith("in ") and isinstance(error, Exception):  # none of a user's code was run
            error.add_note(f"in the step {step.name}")
            raise
        _log.info("the step %s failed", step.name, exc_info=True)
        raise RunError(f"{step.name} failed {fault}: mend it, and the same command goes on") from error
