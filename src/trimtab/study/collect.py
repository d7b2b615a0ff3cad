"""Reads the answers and scores of a study's finished runs: each measured decoder of each cell under all its seeds."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from trimtab.assets.resolve import Assets
from trimtab.evaluation.cells import Measured, MeasuredCell
from trimtab.evaluation.coverage import answers, is_finite, too_long, without
from trimtab.evaluation.divergence import Divergence
from trimtab.models.tokenizer import load_tokenizer
from trimtab.records import Generation, Score
from trimtab.rewards.thresholds import reward_at
from trimtab.study.plan import StudyPlan
from trimtab.study.study_file import Run, Study


def collect(plan: StudyPlan, finished: Sequence[Run], assets: Assets) -> list[MeasuredCell]:
    """The references first, each once, then every measured decoder of every cell that has a finished run.

    Runs whose scores are the same artifact count once: an untuned model is the same under all training seeds.
    """
    reader = _Reader(plan, assets)
    references: dict[tuple[str, ...], MeasuredCell] = {}
    cells = []
    for cell in plan.study.cells:
        runs = [run for run in finished if run.cell is cell]
        for name in plan.study.measured if runs else ():
            guide = runs[0].experiment.guide
            reference = guide.reference_of(guide.decoder(name))
            measured = MeasuredCell(name_of(plan.study, cell.name, name), cell.labels, reader.measured(runs, name))
            if reference is None or reference.name == name:
                cells.append(measured)
                continue
            key = tuple(reader.distinct(runs, reference.name))
            if key not in references:
                title = reference.name if not references else f"{reference.name}-of-{cell.name}"
                references[key] = MeasuredCell(title, {}, reader.measured(runs, reference.name))
            cells.append(replace(measured, reference=references[key].name))
    return [*references.values(), *cells]


def missing_numbers(plan: StudyPlan, run: Run) -> str | None:
    """Why the run cannot be measured: a decoder that has no response with finite scores; None where all have one."""
    for decoder in plan.study.decoders(run):
        scores = plan.artifact(run, f"evaluate {decoder.name}").records(Score)
        if not any(map(is_finite, scores)):
            return (
                f"evaluate {decoder.name}: none of {len(scores)} responses has finite logits and rewards: set the "
                "models' dtype to float32, and check the reward"
            )
    return None


def name_of(study: Study, cell: str, decoder: str) -> str:
    """The name of a decoder's row: the cell's name, with the decoder's where several are measured."""
    return cell if len(study.measured) == 1 else f"{cell}-{decoder}"


class _Reader:
    def __init__(self, plan: StudyPlan, assets: Assets) -> None:
        self._plan = plan
        self._tokenizer = cache(lambda name, pickle: load_tokenizer(assets.model(name, allow_pickle=pickle)))
        self._too_long = cache(self._read_too_long)

    def distinct(self, runs: Sequence[Run], decoder: str) -> dict[str, Run]:
        """The digests of the decoder's scores, each with the first run that has them."""
        first: dict[str, Run] = {}
        for run in runs:
            first.setdefault(self._plan.artifacts[run.name][f"evaluate {decoder}"], run)
        return first

    def measured(self, runs: Sequence[Run], decoder: str) -> list[Measured]:
        """The decoder under each seed; runs with the same scores count once."""
        return [self._read(run, decoder) for run in self.distinct(runs, decoder).values()]

    def _read(self, run: Run, decoder: str) -> Measured:
        base = run.experiment.base
        encode = self._tokenizer(base.name, base.allow_pickle).encode
        chosen = answers(self._generations(run, decoder))
        divergence = f"evaluate {decoder} (KL)"
        return Measured(
            seed=run.repeat.label,
            answers=chosen,
            scores=without(self._too_long(run), {decoder: self._scores(run, decoder)})[decoder],
            tokens=[encode(answer.text, add_special_tokens=False) for answer in chosen],
            threshold=self._threshold(run),
            divergence=Divergence(**self._plan.artifact(run, divergence).summary())
            if divergence in self._plan.artifacts[run.name]
            else None,
        )

    def _generations(self, run: Run, decoder: str) -> list[Generation]:
        return self._plan.artifact(run, f"guide {decoder}").records(Generation)

    def _scores(self, run: Run, decoder: str) -> list[Score]:
        return self._plan.artifact(run, f"evaluate {decoder}").records(Score)

    def _read_too_long(self, run: Run) -> frozenset[str]:
        """The prompts that are too long for one of the run's decoders, and count for none of them."""
        names = [decoder.name for decoder in self._plan.study.decoders(run)]
        return too_long({name: self._generations(run, name) for name in names})

    def _threshold(self, run: Run) -> float | None:
        """`evaluate.threshold` as a reward; a relative one refers to the untuned model's rewards."""
        threshold = run.experiment.evaluate.threshold
        if threshold is None or threshold.value is not None:
            return None if threshold is None else threshold.value
        decoders = run.experiment.guide.decoders
        untuned = next(decoder for decoder in decoders if decoder.plain and decoder.model == "untuned")
        rewards = [score.reward for score in self._scores(run, untuned.name)]
        return reward_at(threshold, list(filter(math.isfinite, rewards)))
