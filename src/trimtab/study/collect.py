"""Reads what a study's runs have made, for its tables: each measured decoder of each cell under all its seeds.

Knows nothing of statistics.

    >>> [cell.name for cell in collect(plan, finished, assets)]                         # doctest: +SKIP
    ['untuned', 'random-hinge-0.1', 'random-hinge-1']
"""

import math
from collections.abc import Sequence
from functools import cache

from trimtab.assets.resolve import Assets
from trimtab.evaluation.cells import Measured, MeasuredCell
from trimtab.evaluation.coverage import answers, is_finite, too_long, without
from trimtab.evaluation.divergence import Divergence
from trimtab.models.load import load_tokenizer
from trimtab.records import Generation, Score
from trimtab.rewards.thresholds import reward_at
from trimtab.study.plan import Plan
from trimtab.study.study_file import Run, Study


def collect(plan: Plan, finished: Sequence[Run], assets: Assets) -> list[MeasuredCell]:
    """The references first, each once, then every decoder of every cell that has a finished run.

    Runs whose scores are one and the same artifact count once: an untuned model is the same under all training seeds.
    """
    reader = _Reader(plan, assets)
    references: dict[tuple[str, ...], MeasuredCell] = {}
    cells = []
    for cell in plan.study.cells:
        runs = [run for run in finished if run.cell is cell]
        for name in plan.study.measured if runs else ():
            guide = runs[0].experiment.guide
            reference = guide.reference_of(guide.decoder(name))
            own = reader.measured(runs, name)
            if reference is None or reference.name == name:
                cells.append(MeasuredCell(name_of(plan.study, cell.name, name), cell.labels, own))
                continue
            key = tuple(dict.fromkeys(plan.artifacts[run.name][f"evaluate {reference.name}"] for run in runs))
            if key not in references:
                called = reference.name if not references else f"{reference.name}-of-{cell.name}"
                references[key] = MeasuredCell(called, {}, reader.measured(runs, reference.name))
            cells.append(MeasuredCell(name_of(plan.study, cell.name, name), cell.labels, own, references[key].name))
    return [*references.values(), *cells]


def without_numbers(plan: Plan, run: Run) -> str | None:
    """Which decoder of the run has not one response with finite scores, in words; None where all have."""
    for decoder in plan.study.decoders(run):
        scores = plan.artifact(run, f"evaluate {decoder.name}").records(Score)
        if not any(map(is_finite, scores)):
            return (
                f"evaluate {decoder.name}: none of {len(scores)} responses has finite logits and rewards: set the "
                "models' dtype to float32, and check the reward"
            )
    return None


def name_of(study: Study, cell: str, decoder: str) -> str:
    """What a decoder of a cell is called: the cell's name, with the decoder's where several are measured."""
    return cell if len(study.measured) == 1 else f"{cell}-{decoder}"


class _Reader:
    """Reads each artifact once."""

    def __init__(self, plan: Plan, assets: Assets) -> None:
        self._plan = plan
        self._encoder = cache(lambda name, allow_pickle: load_tokenizer(assets.model(name, allow_pickle=allow_pickle)))
        self._read: dict[tuple[str, str, frozenset[str]], Measured] = {}
        self._excluded: dict[str, frozenset[str]] = {}

    def measured(self, runs: Sequence[Run], decoder: str) -> list[Measured]:
        """The decoder under each seed, runs with one and the same artifact once."""
        found: dict[str, Measured] = {}
        for run in runs:
            digest = self._plan.artifacts[run.name][f"evaluate {decoder}"]
            if digest not in found:
                found[digest] = self._of(run, decoder, digest)
        return list(found.values())

    def _of(self, run: Run, decoder: str, digest: str) -> Measured:
        threshold, excluded = self._threshold(run), self._too_long(run)
        key = digest, str(threshold), excluded
        if key in self._read:
            return self._read[key]
        chosen = answers(self._generations(run, decoder))
        scores = without(excluded, {decoder: self._plan.artifact(run, f"evaluate {decoder}").records(Score)})[decoder]
        base = run.experiment.base
        encode = self._encoder(base.name, base.allow_pickle).encode
        tokens = [encode(answer.text, add_special_tokens=False) for answer in chosen]
        stage = f"evaluate {decoder} (KL)"
        kl = None
        if stage in self._plan.artifacts[run.name]:
            kl = Divergence(**self._plan.artifact(run, stage).summary())
        measured = Measured(run.repeat.label, chosen, scores, tokens, threshold, kl)
        self._read[key] = measured
        return measured

    def _generations(self, run: Run, decoder: str) -> list[Generation]:
        return self._plan.artifact(run, f"guide {decoder}").records(Generation)

    def _too_long(self, run: Run) -> frozenset[str]:
        """The prompts that are too long for one of the run's decoders, and count for none of them."""
        if run.name not in self._excluded:
            names = [decoder.name for decoder in self._plan.study.decoders(run)]
            self._excluded[run.name] = too_long({name: self._generations(run, name) for name in names})
        return self._excluded[run.name]

    def _threshold(self, run: Run) -> float | None:
        """`evaluate.threshold` as a reward; where it is relative, to the untuned model's rewards."""
        threshold = run.experiment.evaluate.threshold
        if threshold is None or threshold.value is not None:
            return None if threshold is None else threshold.value
        untuned = next(each for each in run.experiment.guide.decoders if each.plain and each.model == "untuned")
        scores = self._plan.artifact(run, f"evaluate {untuned.name}").records(Score)
        return reward_at(threshold, [score.reward for score in scores if math.isfinite(score.reward)])
