"""The report's columns: what each says about a decoder, and how it reads wherever the table is shown.

An experiment adds columns of a plug-in by `evaluate.columns`:

    >>> def exclamations(row, answers, scores):
    ...     return sum(answer.text.count("!") for answer in answers) / len(answers)
    >>> Column(name="exclamations", function=exclamations, words="Mean number of exclamation marks.").heading
    'exclamations'
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import ConfigurationError, TrimtabError
from trimtab.evaluation.coverage import answers, is_finite
from trimtab.evaluation.evaluate import Row
from trimtab.plugins.registry import Entry, Registry
from trimtab.plugins.user_errors import fault_in
from trimtab.records import Generation, Score
from trimtab.report.wording import NOISE, interval, number, percent, significant

GOLD_MARK = " †"  # marks a decoder that the gold reward itself guided
GOLD_NOTE = "† guided by the gold reward itself while decoding: an upper line, not a method"
NAME_CHARACTERS = 14  # of a line of a row's name, at least
REWARD_COLUMNS = ("reward", "reward_std", "gain", "to_best", "headroom", "judge_gain", "positive", "below")
"""Those that say what was reached. The page has the others, on texts and their cost, in a second table."""


@dataclass(frozen=True, kw_only=True)
class Column(Entry):
    """A column: `function(row, answers, scores)` gives a decoder's number, or None where it has no meaning.

    A plug-in's function gets the decoder's `Row`, its answers (`Generation`) that have finite scores, and these scores
    (`Score`) in the same order; trimtab's own columns read the row alone. `words` say what the number means, `paper`
    where its formula comes from. `rounded` makes it a text.

    `heading` is the name where none is given. `narrow` is the heading broken into lines, for a terminal; an empty one
    leaves the column out there. A column is left out where no row has a number for it.
    """

    heading: str = ""
    narrow: str | None = None
    rounded: Callable[[Any], str] = number

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", self.heading or self.name)

    def text(self, row: Row) -> str:
        """The row's cell; empty where the column has no meaning for it."""
        value = row.extra[self.name] if self.name in row.extra else self.function(row, (), ())
        return "" if value is None else self.rounded(value)

    @property
    def head(self) -> str:
        """The heading with soft hyphens: where a page has little room it is broken as the narrow one is."""
        return self.narrow.replace("-\n", "\u00ad") if self.narrow and "-\n" in self.narrow else self.heading

    @property
    def meaning(self) -> str:
        """What the column says, its source and its limits."""
        return " ".join(filter(None, [self.words, self.paper and f"Source: {self.paper}.", self.limits]))


COLUMNS: Registry[Column] = Registry("column", arguments=("row", "answers", "scores"))


def _field(name: str) -> Callable[..., Any]:
    return lambda row, answers, scores: vars(row)[name]


def _interval(name: str) -> Callable[..., Any]:
    """Mean and interval; None where there is no mean."""
    return lambda row, answers, scores: interval(*(vars(row)[name + end] for end in ("", "_low", "_high"))) or None


_BOOTSTRAP = "the interval is a percentile bootstrap over prompts (Efron and Tibshirani 1993, chapter 13)"
_OWN = (
    Column(
        name="decoder",
        function=lambda row, answers, scores: row.decoder + (GOLD_MARK if row.by_gold else ""),
        words="How the text was chosen.",
        rounded=str,
    ),
    Column(
        name="reward",
        function=_interval("reward"),
        words="Mean gold reward of prompt and response, with its interval; higher is better.",
        paper=_BOOTSTRAP,
        rounded=str,
    ),
    Column(
        name="reward_std",
        heading="std",
        narrow="",
        function=_field("reward_std"),
        words="Standard deviation of the rewards themselves, from response to response.",
    ),
    Column(
        name="gain",
        function=_interval("gain"),
        words="Reward minus that of the same model unguided on the same prompt, averaged, with its interval: clear "
        "where the interval leaves out 0. The tuned model is compared with the untuned one.",
        rounded=str,
    ),
    Column(
        name="to_best",
        heading="to best",
        function=lambda row, answers, scores: (
            interval(row.to_best, row.to_best_low, row.to_best_high) or ("best" if row.against else None)
        ),
        words="Reward minus that of the best decoder on the same prompts, averaged, with its interval: clear where the "
        "interval leaves out 0. Best is the highest mean reward that the gold reward did not help to find.",
        rounded=str,
    ),
    Column(
        name="headroom",
        narrow="head-\nroom",
        function=_field("headroom"),
        words="Gain as a share of the gain of the gold reward's own pick from the model's samples; none where no such "
        "pick was made.",
        rounded=percent,
    ),
    Column(
        name="judge_gain",
        heading="judge gain",
        function=_interval("judge_gain"),
        words="The same gain by a second judge, which learned from labelled reviews how positive a text reads.",
        limits="It took no part in tuning or search.",
        rounded=str,
    ),
    Column(
        name="positive",
        narrow="posi-\ntive",
        function=_field("positive"),
        words="Share of responses with a reward above 0.",
        rounded=percent,
    ),
    Column(
        name="below",
        function=_field("below"),
        words="Share of responses with a reward below evaluate.threshold.",
        rounded=percent,
    ),
    Column(
        name="kl",
        heading="KL",
        function=_interval("kl"),
        words="How far the tuned model went from the untuned one: mean of log p tuned − log p untuned on its own "
        "responses, in nats a response, of the whole distributions, before top-k and top-p.",
        rounded=str,
    ),
    Column(
        name="kl_per_token",
        heading="KL a token",
        narrow="",
        function=_field("kl_per_token"),
        words="The same divided by the number of tokens.",
        rounded=lambda value: number(value, 3),
    ),
    Column(
        name="diversity",
        narrow="diver-\nsity",
        function=_field("diversity"),
        words="Entropy in nats of the distribution of tokens, all decoders cut to equally many; higher is more varied.",
        paper="Shannon 1948",
    ),
    Column(
        name="distinct_2",
        heading="distinct-2",
        narrow="dist-\ninct-2",
        function=_field("distinct_2"),
        words="Share of pairs of neighbouring tokens that are different ones, among the same tokens; low means "
        "repetition.",
        paper="Li et al. 2016, arXiv 1510.03055",
    ),
    Column(
        name="fluency",
        function=_field("fluency"),
        words="Mean log-probability of a token in nats under the unguided large model; nearer to 0 is more fluent.",
    ),
    Column(
        name="new_tokens",
        heading="tokens",
        narrow="",
        function=_field("new_tokens"),
        words="Mean number of new tokens in a response.",
        rounded=lambda value: number(value, 1),
    ),
    Column(
        name="flops",
        heading="TFLOP",
        function=_field("flops"),
        words="Forward-pass arithmetic of all models together for one prompt, in 10¹² operations.",
        rounded=lambda flops: significant(flops / 1e12),
    ),
    Column(
        name="seconds",
        narrow="sec.",
        function=_field("seconds"),
        words="Wall seconds for one prompt, measured once; a gold pick counts the search that it picks from.",
        limits=f"Other work on the machine moves them: {NOISE}.",
        rounded=significant,
    ),
)
for _column in _OWN:
    COLUMNS.add(_column)


def with_columns(
    rows: Sequence[Row],
    names: Iterable[str],
    generations: Mapping[str, Sequence[Generation]],
    scores: Mapping[str, Sequence[Score]],
) -> list[Row]:
    """The rows with the numbers of an experiment's further columns (`names`) in `extra`.

    Raises:
        ConfigurationError: a column's function raises or gives no number, or table.csv has another column of its name.
    """
    columns = [COLUMNS[name] for name in dict.fromkeys(names) if not COLUMNS[name].own]
    for column in columns:
        if column.name in {field.name for field in dataclasses.fields(Row)}:
            raise ConfigurationError(f"the column {column.name} has the name of another one in table.csv: rename it")
    measured = []
    for row in rows:
        answer_to = {answer.prompt_id: answer for answer in answers(generations[row.decoder])}
        finite = tuple(score for score in scores[row.decoder] if is_finite(score))
        answered = tuple(answer_to[score.prompt_id] for score in finite)
        extra = {column.name: _number(column, row, answered, finite) for column in columns}
        measured.append(dataclasses.replace(row, extra=extra))
    return measured


def _number(column: Column, row: Row, answered: tuple[Generation, ...], finite: tuple[Score, ...]) -> float | None:
    """The plug-in's number for a row, which its own rounding must accept."""
    try:
        value = column.function(row, answered, finite)
        checked = None if value is None else float(value)
        if checked is not None:
            str.strip(column.rounded(checked))
    except TrimtabError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise ConfigurationError(
            f"the column {column.name} failed on decoder {row.decoder} {fault_in(error)}: mend it"
        ) from error
    return checked


def columns_of(
    rows: Sequence[Row], *, large: bool = True, prompted: bool = True, zero: bool = True
) -> tuple[Column, ...]:
    """The columns of these rows' table: trimtab's own, then the rows' further ones; none that is empty.

    Without a `large` model fluency is under the small one. Without prompts (`prompted`) responses are not cut. Where
    the reward's `zero` has no meaning, the share of rewards above it has none either.
    """
    extra = dict.fromkeys(name for row in rows for name in row.extra)
    columns = {name: column for name, column in COLUMNS.items() if column.own and (zero or name != "positive")}
    columns |= {name: COLUMNS[name] for name in extra}
    columns = {name: column for name, column in columns.items() if any(map(column.text, rows))}

    def change(name: str, **changes: str) -> None:
        if name in columns:
            columns[name] = dataclasses.replace(columns[name], **changes)  # type: ignore[arg-type]

    if not large:
        words = (
            "Mean log-probability of a token in nats under the untuned small model, since there is no large one; "
            "nearer to 0 is more fluent to it."
        )
        change("fluency", heading="fluency (untuned)", narrow="untuned\nfluency", words=words)
    if not prompted:
        entropy = "Entropy in nats of the distribution of tokens of all responses; higher is more varied."
        change("diversity", words=entropy)
        pairs = "Share of pairs of neighbouring tokens that are different ones; falls with the number of responses."
        change("distinct_2", words=pairs)
        for name in ("flops", "seconds"):  # of no interest here, and a terminal has no room for all
            change(name, narrow="")
    if "below" in columns:
        limit = next(number(row.threshold) for row in rows if row.threshold is not None)
        words = f"Share of responses with a reward below {limit} (evaluate.threshold)."
        change("below", heading=f"below {limit}", narrow=f"below\n{limit}", words=words)
    return tuple(columns.values())


def characters(cells: Iterable[Iterable[str]]) -> int:
    """The least width of a table in characters, by which the page chooses a size that fits on paper.

    `cells` are the texts of each column but the first, which holds names: these break anywhere, others at spaces.
    """
    longest = [
        max((len(part) for text in column for part in re.split(r"[ \u00ad]", text)), default=0) for column in cells
    ]
    return NAME_CHARACTERS + sum(longest) + math.ceil(1.3 * len(longest))  # the latter between two columns
