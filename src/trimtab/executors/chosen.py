"""One artifact of an experiment, or some blocks of one, made apart from the others: what a worker does.

>>> make_artifact("0123456789ab", Part(experiment, decoders, directory, Assets(), watch))  # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.line import Line, diverging
from trimtab.pipeline.making import Make, Maker, Ready
from trimtab.pipeline.run import enough_memory
from trimtab.pipeline.tuning_line import sampled_splits
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import cut, decode_groups, recorded_plan, sharing_time
from trimtab.store.progress import Watch


@dataclass
class Task:
    """An artifact that runs have in common: `stage` as progress calls it, digests of its inputs, names of its runs.

    `stages` are all names that it goes by: decoders with equal settings share their generations.
    """

    stage: str
    artifact: Artifact
    inputs: tuple[str, ...]
    runs: list[str] = field(default_factory=list)
    name: str = ""
    stages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What these decoders of an experiment need, in a run directory; `watch` is told of what is made of it."""

    experiment: Experiment
    decoders: Sequence[DecoderConfig]
    directory: RunDirectory
    assets: Assets
    watch: Watch

    def line(self, **chosen: Any) -> Line:
        """A line that makes what is `chosen`, as `Chooser` has it, and nothing else."""
        return Line(self.experiment, self.directory, self.assets, self.watch, maker=partial(Chooser, **chosen))


class Chooser(Maker):
    """Makes the artifact of one digest at most, or `blocks` of it, and notes in `found` all that it is asked for, in
    order.

    So whoever asks for the last artifacts of a line is told what they are made of, and two processes that are given
    different digests, or different blocks of one, never write to the same files.
    """

    def __init__(
        self,
        *of_the_line: Any,
        found: dict[str, Task],
        chosen: str | None = None,
        blocks: Sequence[int] | None = None,
        beside: int = 1,
    ) -> None:
        super().__init__(*of_the_line)
        self._found = found
        self._chosen = chosen
        self._blocks = blocks
        self._beside = beside

    @property
    def jobs(self) -> int:
        return self._beside

    def stage(
        self, stage: str, parts: Mapping[str, Any], inputs: Sequence[Artifact], make: Make, label: str | None = None
    ) -> Artifact:
        artifact = self.artifact(stage, parts, inputs)
        task = Task(label or stage, artifact, tuple(each.digest for each in inputs))
        known = self._found.setdefault(artifact.digest, task)
        if task.stage not in known.stages:
            known.stages.append(task.stage)
        if artifact.digest == self._chosen and not artifact.whole:
            return super().stage(stage, parts, inputs, make, label)
        return artifact

    def has_part(self, stage: str, artifact: Artifact) -> bool:
        return self._blocks is not None and artifact.digest == self._chosen

    def decode_part(self, artifact: Artifact, ready: Ready, label: str) -> None:
        assert self._blocks is not None
        plan = recorded_plan(artifact.work)
        assert plan is not None, "whoever shares blocks out has recorded how prompts are cut"
        with self.watch(label) as advance:
            prompts, decode, _ = ready()
            groups = cut(prompts, plan.prompts_a_block)
            share = {number: groups[number] for number in self._blocks}
            decode_groups(artifact.work, share, sharing_time(decode, self._beside), advance)


def make_artifact(digest: str, part: Part, beside: int = 1) -> None:
    """Make the one artifact, of those that the decoders' scores need; its inputs must be there.

    `beside`: number of processes that share this one's device, and so its memory.

    Raises:
        TrimtabError: anything that a user can mend.
    """
    with enough_memory(), quiet_libraries():
        found = artifacts_of(part, digest, beside)
    assert found[digest].artifact.whole, digest


def decode_share(digest: str, blocks: Sequence[int], beside: int, part: Part) -> None:
    """Decode some blocks of an artifact: of the samples to tune on where no decoders are given, else of one of theirs.

    Raises:
        TrimtabError: anything that a user can mend.
    """
    with enough_memory(), quiet_libraries():
        line = part.line(found={}, chosen=digest, blocks=blocks, beside=beside)
        for decoder in part.decoders:
            line.guided(decoder)
        for split in () if part.decoders else sampled_splits(part.experiment):
            line.samples(split)


def artifacts_of(part: Part, chosen: str | None = None, beside: int = 1) -> dict[str, Task]:
    """All that the decoders' scores are made from, by digests, inputs before what is made of them; the `chosen` one is
    made where it is not there."""
    found: dict[str, Task] = {}
    line = part.line(found=found, chosen=chosen, beside=beside)
    for decoder in part.decoders:
        line.evaluated(decoder)
    for decoder in diverging(part.experiment):
        if decoder in part.decoders:
            line.divergence(decoder)
    return found
