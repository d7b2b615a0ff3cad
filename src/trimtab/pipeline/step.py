"""A step: what it makes, from what, and what its bytes depend on. Pure data; nothing is made or loaded here.

>>> first = Step("data", make=lambda job, seed: None, parts={"seed": 0})
>>> second = Step("reward", make=lambda job: None, needs=(first,))
>>> [step.name for step in with_needs([second])]
['data', 'reward']
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.config.models import Config, ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.models.hardware import dtype_for
from trimtab.plugins.registry import registry
from trimtab.plugins.user_functions import source_hash
from trimtab.records import Prompt
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Block, Decode

if TYPE_CHECKING:
    from trimtab.pipeline.need import Need


@dataclass(frozen=True)
class Decoding:
    """What a decoding step works on: its prompts, what decodes a block of them, how many prompts a block has, and what
    is done to a block that was decoded."""

    prompts: Sequence[Prompt]
    decode: Decode
    block_size: int
    finish: Callable[[Block], Block] | None = None


Make = Callable[..., Any]
"""Called as make(job, **parts, **execution): fills `job.folder`, and sees nothing else of the configuration.

The function of a decoding step gives a `Decoding`, whose blocks are then decoded.
"""


@dataclass(frozen=True)
class Code:
    """Code that a step runs besides trimtab's: a function as `module:name`, or an entry of a registry by its name."""

    name: str
    registry: str | None = None

    def identity(self) -> dict[str, str]:
        """The hash of the code under a name; nothing for trimtab's own entries."""
        if self.registry is None:
            return {f"code of {self.name}": source_hash(self.name)}
        return registry(self.registry)[self.name].identity()


@dataclass(frozen=True)
class DatasetName:
    """The name of a data set whose files a step reads."""

    name: str


@dataclass(frozen=True, eq=False)
class Step:
    """A node of the list of steps.

    Args:
        stage: the command that runs up to this step.
        name: what progress calls it; unique in a list.
        folder: what its artifact's folder begins with.
        make: fills the artifact.
        parts: parts of the configuration that its bytes depend on, by the names of `make`'s parameters: configurations,
            data set names and plain values. Beside the inputs they are the whole identity of the step.
        execution: values that `make` takes and that change no byte of the result: where a checkpoint goes, how many
            rows are decoded at once.
        code: code of the user's that it runs.
        needs: the steps whose artifacts it reads, in a fixed order.
        decodes: whether it decodes prompts in blocks, so that processes and machines can share it.
        memory: estimates what it takes of the device's memory.
        flops: estimates its forward and backward FLOPs.
    """

    stage: str
    make: Make
    name: str = ""
    folder: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[Code, ...] = ()
    needs: tuple["Step", ...] = ()
    decodes: bool = False
    memory: "Callable[[Assets, int], Need] | None" = None
    flops: Callable[[Assets], float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.stage)
        object.__setattr__(self, "folder", self.folder or self.stage)

    def need(self, stage: str) -> "Step | None":
        """The first of its needs of this stage."""
        return next((step for step in self.needs if step.stage == stage), None)


def with_needs(steps: Iterable[Step]) -> list[Step]:
    """The steps and all that they are made from, directly or not, each after what it needs."""
    ordered: dict[Step, None] = {}

    def visit(step: Step) -> None:
        if step not in ordered:
            for need in step.needs:
                visit(need)
            ordered[step] = None

    for step in steps:
        visit(step)
    return list(ordered)


class Identities:
    """The identities of steps: plain values of their parts, and hashes of the files that names in them stand for.

    Each name is resolved once.
    """

    def __init__(self, assets: Assets) -> None:
        self._files = cache(lambda part: files_of(part, assets))

    def of(self, step: Step) -> dict[str, Any]:
        """What the step's bytes depend on beyond its inputs, as JSON values.

        Raises:
            AssetError: a name resolves to nothing that may be read.
        """
        content: dict[str, Any] = {}
        for name, part in step.parts.items():
            content[name] = _plain(part)
            if files := self._files(part) if isinstance(part, Config | DatasetName) else []:
                content[f"{name} is"] = files
        for code in step.code:
            content |= code.identity()
        return content


def _plain(part: Any) -> Any:
    """A part as JSON values: a configuration by its hashed fields, a data set by its name, plain values as they are."""
    if isinstance(part, Config):
        return part.hashed()
    return part.name if isinstance(part, DatasetName) else part


def files_of(part: Config | DatasetName, assets: Assets) -> list[str]:
    """Hashes of the files that the names in a part stand for, and the element type that a model computes in.

    Raises:
        AssetError: a name resolves to nothing that may be read.
    """
    if isinstance(part, DatasetName):
        return [assets.identity(assets.dataset(part.name))]
    if isinstance(part, DataConfig):
        from trimtab.data.parts import data_identity

        return [f"{name} {digest}" for name, digest in data_identity(part, assets).items()]
    if isinstance(part, RewardConfig):
        return _reward_files(part, assets)
    return _model_files(part, assets) if isinstance(part, ModelConfig) else []


def _reward_files(reward: RewardConfig, assets: Assets) -> list[str]:
    if reward.function is not None:
        return [source_hash(reward.function)]
    if reward.address is not None:
        return [reward.address]
    reads = reward.entry.reads
    hashes = []
    if "model" in reads:
        hashes.append(assets.identity(assets.model(reward.model, allow_pickle=reward.allow_pickle)))
    if reward.tokenizer is not None:
        hashes.append(assets.identity(assets.tokenizer(reward.tokenizer)))
    return [*hashes, dtype_for(reward.dtype)] if "dtype" in reads and reward.dtype == "auto" else hashes


def _model_files(model: ModelConfig, assets: Assets) -> list[str]:
    if model.endpoint is not None:
        return []  # what a server holds cannot be seen from here
    hashes = [assets.identity(assets.model(model.name, allow_pickle=model.allow_pickle))]
    if model.adapter is not None:
        hashes.append(assets.identity(assets.adapter(model.adapter)))
    return [*hashes, dtype_for(model.dtype)]


class Plan:
    """Steps with their artifacts in a run directory: whole, open or missing."""

    def __init__(
        self,
        steps: Iterable[Step],
        directory: RunDirectory,
        assets: Assets,
        identities: Identities | None = None,
    ) -> None:
        self.steps = with_needs(steps)
        self.directory = directory
        self.artifacts: dict[Step, Artifact] = {}
        identities = identities or Identities(assets)
        for step in self.steps:
            inputs = [self.artifacts[need] for need in step.needs]
            self.artifacts[step] = directory.artifact(step.folder, identities.of(step), inputs)

    def inputs(self, step: Step) -> dict[str, Artifact]:
        """The artifacts that a step reads, by their steps' names."""
        return {need.name: self.artifacts[need] for need in step.needs}

    def step(self, digest: str) -> Step:
        """The step whose artifact has this digest; of several, decoders with equal settings, the first."""
        return next(step for step in self.steps if self.artifacts[step].digest == digest)
