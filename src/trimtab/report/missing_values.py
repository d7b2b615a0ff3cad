"""What the table does not tell, and why: prompts that a row was not measured on, what an endpoint does not show, and a
second judge where there is none.

Knows rows and scores, nothing of how either came about.

    >>> absences([], {})
    []
"""

from collections.abc import Collection, Mapping, Sequence

from trimtab.config.models import ModelConfig
from trimtab.evaluation.coverage import is_finite
from trimtab.evaluation.evaluate import Row
from trimtab.models.served_model import Usage
from trimtab.records import Score

NO_JUDGE = "No second judge: it is fitted on labelled reviews, and this run has none (data.reviews)."
NAMED = 8  # ids spelled out for a row; table.csv has the counts, the run directory the rest


def absences(rows: Sequence[Row], scores: Mapping[str, Sequence[Score]], too_long: Collection[str] = ()) -> list[str]:
    """A sentence for each row that was measured on fewer prompts than it was given, naming the prompts; and one where
    no second judge checked the rewards. `too_long` are the prompts that are too long for some decoder's models."""
    every = list(dict.fromkeys(score.prompt_id for entries in scores.values() for score in entries))
    sentences = [NO_JUDGE] if any(row.judge is None for row in rows) else []
    for row in rows:
        reasons = []
        failed = row.set_aside - len(too_long)
        if failed:
            them = "it" if failed == 1 else "them"
            reasons.append(
                f"{_count(failed, 'prompt')} set aside, since a model or a reward gave no finite number for {them}"
            )
        if too_long:
            reasons.append(f"{_count(len(too_long), 'prompt')} set aside, too long for the context of a model")
        if row.left_out:
            reasons.append(f"{_count(row.left_out, 'response')} without a finite score left out")
        if reasons:
            sentences.append(f"{row.decoder}: {'; '.join(reasons)}{_named(every, scores[row.decoder])}.")
    return sentences


def served(large: ModelConfig, usages: Mapping[str, Usage]) -> list[str]:
    """What is not known of a large model behind an endpoint, then what each decoder asked of it; else nothing."""
    if large.endpoint is None:
        return []
    fluency = "its arithmetic is" if large.endpoint.log_probabilities else "its fluency and its arithmetic are"
    first = (
        f"{large.name} was served by an endpoint, which gave texts alone: {fluency} not known, and TFLOP counts the "
        "guides and rewards only. What the endpoint counted:"
    )
    lines = []
    for decoder, usage in usages.items():
        price = usage.price(large.endpoint)
        paid = "" if price is None else f", {price:,.4g} at the prices given"
        if usage.requests:
            read, written = _count(usage.prompt_tokens, "token"), _count(usage.completion_tokens, "token")
            lines.append(f"{decoder}: {_count(usage.requests, 'request')}, {read} read and {written} written{paid}.")
    return [first, *lines]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _named(every: Sequence[str], entries: Sequence[Score]) -> str:
    """The prompts without a score, or with one that is not finite, in brackets; empty where none is known."""
    finite = {score.prompt_id for score in entries if is_finite(score)}
    missing = [prompt for prompt in every if prompt not in finite]
    more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
    return f" ({', '.join(missing[:NAMED])}{more})" if missing else ""
