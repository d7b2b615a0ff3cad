"""The artifacts of a run and what each is made from.

Each stage is a plain function from records to records, of some other module; this one only says which follows from
which, and keeps what they make in the run directory. What has not changed is not made again.

    >>> line = Line(experiment, RunDirectory(Path("runs/demo")), Assets(), watch)       # doctest: +SKIP
    >>> line.pairs.records(Pair)[0].responses                                           # doctest: +SKIP
    [' liked it', ' left early']
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from trimtab.assets.resolve import Assets
from trimtab.blocks import Decode, Shard, block_size
from trimtab.data.reviews import load_reviews, split_reviews
from trimtab.durable import write_json, write_records, write_text
from trimtab.errors import DataError
from trimtab.evaluation.coverage import SetAside, set_aside
from trimtab.evaluation.evaluate import Cost, Row, best_of, score_decoder, summarise
from trimtab.experiment import DecoderConfig, Experiment
from trimtab.making import Maker
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.models.load import load_causal_lm
from trimtab.models.roles import Roles
from trimtab.preferences.dataset import read_dataset, write_dataset
from trimtab.preferences.pairs import make_pairs, resolve_bounds, summarize
from trimtab.preferences.synthesize import synthesis_prompts, synthesize
from trimtab.preflight import model_identity
from trimtab.progress import Advance, Watch
from trimtab.records import Generation, Pair, Prompt, Review, Score
from trimtab.report.page import write_report
from trimtab.rewards.classifier import load_classifier_reward
from trimtab.rewards.judge import fit_judge, load_judge
from trimtab.rewards.reward import Reward
from trimtab.runs import Artifact, RunDirectory, read_seconds
from trimtab.search.decoders import Decoder, within_its_budget
from trimtab.search.trace import Node, Trace
from trimtab.tracing import further_parts, trace_file, trace_rest, traced
from trimtab.training.checkpoints import Saving
from trimtab.training.preference import tune
from trimtab.training.reward import train_reward


class Line:
    """The artifacts of one experiment, each made when it is first asked for.

    With a `shard`, the share of one process in the blocks of one stage, nothing becomes whole: see `Maker`. `traced`
    searches of the test prompts leave a trace beside their artifacts.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        assets: Assets,
        watch: Watch,
        shard: tuple[str, Shard] | None = None,
        traced: bool = False,
    ) -> None:
        self.experiment = experiment
        self.traced = traced
        self.directory = directory
        self.assets = assets
        self.watch = watch
        self.roles = Roles(experiment, assets)
        # names are resolved once: every artifact is asked for several times, and its hash needs what they stand for
        self._make = Maker(directory, watch, experiment.seed, cache(lambda part: model_identity(part, assets)), shard)

    @cached_property
    def data(self) -> Artifact:
        """Reviews for the reward and the judge, and prompts to tune, validate and test on."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            config = self.experiment.data
            split = split_reviews(load_reviews(self.assets, config.reviews), config, self.experiment.seed)
            for name, records in vars(split).items():
                write_records(folder / f"{name}.jsonl", records)

        reviews = self.assets.identity(self.assets.dataset(self.experiment.data.reviews))
        return self._make.stage("data", {"data": self.experiment.data, "reviews": reviews}, [], make)

    @cached_property
    def reward(self) -> Artifact:
        """The gold reward: a classifier trained here, or the note that a ready one is used."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            config = self.experiment.reward
            if config.training is None:
                write_json(folder / "report.json", {"classifier": config.model})
                return
            reviews = self.data.records(Review, "reward_train"), self.data.records(Review, "reward_heldout")
            saving = Saving(work, self.experiment.checkpoint_seconds)
            train_reward(*reviews, config, self.assets, folder, self.experiment.seed, advance, saving)

        inputs = [self.data] if self.experiment.reward.training is not None else []
        return self._make.stage("reward", {"reward": self.experiment.reward}, inputs, make)

    @cached_property
    def judge(self) -> Artifact:
        """The second judge, fitted on reviews of its own."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            reviews = self.data.records(Review, "judge_train"), self.data.records(Review, "reward_heldout")
            judge, report = fit_judge(*reviews, self.experiment.seed, self.experiment.judge.snippet_words)
            judge.save(folder)
            write_json(folder / "report.json", report)

        return self._make.stage("judge", {"judge": self.experiment.judge}, [self.data], make)

    def samples(self, split: Literal["tuning", "validation"]) -> Artifact:
        """Scored generations of the untuned small model."""
        experiment = self.experiment

        def ready() -> tuple[list[Prompt], Decode, int]:
            gold, config = self._gold, experiment.synthesize
            prompts = synthesis_prompts(config, self.data.records(Prompt, split))
            size = block_size(config.rows, config.samples)
            return prompts, lambda block: synthesize(block, config, self.roles, gold, experiment.seed), size

        parts = {"small": experiment.small, "synthesize": experiment.synthesize, "split": split}
        inputs, label = [self.data, self.reward], f"synthesize {split}"
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
                bounds = resolve_bounds(inputs[0].records(Generation), experiment.pairs)
                splits: tuple[Literal["train", "validation"], ...] = ("train", "validation")
                pairs = [
                    pair
                    for samples, split in zip(inputs, splits, strict=True)
                    for pair in make_pairs(
                        samples.records(Generation), experiment.pairs, experiment.seed, split, bounds
                    )
                ]
                write_dataset(pairs, folder / "dataset")
            write_records(folder / "records.jsonl", pairs)
            summary = summarize([pair for pair in pairs if pair.split == "train"])
            write_json(folder / "summary.json", {**summary, "responses_set_aside": sum(map(_without_reward, inputs))})

        parts: dict[str, Any] = {"pairs": experiment.pairs}
        if existing:
            parts = {"preferences": existing, "identity": self.assets.identity(self.assets.dataset(existing))}
        return self._make.stage("pairs", parts, inputs, make)

    @cached_property
    def tuned(self) -> Artifact:
        """The tuned small model, an ordinary folder under `model`."""
        experiment = self.experiment

        def make(folder: Path, work: Path, advance: Advance) -> None:
            self.roles.drop()  # training wants the memory
            pairs = self.pairs.records(Pair)
            train, validation = ([p for p in pairs if p.split == split] for split in ("train", "validation"))
            model, tokenizer = load_causal_lm(experiment.small, self.assets)
            small, saving = experiment.small, Saving(work, experiment.checkpoint_seconds)
            shown = small.template, small.start_token, saving, small.system
            summary = tune(
                train, validation, model, tokenizer, experiment.tune, folder, experiment.seed, advance, *shown
            )
            write_json(folder / "summary.json", summary)

        artifact = self._make.stage("tune", {"small": experiment.small, "tune": experiment.tune}, [self.pairs], make)
        self.roles.tuned_is(artifact.folder / "model")
        if self._make.shard is None:  # a name that stays, for whoever wants the model itself
            new, link = self.directory.path / "tuned.tmp", self.directory.path / "tuned"
            new.unlink(missing_ok=True)
            new.symlink_to(Path(artifact.folder.name) / "model")
            new.replace(link)
        return artifact

    def guided(self, decoder: DecoderConfig) -> Artifact:
        """The generations of one decoder on the test prompts."""
        experiment, guide = self.experiment, self.experiment.guide
        if decoder.best_of is not None:
            return self._picked(decoder, self.guided(guide.decoder(decoder.best_of)))

        parts: dict[str, Any] = {
            "decoder": decoder.model_dump(mode="json", exclude={"name"}),
            "guide": guide.model_dump(mode="json", exclude={"decoders"}),
            "model": experiment.large if decoder.model == "large" else experiment.small,
            **further_parts(decoder),
        }
        inputs = [self.data]
        if experiment.data.preferences:
            inputs, parts["test_prompts"] = [self.pairs], experiment.data.test_prompts
        if decoder.uses_tuned:
            inputs.append(self.tuned)
        if decoder.guided_by_gold:
            inputs.append(self.reward)
        digest = self._make.artifact("guide", parts, inputs).digest
        trace = Trace(trace_file(self.directory.path, decoder, digest), valued=decoder.guided) if self.traced else None

        def ready() -> tuple[list[Prompt], Decode, int]:
            prompts = self._test_prompts()
            settled = within_its_budget(experiment, decoder, self.roles, prompts)
            observe = None if trace is None else trace.observe
            decode = Decoder(experiment, settled, self.roles, lambda: self._gold, observe).decode
            return prompts, decode, block_size(guide.rows, settled.width * settled.successors)

        artifact = self._make.decoded("guide", parts, inputs, ready, f"guide {decoder.name}")
        if trace is not None and artifact.whole:
            trace_rest(trace, self._test_prompts(), ready)
        return artifact

    def _trees(self, decoder: DecoderConfig) -> dict[str, Node]:
        """The search of each prompt that was traced, by its id."""
        return traced(trace_file(self.directory.path, decoder, self.guided(decoder).digest))

    def _test_prompts(self) -> list[Prompt]:
        """Prompts cut from test reviews; or the first different ones of an existing data set's test split."""
        if not self.experiment.data.preferences:
            return self.data.records(Prompt, "test")
        pairs = [pair for pair in self.pairs.records(Pair) if pair.split == "test"]
        first = list({json.dumps(pair.prompt): pair.prompt for pair in pairs}.values())
        wanted = self.experiment.data.test_prompts
        if len(first) < wanted:
            raise DataError(
                f"{self.experiment.data.preferences} has {len(first)} test prompts and data.test_prompts asks for "
                f"{wanted}: lower it to {len(first)}, or give a data set with a test split"
            )
        return [Prompt(f"test-{number:05d}", text) for number, text in enumerate(first[:wanted])]

    def _picked(self, decoder: DecoderConfig, source: Artifact) -> Artifact:
        """Of another decoder's candidates, those that the gold reward likes best."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            gold = self._gold
            started, before = time.monotonic(), gold.flops
            write_records(folder / "records.jsonl", best_of(source.records(Generation), gold))
            # a large model alone did the sampling; under EFT, or without it, the small ones did their part
            config = self.experiment.guide.decoder(decoder.best_of or "")
            guides = ("tuned", "untuned") if config.model == "large" and not config.terms else ()
            sampling = {role: spent for role, spent in source.summary("cost").items() if role not in guides}
            write_json(folder / "cost.json", {**sampling, "reward": gold.flops - before})
            seconds = json.loads((source.folder / "decode_seconds.json").read_text())
            write_json(folder / "decode_seconds.json", seconds + time.monotonic() - started)

        return self._make.stage(
            "guide", {"best_of": "gold"}, [source, self.reward], make, label=f"guide {decoder.name}"
        )

    def evaluated(self, decoder: DecoderConfig) -> Artifact:
        """The scores of one decoder's generations."""

        def make(folder: Path, work: Path, advance: Advance) -> None:
            generations = self.guided(decoder).records(Generation)
            scores = score_decoder(decoder.name, generations, self._gold, load_judge(self.judge.folder), self._fluency)
            write_records(folder / "records.jsonl", scores)
            aside = set_aside(decoder.name, generations, scores)
            write_text(folder / "set_aside.jsonl", (json.dumps(dataclasses.asdict(each)) + "\n" for each in aside))

        parts = {"decoder": decoder.name, "large": self.experiment.large}
        inputs = [self.guided(decoder), self.reward, self.judge]
        return self._make.stage("evaluate", parts, inputs, make, label=f"evaluate {decoder.name}")

    @cached_property
    def set_aside(self) -> list[SetAside]:
        """The prompts that do not count, of all decoders."""
        return [
            each for name, scores in self._scores.items() for each in set_aside(name, self._generations[name], scores)
        ]

    @cached_property
    def _scores(self) -> dict[str, list[Score]]:
        return {each.name: self.evaluated(each).records(Score) for each in self.experiment.guide.decoders}

    @cached_property
    def _generations(self) -> dict[str, list[Generation]]:
        return {each.name: self.guided(each).records(Generation) for each in self.experiment.guide.decoders}

    @cached_property
    def report(self) -> list[Row]:
        """The table's rows; tables, figures and the page are written to `report/`."""
        decoders = self.experiment.guide.decoders
        scores, generations = self._scores, self._generations
        costs = {decoder.name: _cost(self.guided(decoder)) for decoder in decoders}
        partial, folder = self.directory.path / "report.partial", self.directory.path / "report"
        with self.watch("report"):
            rows = summarise(self.experiment, scores, generations, self._encode, costs)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            traces = {each.name: self._trees(each) for each in decoders}
            facts = self._seconds(), self._details()
            write_report(partial, self.experiment, rows, scores, generations, *facts, traces)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        return rows

    @cached_property
    def _gold(self) -> Reward:
        config = self.experiment.reward
        return load_classifier_reward(config, self.assets, None if config.training is None else self.reward.folder)

    def _fluency(self, generations: Sequence[Generation]) -> tuple[list[float], list[int]]:
        """log p of each response under the unguided base, and its number of tokens there.

        Responses are encoded anew, all in the same way, whichever model wrote them.
        """
        base = self.roles["large"]
        responses = base.vocabulary.encode_responses([generation.text for generation in generations])
        logs = sequence_log_probabilities(base, [generation.prompt for generation in generations], responses)
        return logs, [len(response) for response in responses]

    def _encode(self, text: str) -> list[int]:
        return self.roles.encode_response("large", text)

    def _seconds(self) -> dict[str, float]:
        """Wall seconds that each stage has taken, over all sessions it was made in."""
        decoders = self.experiment.guide.decoders
        artifacts = {"data": self.data, "reward": self.reward, "judge": self.judge}
        artifacts |= {f"synthesize {split}": self.samples(split) for split in sampled_splits(self.experiment)}
        artifacts |= {"pairs": self.pairs, "tune": self.tuned}
        artifacts |= {f"guide {decoder.name}": self.guided(decoder) for decoder in decoders}
        artifacts |= {f"evaluate {decoder.name}": self.evaluated(decoder) for decoder in decoders}
        return {name: read_seconds(artifact) for name, artifact in artifacts.items()}

    def _details(self) -> dict[str, Any]:
        return {
            "reward": self.reward.summary("report"),
            "judge": self.judge.summary("report"),
            "pairs": self.pairs.summary(),
            "tune": self.tuned.summary(),
        }


def sampled_splits(experiment: Experiment) -> tuple[Literal["tuning", "validation"], ...]:
    """The prompts that the untuned model is sampled on; none where the pairs come from an existing data set."""
    return () if experiment.data.preferences else ("tuning", "validation")


def _without_reward(samples: Artifact) -> int:
    """How many generations have no finite reward, and take part in no pair."""
    return sum(not math.isfinite(each.reward or 0.0) for each in samples.records(Generation))


def _cost(artifact: Artifact) -> Cost:
    seconds = json.loads((artifact.folder / "decode_seconds.json").read_text(encoding="utf-8"))
    return Cost(flops=sum(artifact.summary("cost").values()), seconds=seconds)
