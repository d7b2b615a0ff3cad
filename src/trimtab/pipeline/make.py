"""Makes one step at a time: finds its artifact, or makes it, in this process or with the help of others."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from trimtab.config.guide import DecoderConfig
from trimtab.errors import RunError, TrimtabError
from trimtab.evaluation.coverage import too_long
from trimtab.pipeline.decoded import EXPERIMENT, GENERATIONS, SCORES, note_artifacts, point
from trimtab.pipeline.merge import note_shard
from trimtab.pipeline.step import Decoding, Plan, Step
from trimtab.pipeline.traces import missing_traces, trace_blocks, trace_file
from trimtab.pipeline.workspace import Job, Workspace
from trimtab.plugins.user_errors import fault_in
from trimtab.records import Generation, Prompt
from trimtab.search.trace import Trace
from trimtab.store import blocks
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import Decode, Shard
from trimtab.store.files import link_to, replace_folder
from trimtab.store.progress import Advance, Watch

_log = logging.getLogger(__name__)


class Helpers(Protocol):
    """Other processes that decode blocks beside this one; `jobs` counts all of them."""

    jobs: int

    def start(self) -> None:
        """Start them, where they do not run yet."""

    def decode(
        self, artifact: Artifact, label: str, prompts: Sequence[Prompt], size: int, decode: Decode, advance: Advance
    ) -> None:
        """Decode prompts in blocks of `size` into `artifact.work`, where finished blocks may lie already."""


class StepRunner:
    """Makes steps of a plan. What is loaded stays in the workspace for the next step.

    With `traced`, searches of the test prompts leave traces in the run directory. `beside` processes share the machine.
    With `links`, what was made gets names that stay: `tuned`, `decoders/NAME/generations` and `.../scores`.
    """

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        watch: Watch,
        *,
        helpers: Helpers | None = None,
        traced: bool = False,
        beside: int = 1,
        links: bool = True,
    ) -> None:
        self.links = links
        self.plan = plan
        self.workspace = workspace
        self.watch = watch
        self.helpers = helpers
        self.traced = traced
        self.jobs = beside if helpers is None else helpers.jobs

    def make(self, step: Step) -> Any:
        """Make the step's artifact where it is missing; gives what the step's function returned, if it ran.

        Raises:
            TrimtabError: anything that a user can mend; what was made before stays.
        """
        artifact, directory = self.plan.artifacts[step], self.plan.directory
        trace = self._trace(step, artifact) if self.traced else None
        made = None
        if step.stage == "report":
            return self._report(step)
        if artifact.whole:
            self.watch.used_again(step.name)
            directory.tidy(artifact)
        else:
            if self.helpers is not None:
                self.helpers.start()
            with directory.writing(artifact) as folder, self.watch(step.name) as advance, _named(step):
                made = step.make(self._job(step, folder, advance, trace), **step.parts, **step.execution)
                if isinstance(made, Decoding):
                    if self.helpers is not None and trace is None:
                        self.helpers.decode(artifact, step.name, made.prompts, made.block_size, made.decode, advance)
                    else:
                        groups = blocks.planned_blocks(artifact.work, made.prompts, made.block_size)
                        blocks.decode_blocks(artifact.work, groups, made.decode, advance)
                    blocks.merge_blocks(artifact.work, folder)
        if self.links:
            self._link(step, artifact)
        if trace is not None:
            self._complete(trace, step, artifact)
        return made

    def decode_shard(self, step: Step, shard: Shard) -> None:
        """Decode a shard's blocks of a step, which stays open until `merge` or the same command without a shard."""
        artifact = self.plan.artifacts[step]
        if artifact.whole:
            self.watch.used_again(step.name)
            return
        with self.plan.directory.working(artifact, shard) as work, self.watch(step.name) as advance, _named(step):
            decoding = self.decoding(step, advance)
            size = decoding.block_size
            note_shard(artifact, step.name, shard, blocks.Plan.of(len(decoding.prompts), size))
            groups = blocks.cut(decoding.prompts, size)
            share = {number: group for number, group in groups.items() if shard.owns(number)}
            blocks.decode_blocks(work, share, decoding.decode, advance)

    def decode_numbers(self, step: Step, numbers: Sequence[int], beside: int) -> None:
        """Decode blocks by their numbers, beside other processes that decode others of the same step."""
        artifact = self.plan.artifacts[step]
        plan = blocks.recorded_plan(artifact.work)
        assert plan is not None, "whoever shares blocks out has recorded how prompts are cut"
        with self.watch(step.name) as advance, _named(step):
            decoding = self.decoding(step, advance)
            groups = blocks.cut(decoding.prompts, plan.prompts_a_block)
            share = {number: groups[number] for number in numbers}
            blocks.decode_blocks(artifact.work, share, decoding.decode, advance, beside)

    def help_to_tune(self, step: Step) -> None:
        """Take part in a tuning that several processes share; the main one saves the model."""
        artifact = self.plan.artifacts[step]
        if not artifact.whole:
            job = self._job(step, artifact.partial, lambda done, total: None, main=False)
            step.make(job, **step.parts, **step.execution)

    def decoding(self, step: Step, advance: Advance) -> Decoding:
        """What a decoding step works on, its models loaded."""
        decoding: Decoding = step.make(self._job(step, Path(), advance), **step.parts, **step.execution)
        return decoding

    def _job(self, step: Step, folder: Path, advance: Advance, trace: Trace | None = None, main: bool = True) -> Job:
        return Job(
            step=step,
            inputs=self.plan.inputs(step),
            workspace=self.workspace,
            folder=folder,
            work=self.plan.artifacts[step].work,
            advance=advance,
            run=self.plan.directory.path,
            jobs=self.jobs,
            observe=None if trace is None else trace.observe,
            main=main,
        )

    def _report(self, step: Step) -> Any:
        """Write the report again, and replace the earlier one."""
        run = self.plan.directory.path
        with self.watch(step.name) as advance, replace_folder(run / "report") as folder, _named(step):
            made = step.make(self._job(step, folder, advance), **step.execution)
            note_artifacts(folder, {name: artifact.folder for name, artifact in self.plan.inputs(step).items()})
            experiment = step.execution["experiment"].model_dump_json(exclude_unset=True)
            (folder / EXPERIMENT).write_text(f"{experiment}\n", encoding="utf-8")
        return made

    def _link(self, step: Step, artifact: Artifact) -> None:
        """Links with fixed names: `tuned` to the tuned model, `decoders/NAME/...` to generations and scores."""
        run, name = self.plan.directory.path, step.name.partition(" ")[2]
        if step.folder == "tune":
            link_to(run / "tuned", Path(artifact.folder.name) / "model")
        elif step.folder in _LINKED:
            point(run, name, _LINKED[step.folder], artifact.folder)

    def _trace(self, step: Step, artifact: Artifact) -> Trace | None:
        decoder = step.parts.get("decoder")
        if step.folder != "guide" or not isinstance(decoder, DecoderConfig):
            return None
        file = trace_file(self.plan.directory.path, decoder.name, artifact.digest)
        return Trace(file, valued=decoder.guided)

    def _complete(self, trace: Trace, step: Step, artifact: Artifact) -> None:
        """Decode again the prompts that have no trace; prompts that are too long are not searched."""
        generations = artifact.records(Generation)
        excluded = too_long({step.name: generations})
        ids = dict.fromkeys(generation.prompt_id for generation in generations if generation.prompt_id not in excluded)
        if missing := missing_traces(trace, ids):
            job = self._job(step, Path(), lambda done, total: None, trace)
            decoding = step.make(job, **step.parts, **step.execution)
            trace_blocks(missing, decoding, blocks.recorded_plan(artifact.folder))


_LINKED: Mapping[str, str] = {"guide": GENERATIONS, "evaluate": SCORES}


@contextlib.contextmanager
def _named(step: Step) -> Iterator[None]:
    """Errors in a user's own code become one line that names the step; faults of trimtab's get the step as a note."""
    try:
        yield
    except (TrimtabError, MemoryError, OSError, torch.OutOfMemoryError):
        raise  # of which others say what to do
    except Exception as error:
        fault = fault_in(error)
        if not fault.startswith("in "):  # none of a user's code was run
            error.add_note(f"in the step {step.name}")
            raise
        _log.info("the step %s failed", step.name, exc_info=True)
        raise RunError(f"{step.name} failed {fault}: mend it, and the same command goes on") from error
