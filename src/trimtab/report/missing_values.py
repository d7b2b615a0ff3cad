"""What the table leaves out, and why: prompts that were not measured, and what an endpoint does not show."""

from collections.abc import Collection, Mapping, Sequence

from trimtab.config.models import ModelConfig
from trimtab.evaluation.coverage import is_finite
from trimtab.evaluation.evaluate import Row
from trimtab.models.served_model import Usage
from trimtab.records import Score

NO_JUDGE = "No second judge: the gold reward was not trained on labelled reviews here, and none was asked for (judge)."
MAX_NAMED = 8  # prompts named for a row; table.csv has the counts, the run directory all ids


def absences(rows: Sequence[Row], scores: Mapping[str, Sequence[Score]], too_long: Collection[str] = ()) -> list[str]:
    """A sentence for each decoder that was measured on fewer prompts than it had.

    `too_long` are the prompts that are too long for some decoder's models.
    """
    prompts = dict.fromkeys(score.prompt_id for entries in scores.values() for score in entries)
    sentences = []
    for row in rows:
        failed = row.set_aside - len(too_long)
        them = "it" if failed == 1 else "them"
        reasons = {
            f"{_count(failed, 'prompt')} set aside, since a model or a reward gave no finite number for {them}": failed,
            f"{_count(len(too_long), 'prompt')} set aside, too long for the context of a model": too_long,
            f"{_count(row.left_out, 'response')} without a finite score left out": row.left_out,
        }
        if any(reasons.values()):
            finite = {score.prompt_id for score in scores[row.decoder] if is_finite(score)}
            missing = [prompt for prompt in prompts if prompt not in finite]
            more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
            named = f" ({', '.join(missing[:MAX_NAMED])}{more})" if missing else ""
            sentences.append(f"{row.decoder}: {'; '.join(text for text, holds in reasons.items() if holds)}{named}.")
    return sentences


def served(large: ModelConfig, usages: Mapping[str, Usage]) -> list[str]:
    """For a large model behind an endpoint: which numbers are not known, and how many requests each decoder made."""
    if large.endpoint is None:
        return []
    unknown = "its arithmetic is" if large.endpoint.log_probabilities else "its fluency and its arithmetic are"
    lines = [
        f"{large.name} was served by an endpoint, which gave texts alone: {unknown} not known, and TFLOP counts the "
        "guides and rewards only. What the endpoint counted:"
    ]
    for decoder, usage in usages.items():
        price = usage.price(large.endpoint)
        paid = "" if price is None else f", {price:,.4g} at the prices given"
        if usage.requests:
            read, written = _count(usage.prompt_tokens, "token"), _count(usage.completion_tokens, "token")
            lines.append(f"{decoder}: {_count(usage.requests, 'request')}, {read} read and {written} written{paid}.")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
