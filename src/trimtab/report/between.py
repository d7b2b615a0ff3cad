"""Decoders compared with each other, in sentences: the best that steers, the next best, and the tuned model alone.

>>> between(Experiment(name="demo"), [])
[]
"""

from collections.abc import Sequence

from trimtab.config.experiment import Experiment
from trimtab.evaluation.differences import Difference
from trimtab.evaluation.evaluate import Row
from trimtab.evaluation.metrics import Estimate
from trimtab.report.wording import interval, number, short_names


def between(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    """How far the best decoder that steers the large model is above the next best, and why one would steer at all where
    the tuned small model alone scores as high. Decoders that the gold reward helped are left out."""
    by_name = {row.decoder: row for row in rows}
    unaided = [
        decoder
        for decoder in experiment.guide.decoders
        if decoder.name in by_name and decoder.best_of is None and not decoder.guided_by_gold
    ]
    steered = [by_name[decoder.name] for decoder in unaided if decoder.model == "large" and not decoder.plain]
    if not steered:
        return []
    best, *others = sorted(steered, key=lambda row: -row.reward)
    unit, sentences = experiment.reward.entry.unit, []
    if others and others[0].decoder in best.against:
        sentences.append(_above(best, f"{others[0].decoder}, the next best", best.against[others[0].decoder], unit))
    alone = next((by_name[one.name] for one in unaided if one.plain and one.model == "tuned"), None)
    if alone is not None and best.decoder in alone.against:
        sentences.append(_beside_tuning(experiment, best, alone))
    return sentences


def _above(best: Row, other: str, found: Difference, unit: str) -> str:
    mean, low, high = found.reward
    if found.clear and mean > 0:
        return f"{best.decoder} is above {other}, by {number(mean)} {unit} [{number(low)}, {number(high)}]."
    return f"{best.decoder} is not clearly above {other} ({interval(mean, low, high)} {unit})."


def _beside_tuning(experiment: Experiment, best: Row, alone: Row) -> str:
    """What steering does beyond the tuned model by itself; if nothing in reward, what in fluency."""
    found, unit = best.against[alone.decoder], experiment.reward.entry.unit
    if found.clear and found.reward.mean > 0:
        return _above(best, f"{alone.decoder}, the tuned small model alone", found, unit)
    more = _negative(found.reward)
    score = "scores higher than" if found.clear else "scores as high as"
    tuned = f"The tuned small model alone {score} {best.decoder} ({interval(*more)} {unit} more)"
    (large,) = short_names([experiment.base.name]).values()
    if experiment.steers_itself:
        return f"{tuned}: {large} is that model untuned, so that steering is for where it must not be changed."
    if found.fluency is None:
        return f"{tuned}; fluency was not measured, so that nothing speaks for steering."
    likelier = f"{interval(*found.fluency)} nats a token"
    if found.fluency.low > 0:
        return (
            f"{tuned}. What steering keeps is what {large} knows and how it writes, as far as its own likelihood "
            f"measures that: it finds the text of {best.decoder} likelier, by {likelier}."
        )
    return (
        f"{tuned}, and {large} does not clearly find steered text likelier ({likelier}): nothing speaks for steering."
    )


def _negative(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.mean, -estimate.high, -estimate.low)
