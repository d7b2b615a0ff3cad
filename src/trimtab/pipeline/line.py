"""The artifacts of a run: what is decoded and measured, on top of the tuned model's line.

As in `tuning_line`, this only says which artifact follows from which, and keeps what stages make.

    >>> line = Line(experiment, RunDirectory(Path("runs/demo")), Assets(), watch)       # doctest: +SKIP
    >>> line.guided(experiment.guide.decoders[0]).records(Generation)[0].text           # doctest: +SKIP
    ' liked this film from the first minute to the last'
"""

import dataclasses
import json
import shutil
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.table import Table

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.data.parts import prompts_to_test
from trimtab.evaluation.cost import read_cost, read_usage
from trimtab.evaluation.coverage import SetAside, set_aside, too_long, without
from trimtab.evaluation.divergence import Divergence, divergence
from trimtab.evaluation.evaluate import Row, summarise
from trimtab.evaluation.fluency import fluency_served, fluency_under
from trimtab.evaluation.scoring import Fluency, best_of, score_decoder
from trimtab.pipeline.decoded import GENERATIONS, note_artifacts, point
from trimtab.pipeline.memory import decoding_rows
from trimtab.pipeline.traces import further_parts, trace_file, trace_rest, traced
from trimtab.pipeline.tuning_line import TuningLine, makes_pairs, sampled_splits
from trimtab.records import Generation, Pair, Prompt, Score
from trimtab.report.columns import with_columns
from trimtab.report.page import model_names, write_report
from trimtab.report.tables import terminal_table
from trimtab.rewards.judge import load_judge
from trimtab.search.decoders import Decoder, within_its_budget
from trimtab.search.trace import Node, Trace
from trimtab.store.artifacts import Artifact, read_seconds
from trimtab.store.blocks import Decode, block_size, recorded_plan
from trimtab.store.files import write_json, write_records, write_text
from trimtab.store.progress import Advance


class Line(TuningLine):
    """The artifacts of one experiment, each made when it is first asked for."""

    def guided(self, decoder: DecoderConfig) -> Artifact:
        """The generations of one decoder on the test prompts."""
        experiment, guide = self.experiment, self.experiment.guide
        if decoder.best_of is not None:
            return self._picked(decoder, self.guided(guide.decoder(decoder.best_of)))

        parts: dict[str, Any] = {
            "decoder": decoder,
            "guide": guide.model_dump(mode="json", exclude={"decoders", "tuned"}),
            "model": experiment.large if decoder.model == "large" else experiment.small,
            **further_parts(experiment, decoder),
        }
        inputs = [self.data]
        if guide.unprompted is not None:
            inputs = []
        elif experiment.data.tests_on_pairs:
            inputs, parts["test_prompts"] = [self.pairs], experiment.data.test_prompts
        if decoder.uses_small:
            inputs += self.untuned
        if decoder.uses_tuned and experiment.tunes:
            inputs.append(self.tuned)
        if decoder.guided_by_gold:
            inputs.append(self.reward)
        digest = self._make.artifact("guide", parts, inputs).digest
        trace = Trace(trace_file(self.directory.path, decoder, digest), valued=decoder.guided) if self.traced else None

        def ready() -> tuple[list[Prompt], Decode, int]:
            prompts = self._test_prompts()
            settled = within_its_budget(experiment, decoder, self.roles, prompts)
            observe = None if trace is None else trace.observe
            ready_decoder = Decoder(experiment, settled, self.roles, lambda: self._gold, observe)
            ready_decoder.check_some_fit(prompts)
            rows = decoding_rows(experiment, settled, self.assets, self._make.jobs)
            return prompts, ready_decoder.decode, block_size(rows, settled.width * settled.successors)

        artifact = self._make.decoded("guide", parts, inputs, ready, f"guide {decoder.name}", alone=trace is not None)
        if trace is not None and artifact.whole:
            excluded = too_long({decoder.name: artifact.records(Generation)})  # these are not searched
            searched = [prompt for prompt in self._test_prompts() if prompt.id not in excluded]
            trace_rest(trace, searched, ready, recorded_plan(artifact.folder))
        return artifact

    def name_decoded(self, kind: str) -> None:
        """Give each decoder's generations or scores a name that stays, for exports and comparisons."""
        for decoder in self.experiment.guide.decoders:
            artifact = self.guided(decoder) if kind == GENERATIONS else self.evaluated(decoder)
            point(self.directory.path, decoder.name, kind, artifact.folder)

    def _trees(self, decoder: DecoderConfig) -> dict[str, Node]:
        """The search of each prompt that was traced, by its id."""
        return traced(trace_file(self.directory.path, decoder, self.guided(decoder).digest))

    def _test_prompts(self) -> list[Prompt]:
        """Prompts cut from test reviews, or instructions; those of an existing data set's test split; or none."""
        if self.experiment.guide.unprompted is not None:
            return [Prompt(f"unprompted-{number:05d}", "") for number in range(self.experiment.guide.unprompted)]
        if not self.experiment.data.tests_on_pairs:
            return self.data.records(Prompt, "test")
        return prompts_to_test(self.pairs.records(Pair), self.experiment.data)

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
            judge = None if self.judge is None else load_judge(self.judge.folder)
            scores = score_decoder(decoder.name, generations, self._gold, judge, self._fluency)
            write_records(folder / "records.jsonl", scores)
            aside = set_aside(decoder.name, generations, scores)
            write_text(folder / "set_aside.jsonl", (json.dumps(dataclasses.asdict(each)) + "\n" for each in aside))

        large = self.experiment.large
        parts: dict[str, Any] = {"decoder": decoder.name, "large": large}
        if large is not None and large.endpoint is not None:  # without them fluency is not measured
            parts["log_probabilities"] = large.endpoint.log_probabilities
        inputs = [self.guided(decoder), self.reward, *self.judges.values()]
        if large is None:
            parts["small"], inputs = self.experiment.small, [*inputs, *self.untuned]
        return self._make.stage("evaluate", parts, inputs, make, label=f"evaluate {decoder.name}")

    def divergence(self, decoder: DecoderConfig) -> Artifact:
        """How far the tuned model went from the untuned one, on its own responses."""
        wanted = self.experiment.evaluate.kl_samples

        def make(folder: Path, work: Path, advance: Advance) -> None:
            responses = self.guided(decoder).records(Generation)[:wanted]
            found = divergence(responses, self.roles["tuned"], self.roles["untuned"], advance)
            write_json(folder / "summary.json", dataclasses.asdict(found))

        parts = {"kl_samples": wanted, "small": self.experiment.small, **further_parts(self.experiment, decoder)}
        tuned = [self.tuned] if self.experiment.tunes else []
        inputs, label = [self.guided(decoder), *tuned, *self.untuned], f"evaluate {decoder.name} (KL)"
        return self._make.stage("divergence", parts, inputs, make, label=label)

    @cached_property
    def set_aside(self) -> list[SetAside]:
        """The prompts that do not count, of all decoders."""
        generations, excluded = self._generations, too_long(self._generations)
        return [
            each
            for name, scores in self._scores.items()
            for each in set_aside(name, generations[name], scores, excluded)
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
        generations = self._generations
        scores = without(too_long(generations), self._scores)
        costs = {decoder.name: read_cost(self.guided(decoder)) for decoder in decoders}
        partial, folder = self.directory.path / "report.partial", self.directory.path / "report"
        with self.watch("report"):
            diverged = {each.name: Divergence(**self.divergence(each).summary()) for each in diverging(self.experiment)}
            experiment, evaluate = self.experiment, self.experiment.evaluate
            settings = experiment.guide, evaluate, experiment.seed, model_names(experiment)
            rows = summarise(*settings, scores, generations, self._encode, costs, diverged)
            rows = with_columns(rows, evaluate.columns, generations, scores)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            traces = {each.name: self._trees(each) for each in decoders}
            artifacts = self._artifacts()
            # wall seconds of each stage, over all sessions that it was made in
            seconds = {name: read_seconds(artifact) for name, artifact in artifacts.items()}
            facts = seconds, self._details()
            usages = {each.name: read_usage(self.guided(each)) for each in decoders if each.best_of is None}
            write_report(partial, self.experiment, rows, scores, generations, *facts, traces, usages)
            note_artifacts(partial, {name: artifact.folder for name, artifact in artifacts.items()})
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        return rows

    @property
    def table(self) -> Table:
        """The report's table, as it stands in the terminal; a notebook shows it, too."""
        return terminal_table(self.report)

    @property
    def _fluency(self) -> Fluency:
        """Log-probabilities under the unguided base."""
        if self.roles.served is not None:
            return partial(fluency_served, self.roles.served)
        return partial(fluency_under, self.roles["untuned" if self.experiment.large is None else "large"])

    def _encode(self, text: str) -> list[int]:
        large = self.experiment.large
        here = large is not None and large.endpoint is None
        return self.roles.encode_response("large" if here else "untuned", text)

    def _artifacts(self) -> dict[str, Artifact]:
        """What the report is of, by what progress calls it."""
        decoders = self.experiment.guide.decoders
        artifacts = {"data": self.data, "reward": self.reward, **self.judges}
        artifacts |= {"sft": self.sft} if self.experiment.sft is not None else {}
        artifacts |= {f"synthesize {split}": self.samples(split) for split in sampled_splits(self.experiment)}
        artifacts |= {"pairs": self.pairs} if makes_pairs(self.experiment) else {}
        artifacts |= {"tune": self.tuned} if self.experiment.tunes else {}
        artifacts |= {f"guide {decoder.name}": self.guided(decoder) for decoder in decoders}
        artifacts |= {f"evaluate {decoder.name}": self.evaluated(decoder) for decoder in decoders}
        artifacts |= {f"evaluate {each.name} (KL)": self.divergence(each) for each in diverging(self.experiment)}
        return artifacts

    def _details(self) -> dict[str, Any]:
        return {
            "reward": self.reward.summary("report"),
            **{stage: judge.summary("report") for stage, judge in self.judges.items()},
            **({"sft": self.sft.summary()} if self.experiment.sft is not None else {}),
            **({"pairs": self.pairs.summary()} if makes_pairs(self.experiment) else {}),
            **({"tune": self.tuned.summary()} if self.experiment.tunes else {}),
        }


def diverging(experiment: Experiment) -> list[DecoderConfig]:
    """The decoders whose responses say how far the tuned model went from the untuned one: its own, where asked for."""
    if not experiment.evaluate.kl_samples:
        return []
    return [decoder for decoder in experiment.guide.decoders if decoder.plain and decoder.model == "tuned"]
