"""How the columns of the table read: heading, rounded text and explanation, the same wherever the table is shown.

Knows nothing of files or of how a table is drawn.

    >>> interval(1.938, 1.6, 2.281)
    '1.94 [1.60, 2.28]'
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.evaluation.evaluate import Row

GOLD = " †"  # marks a decoder that the gold reward itself guided
GOLD_NOTE = "† guided by the gold reward itself while decoding: an upper line, not a method"


@dataclass(frozen=True)
class Column:
    """One column as people read it: its heading, what it means, and its text for a row (empty where undefined).

    `narrow` is the heading broken into lines where there is little room; an empty one leaves the column out there.
    """

    heading: str
    narrow: str
    meaning: str
    text: Callable[[Row], str]
    optional: bool = False  # left out where no row has anything in it

    @property
    def head(self) -> str:
        """The heading with soft hyphens: where a page has little room it is broken as the narrow one is."""
        return self.heading if "-\n" not in self.narrow else self.narrow.replace("-\n", "\u00ad")


def number(value: float | None, digits: int = 2) -> str:
    """The value with so many decimals, never `-0.00`; empty for None."""
    return "" if value is None else f"{value:z.{digits}f}"


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Mean and interval, as `1.94 [1.60, 2.28]`; empty where there is none."""
    return "" if mean is None else f"{number(mean)} [{number(low)}, {number(high)}]"


def percent(share: float | None) -> str:
    """A share as whole percent; empty for None."""
    return "" if share is None else f"{100 * share:.0f} %"


def significant(value: float) -> str:
    """Three significant digits, all digits from 1,000 on: `0.0120`, `1.94`, `12,300`."""
    if value == 0:
        return "0"
    return f"{value:#.3g}".removesuffix(".") if value < 999.5 else f"{value:,.0f}"


def times(ratio: float) -> str:
    """A ratio as `2.1 times` or, from 10 on, `25 times`."""
    return f"{ratio:.1f} times" if ratio < 9.95 else f"{ratio:,.0f} times"


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Each model's name without its owner or folder; in full where two would read the same. Order is kept."""
    last = {model: model.rstrip("/").rsplit("/", 1)[-1] for model in models}
    return {model: short if list(last.values()).count(short) == 1 else model for model, short in last.items()}


def reward_unit(experiment: Experiment) -> str:
    """The unit of the gold reward: a difference of log-probabilities is in nats, a bare logit in its own units, and
    what a scalar head, a function or a service gives are points."""
    return str(experiment.reward.entry.unit)


def duration(seconds: float) -> str:
    """Wall time for people: `0.94 s`, `9.6 s`, `25 s`, `15 min 38 s`, `1 h 5 min`."""
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def description(decoder: DecoderConfig) -> str:
    """The decoder's settings in a few words, such as `chunk-level beam search (CBS 4/4/5)`."""
    if decoder.best_of is not None:
        return f"the best of {decoder.best_of}'s samples by the gold reward"
    search = "unguided decoding"
    if decoder.budget is not None:
        search = f"the search that {decoder.budget:g} FLOPs a prompt pay for"
    elif decoder.chunk is not None:
        search = f"chunk-level beam search (CBS {decoder.width}/{decoder.successors}/{decoder.chunk})"
    elif decoder.guided:
        search = f"best-of-{decoder.successors}"
    search += judged_by(decoder)
    if not decoder.terms:
        return search
    name = "EFT beta" if decoder.beta is not None else "EFT weights"
    weights = ", ".join(f"{term.weight:g}" for term in decoder.terms)
    return f"{name} {weights}" + (f" with {search}" if decoder.guided else "")


def judged_by(decoder: DecoderConfig) -> str:
    """By what, where it is not the tuned/untuned pair alone: ` guided by the gold reward`; else empty."""
    if not decoder.value:
        return ""
    return " guided by " + " and ".join(value.words for value in decoder.value)


def explanation(decoder: DecoderConfig) -> str:
    """How the decoder works, for someone who never heard of it."""
    if decoder.best_of is not None:
        return (
            f"Of {decoder.best_of}'s candidates the one that the gold reward itself likes best: not a method, but the "
            "mark to measure methods by."
        )
    tokens = "token" if decoder.chunk == 1 else f"{decoder.chunk} tokens"
    search = "Unguided: the model samples by itself."
    if decoder.budget is not None:
        search = f"Of all searches that {decoder.budget:g} FLOPs a prompt pay for, the largest."
    elif decoder.chunk is not None:
        search = (
            f"Chunk-level beam search (CBS): every {tokens}, each of {decoder.width} beams grows {decoder.successors} "
            f"ways and the guide keeps the best {decoder.width}."
        )
    elif decoder.guided:
        search = f"Best-of-{decoder.successors}: of {decoder.successors} samples the guide picks one."
    search += "".join(f" {sentence}" for sentence in _options(decoder))
    if not decoder.terms:
        return search
    weights = " and ".join(f"{term.weight:g} times" for term in decoder.terms)
    emulated = (
        f"Emulated fine-tuning (EFT): at each token {weights} the difference of tuned and untuned model "
        "is added to the model's logits."
    )
    return f"{emulated} {search}" if decoder.guided else emulated


def _options(decoder: DecoderConfig) -> list[str]:
    """A sentence for each option of the search that is used."""
    said = {
        f"Beams compete within {decoder.groups} groups.": decoder.groups > 1,
        "Of equal candidates one stays.": decoder.duplicates == "drop",
        "What has finished leaves its slot to others.": decoder.pool is not None,
        "The worst samples are dropped before they are finished.": decoder.reject is not None,
        "Chunks end early where a given text does.": bool(decoder.chunk_ends),
        "Equal answers pool their weight.": decoder.vote is not None,
        f"Candidates are{judged_by(decoder)}.": bool(decoder.value),
        "Decoders are measured by the gold reward: this is an upper line, no method.": decoder.guided_by_gold,
    }
    return [sentence for sentence, used in said.items() if used]


COLUMNS = (
    Column("decoder", "decoder", "How the text was chosen.", lambda row: row.decoder + (GOLD if row.by_gold else "")),
    Column(
        "reward",
        "reward",
        "Mean gold reward of prompt and response, with its bootstrap interval over prompts; higher is better.",
        lambda row: interval(row.reward, row.reward_low, row.reward_high),
    ),
    Column(
        "std",
        "",
        "Standard deviation of the rewards themselves, from response to response.",
        lambda row: number(row.reward_std),
        optional=True,
    ),
    Column(
        "gain",
        "gain",
        "Reward minus that of the same model unguided on the same prompt, averaged, with its interval: clear where "
        "the interval leaves out 0. The tuned model is compared with the untuned one.",
        lambda row: interval(row.gain, row.gain_low, row.gain_high),
    ),
    Column(
        "headroom",
        "head-\nroom",
        "Gain as a share of what picking the best of the model's samples by the gold reward itself gains; none "
        "where no such pick was made.",
        lambda row: percent(row.headroom),
        optional=True,
    ),
    Column(
        "judge gain",
        "judge gain",
        "The same gain in the eyes of a second judge of how positive a text reads, which took no part in tuning or "
        "search.",
        lambda row: interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high),
    ),
    Column("positive", "posi-\ntive", "Share of responses with a reward above 0.", lambda row: percent(row.positive)),
    Column(
        "below",
        "below",
        "Share of responses with a reward below evaluate.threshold.",
        lambda row: percent(row.below),
        optional=True,
    ),
    Column(
        "KL",
        "KL",
        "How far the tuned model went from the untuned one: mean of log p tuned − log p untuned on its own responses, "
        "in nats a response, of the whole distributions, before top-k and top-p.",
        lambda row: interval(row.kl, row.kl_low, row.kl_high),
        optional=True,
    ),
    Column(
        "KL a token",
        "",
        "The same divided by the number of tokens.",
        lambda row: number(row.kl_per_token, 3),
        optional=True,
    ),
    Column(
        "diversity",
        "diver-\nsity",
        "Entropy in nats of the distribution of tokens, all decoders cut to equally many; higher is more varied.",
        lambda row: number(row.diversity),
    ),
    Column(
        "distinct-2",
        "dist-\ninct-2",
        "Share of pairs of neighbouring tokens that are different ones, among the same tokens; low means repetition.",
        lambda row: number(row.distinct_2),
    ),
    Column(
        "fluency",
        "fluency",
        "Mean log-probability of a token in nats under the unguided large model; nearer to 0 is more fluent.",
        lambda row: number(row.fluency),
    ),
    Column("tokens", "", "Mean number of new tokens in a response.", lambda row: number(row.new_tokens, 1)),
    Column(
        "TFLOP",
        "TFLOP",
        "Forward-pass arithmetic of all models together for one prompt, in 10¹² operations.",
        lambda row: significant(row.flops / 1e12),
    ),
    Column("seconds", "sec.", "Wall seconds for one prompt.", lambda row: significant(row.seconds)),
)


def filled(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns that a table of these rows has: all but optional ones with nothing in them."""
    return tuple(column for column in COLUMNS if not column.optional or any(map(column.text, rows)))


NAME_CHARACTERS = 14  # of a line of a row's name, at least


def characters(cells: Iterable[Iterable[str]]) -> int:
    """How many characters wide a table is at the least, so that paper can show it in a size at which it fits.

    `cells` are the texts of each column but the first, which holds names: these break anywhere, others at spaces.
    """
    longest = [
        max((len(part) for text in column for part in re.split(r"[ \u00ad]", text)), default=0) for column in cells
    ]
    return NAME_CHARACTERS + sum(longest) + math.ceil(1.3 * len(longest))  # so much is between two columns


def columns_of(experiment: Experiment, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns that this experiment's table has, with what they mean there."""
    columns = {column.heading: column for column in filled(rows)}
    if experiment.large is None:
        columns["fluency"] = replace(
            columns["fluency"],
            heading="fluency (untuned)",
            narrow="untuned\nfluency",
            meaning="Mean log-probability of a token in nats under the untuned small model, since there is no large "
            "one; nearer to 0 is more fluent to it.",
        )
    if experiment.guide.unprompted is not None:
        varied = "Entropy in nats of the distribution of tokens of all responses; higher is more varied."
        columns["diversity"] = replace(columns["diversity"], meaning=varied)
        repeated = "Share of pairs of neighbouring tokens that are different ones; falls with the number of responses."
        columns["distinct-2"] = replace(columns["distinct-2"], meaning=repeated)
        for cost in ("TFLOP", "seconds"):  # of no interest here, and a terminal has no room for all
            columns[cost] = replace(columns[cost], narrow="")
    if "below" in columns:
        at = next(number(row.threshold) for row in rows if row.threshold is not None)
        missed = f"Share of responses with a reward below {at} (evaluate.threshold)."
        columns["below"] = replace(columns["below"], heading=f"below {at}", narrow=f"below\n{at}", meaning=missed)
    return tuple(columns.values())
