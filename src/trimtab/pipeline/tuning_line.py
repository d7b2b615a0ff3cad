"""The artifacts of a run up to the tuned model, and what each is made from.

Each stage is a plain function from records to records, of some other module; this one only says which follows from
which, and keeps what they make in the run directory. What has not changed is not made again.

    >>> line = TuningLine(experiment, RunDirectory(Path("runs/demo")), Assets(), watch)  # doctest: +SKIP
    >>> line.pairs.records(Pair)[0].responses                                           # doctest: +SKIP
    [' liked it', ' left early']
"""

import math
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.data.parts import data_identity, draw_parts
from trimtab.models.load import load_causal_lm
from trimtab.models.roles import Roles
from trimtab.pipeline.checks import model_identity
from trimtab.pipeline.making import Maker
from trimtab.pipeline.memory import synthesis_rows
from trimtab.preferences.dataset import read_dataset, write_dataset
from trimtab.preferences.pairs import make_pairs, resolve_bounds, summarize
from trimtab.preferences.synthesize import check_some_fit, synthesis_prompts, synthesize
from trimtab.records import Generation, Pair, Prompt, Review
from trimtab.rewards.judge import fit_judge
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import Reward
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Decode, Shard, block_size
from trimtab.store.files import link_to, write_json, write_records
from trimtab.store.progress import Advance, Watch
from trimtab.training.checkpoints import Saving
from trimtab.training.preference import tune
from trimtab.training.reward import train_reward
from trimtab.training.session import Session
from trimtab.training.sft import fine_tune


class TuningLine:
    """The artifacts of one experiment, each made when it is first asked for.

    With a `shard`, the share of one process in the blocks of one stage, nothing becomes whole: see `Maker`. `traced`
    searches of the test prompts leave a trace beside their artifacts. `maker` makes what is missing.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        assets: Assets,
        watch: Watch,
        shard: tuple[str, Shard] | None = None,
        traced: bool = False,
        maker: Callable[..., Maker] = Maker,
    ) -> None:
        self.experiment = experiment
        self.traced = traced
        self.directory = directory
        self.assets = assets
        self.watch = watch
        self.roles = Roles(experiment, assets)
        # names are resolved once: every artifact is asked for several times, and its hash needs what they stand for
        self._make = maker(directory, watch, experiment.seed, cache(lambda part: model_identity(part, assets)), shard)

    @cached_property
    def data(self) -> Artifact:
        """Reviews for the reward, the judge and the small model, and prompts to tune, validate and test on."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            for name, records in draw_parts(self.experiment.data, self.assets, self.experiment.seed).items():
                if records:
                    write_records(folder / f"{name}.jsonl", records)

        parts = {"data": self.experiment.data, **data_identity(self.experiment.data, self.assets)}
        return self._make.stage("data", parts, [], make)

    @cached_property
    def reward(self) -> Artifact:
        """The gold reward: a classifier trained here, or the note that a ready one is used."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            config = self.experiment.reward
            if config.training is None:
                write_json(folder / "report.json", {config.kind: config.label})
                return
            reviews = self.data.records(Review, "reward_train"), self.data.records(Review, "reward_heldout")
            saving = Saving(work, self.experiment.checkpoint_seconds)
            session = Session(folder, self.experiment.seed, advance, saving)
            train_reward(*reviews, config, self.assets, session)

        parts: dict[str, Any] = {"reward": self.experiment.reward}
        if self.experiment.reward.training is None:
            return self._make.stage("reward", {**parts, "seed": None}, [], make)  # one reward under all seeds
        return self._make.stage("reward", parts, [self.data], make)

    @cached_property
    def judge(self) -> Artifact | None:
        """The second judge, fitted on reviews of its own; None without labelled reviews."""
        if self.experiment.data.reviews is None:
            return None

        def make(folder: Path, work: Path, advance: Advance) -> None:
            reviews = self.data.records(Review, "judge_train"), self.data.records(Review, "reward_heldout")
            judge, report = fit_judge(*reviews, self.experiment.seed, self.experiment.judge.snippet_words)
            judge.save(folder)
            write_json(folder / "report.json", report)

        return self._make.stage("judge", {"judge": self.experiment.judge}, [self.data], make)

    @property
    def judges(self) -> dict[str, Artifact]:
        """The second judge by its stage's name, where there is one."""
        return {} if self.judge is None else {"judge": self.judge}

    @cached_property
    def sft(self) -> Artifact:
        """The small model trained on reviews, an ordinary folder under `model`: the untuned model of what follows."""
        experiment, config = self.experiment, self.experiment.sft
        assert config is not None

        def make(folder: Path, work: Path, advance: Advance) -> None:
            self.roles.drop()  # training wants the memory
            model, tokenizer = load_causal_lm(experiment.small, self.assets)
            train, heldout = (
                [review.text for review in self.data.records(Review, name)] for name in ("sft_train", "sft_heldout")
            )
            session = Session(folder, experiment.seed, advance, Saving(work, experiment.checkpoint_seconds))
            summary = fine_tune(train, heldout, model, tokenizer, config, session, experiment.small.start_token)
            write_json(folder / "summary.json", summary)

        artifact = self._make.stage("sft", {"small": experiment.small, "sft": config}, [self.data], make)
        self.roles.untuned_is(artifact.folder / "model")
        return artifact

    @property
    def untuned(self) -> list[Artifact]:
        """What the untuned small model is made of beyond its own files: an input of all that it takes part in."""
        return [] if self.experiment.sft is None else [self.sft]

    def samples(self, split: Literal["tuning", "validation"]) -> Artifact:
        """Scored generations of the untuned small model."""
        experiment = self.experiment

        def ready() -> tuple[list[Prompt], Decode, int]:
            gold, config = self._gold, experiment.synthesize
            prompts = synthesis_prompts(config, self.data.records(Prompt, split))
            check_some_fit(prompts, config, self.roles["untuned"])
            size = block_size(synthesis_rows(experiment, self.assets, self._make.jobs), config.samples)
            return prompts, lambda block: synthesize(block, config, self.roles, gold, experiment.seed), size

        parts = {"small": experiment.small, "synthesize": experiment.synthesize, "split": split}
        inputs, label = [self.data, self.reward, *self.untuned], f"synthesize {split}"
        return self._make.decoded("synthesize", parts, inputs, ready, label)

    @cached_property
    def pairs(self) -> Artifact:
        """Preference pairs of both splits, as records and as a `datasets` folder; or those of an existing data set."""
        experiment = self.experiment
        existing = experiment.data.preferences
        inputs = [self.samples(split) for split in sampled_splits(experiment)]

        def make(folder: Path, work: Path, advance: Advance) -> None:
            if existing:
                pairs = read_dataset(self.assets.dataset(existing))
            else:
                pairs = _sampled_pairs(experiment, *(samples.records(Generation) for samples in inputs))
                write_dataset(pairs, folder / "dataset")
            write_records(folder / "records.jsonl", pairs)
            summary = summarize([pair for pair in pairs if pair.split == "train"])
            write_json(folder / "summary.json", {**summary, "responses_set_aside": sum(map(_without_reward, inputs))})

        parts: dict[str, Any] = {"pairs": experiment.pairs}
        if existing:
            identity = self.assets.identity(self.assets.dataset(existing))
            parts = {"preferences": existing, "identity": identity, "seed": None}
        return self._make.stage("pairs", parts, inputs, make)

    @cached_property
    def tuned(self) -> Artifact:
        """The tuned small model, an ordinary folder under `model`."""
        experiment = self.experiment

        def make(folder: Path, work: Path, advance: Advance) -> None:
            self.roles.drop()  # training wants the memory
            pairs = self.pairs.records(Pair)
            train, validation = ([p for p in pairs if p.split == split] for split in ("train", "validation"))
            model, tokenizer = load_causal_lm(self.roles.config("untuned"), self.assets)
            saving = Saving(work, experiment.checkpoint_seconds)
            trackers = self.directory.path / "trackers" / folder.stem
            seed = experiment.seed if experiment.tune.seed is None else experiment.tune.seed
            session = Session(folder, seed, advance, saving, trackers)
            summary = tune(train, validation, model, tokenizer, experiment.tune, session, experiment.small)
            if self._make.keeps:
                write_json(folder / "summary.json", summary)

        parts = {"small": experiment.small, "tune": experiment.tune}
        artifact = self._make.stage("tune", parts, [self.pairs, *self.untuned], make)
        self.roles.tuned_is(artifact.folder / "model")
        return artifact

    def name_tuned(self) -> None:
        """Give the tuned model a name that stays, `tuned`, for whoever wants the model itself."""
        link_to(self.directory.path / "tuned", Path(self.tuned.folder.name) / "model")

    @cached_property
    def _gold(self) -> Reward:
        config = self.experiment.reward
        return load_reward(config, self.assets, None if config.training is None else self.reward.folder)


def sampled_splits(experiment: Experiment) -> tuple[Literal["tuning", "validation"], ...]:
    """The prompts that the untuned model is sampled on; none where its pairs, or its tuned self, are there already."""
    return () if experiment.data.preferences or not experiment.tunes else ("tuning", "validation")


def makes_pairs(experiment: Experiment) -> bool:
    """Whether there are pairs: to tune on, or of an existing data set that the test prompts come from."""
    return experiment.tunes or experiment.data.preferences is not None


def _sampled_pairs(experiment: Experiment, train: list[Generation], validation: list[Generation]) -> list[Pair]:
    """Pairs of both splits by the thresholds of the training samples.

    Where all samples share one prompt, there are as many validation pairs for a sample as there are training pairs.
    """
    config, data = experiment.pairs, experiment.data
    bounds = resolve_bounds(train, config)
    pairs = make_pairs(train, config, experiment.seed, "train", bounds)
    if experiment.synthesize.unprompted and config.total is not None:
        share = math.ceil(config.total * data.validation_prompts / data.tuning_prompts)
        config = config.model_copy(update={"total": share})
    return pairs + make_pairs(validation, config, experiment.seed, "validation", bounds)


def _without_reward(samples: Artifact) -> int:
    """How many generations have no finite reward, and take part in no pair."""
    return sum(not math.isfinite(each.reward or 0.0) for each in samples.records(Generation))
