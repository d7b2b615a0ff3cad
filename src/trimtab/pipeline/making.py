"""Makes artifacts: finds them by their hash, makes those that are missing, and shares decoding out in blocks.

Knows nothing of what a stage does: that is a function it is given.

    >>> maker.stage("pairs", {"pairs": config}, [samples], make)                        # doctest: +SKIP
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.config.models import Config, ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.errors import RunError
from trimtab.executors.helpers import Helpers
from trimtab.pipeline.merge import note_shard
from trimtab.records import Prompt
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Decode, Plan, Shard, decode_blocks, merge_blocks
from trimtab.store.distributed import launched
from trimtab.store.progress import Advance, Watch

Make = Callable[[Path, Path, Advance], None]
"""Fills an artifact's folder, given first; the second folder is for what a kill must not lose."""
Ready = Callable[[], tuple[list[Prompt], Decode, int]]
"""Loads what a decoding stage needs, and gives its prompts, what decodes a block of them, and how many a block has
if none has been recorded."""
BEFORE = {"synthesize": "reward", "guide": "tune"}
"""The stages that shards work on, and the stage up to which all must have been made before."""


class Maker:
    """Makes what is missing; with a `shard` of a stage only this share of the stage's blocks, and all else must be
    there. `identity` says which files a model's name stands for. Launched processes make one stage together, `tune`,
    and the main one alone keeps what they make. With `helpers`, what is decoded is shared out among processes."""

    def __init__(
        self,
        directory: RunDirectory,
        watch: Watch,
        seed: int,
        identity: Callable[[ModelConfig | RewardConfig], list[str]],
        shard: tuple[str, Shard] | None,
        helpers: Helpers | None = None,
    ) -> None:
        self.directory = directory
        self.watch = watch
        self.seed = seed
        self.identity = identity
        self.shard = shard
        self.helpers = helpers

    @property
    def keeps(self) -> bool:
        """Whether this process is the one that makes artifacts whole."""
        return self.shard is None and launched().main

    @property
    def jobs(self) -> int:
        """How many processes decode side by side."""
        return 1 if self.helpers is None else self.helpers.jobs

    def artifact(self, stage: str, parts: Mapping[str, Any], inputs: Sequence[Artifact]) -> Artifact:
        """What is made of this configuration, of what its names stand for, and of these inputs.

        The seed is part of it unless `parts` says `"seed": None`, for a stage that is the same under all seeds.
        """
        configuration: dict[str, Any] = {"seed": self.seed}
        for name, part in parts.items():
            configuration[name] = part
            if isinstance(part, Config):
                configuration[name] = part.hashed()
            if isinstance(part, ModelConfig | RewardConfig):
                configuration[f"{name} is"] = self.identity(part)
        return self.directory.artifact(stage, configuration, inputs)

    def stage(
        self,
        stage: str,
        parts: Mapping[str, Any],
        inputs: Sequence[Artifact],
        make: Make,
        label: str | None = None,
    ) -> Artifact:
        """The artifact of a stage, made where it is not there; `label` is what the progress calls it.

        Raises:
            RunError: it is not there, and this is a shard of another stage or a process launched for another one.
        """
        label = label or stage
        artifact = self.artifact(stage, parts, inputs)
        if artifact.whole:
            self.watch.used_again(label)
            if self.keeps:
                self.directory.tidy(artifact)
            return artifact
        if self.shard is not None:
            shared = self.shard[0]
            first = stage if stage == "sft" else BEFORE[shared]
            raise RunError(f"{label} has not been made: run `trimtab {first}` before the shards of {shared}")
        if not launched().alone and stage != "tune":
            raise RunError(
                f"{label} has not been made: run `trimtab pairs` before tune is launched as several processes"
            )
        if not self.keeps:
            make(artifact.partial, artifact.work, lambda done, total: None)
            return artifact
        if self.helpers is not None:
            self.helpers.start()
        with self.directory.writing(artifact) as folder, self.watch(label) as advance:
            make(folder, artifact.work, advance)
        return artifact

    def decoded(
        self,
        stage: str,
        parts: Mapping[str, Any],
        inputs: Sequence[Artifact],
        ready: Ready,
        label: str,
        *,
        alone: bool = False,
    ) -> Artifact:
        """`stage` for what is decoded in blocks of prompts: a shard adds its blocks, and leaves it open. What is to be
        decoded `alone` is by this process, whatever helpers there are."""
        artifact = self.artifact(stage, parts, inputs)

        def make(folder: Path, work: Path, advance: Advance) -> None:
            prompts, decode, size = ready()
            if self.helpers is None or alone:
                decode_blocks(work, prompts, size, decode, advance)
            else:
                self.helpers.decode(artifact, label, prompts, size, decode, advance)
            merge_blocks(work, folder)

        if artifact.whole or not self.has_part(stage, artifact):
            return self.stage(stage, parts, inputs, make, label)
        self.decode_part(artifact, ready, label)
        return artifact

    def has_part(self, stage: str, artifact: Artifact) -> bool:
        """Whether this process is to decode some blocks of the artifact, and to leave it open."""
        return self.shard is not None and self.shard[0] == stage

    def decode_part(self, artifact: Artifact, ready: Ready, label: str) -> None:
        """Decode this process's blocks of it."""
        assert self.shard is not None
        with self.directory.working(artifact, self.shard[1]) as work, self.watch(label) as advance:
            prompts, decode, size = ready()
            note_shard(artifact, label, self.shard[1], Plan.of(len(prompts), size))
            decode_blocks(work, prompts, size, decode, advance, self.shard[1])
