"""What was achieved, in plain sentences that claim no more than the number of prompts and the intervals hold.

>>> verdict(Experiment(name="demo"), [])
'No decoder was compared with an unguided one, so there is no gain to report.'
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.evaluation.evaluate import TUNED_SUFFIX, Row
from trimtab.evaluation.marks import oracle_of
from trimtab.report import reward_words
from trimtab.report.between import between
from trimtab.report.decoder_words import description
from trimtab.report.wording import interval, number, percent, short_names, times

NOTHING = "No decoder was compared with an unguided one, so there is no gain to report."
MIN_PROMPTS = 20
"""From fewer prompts no verdict is given: bootstrap intervals are too narrow there."""


@dataclass(frozen=True)
class Finding:
    """A decoder that was compared, its row, and the row of its unguided reference."""

    decoder: DecoderConfig
    row: Row
    reference: Row

    @property
    def gain(self) -> tuple[float, float, float]:
        """The gain over the reference, with its interval."""
        assert self.row.gain is not None and self.row.gain_low is not None and self.row.gain_high is not None
        return self.row.gain, self.row.gain_low, self.row.gain_high

    @property
    def few(self) -> bool:
        """Whether it was measured on too few prompts for a verdict."""
        return self.row.prompts < MIN_PROMPTS

    @property
    def clear(self) -> bool:
        """Whether there are prompts enough, and the gain's interval leaves out 0."""
        _, low, high = self.gain
        return not self.few and not low <= 0 <= high

    @property
    def of_tuning(self) -> bool:
        """Whether this is the tuned model alone, compared with the untuned one."""
        return self.decoder.model == "tuned" and self.decoder.plain


def findings(experiment: Experiment, rows: Sequence[Row]) -> list[Finding]:
    """The comparisons that the verdict reports: the large model's decoder of highest gain, then the tuned small model.

    Where there is neither, the decoder of highest gain; empty where nothing was compared. Decoders that the gold reward
    picks for (`best_of`) or guides are never reported.
    """
    guide, by_name = experiment.guide, {row.decoder: row for row in rows}
    compared = [
        Finding(decoder, by_name[decoder.name], by_name[reference.name])
        for decoder in guide.decoders
        if decoder.best_of is None
        and not decoder.guided_by_gold
        and decoder.name in by_name
        and by_name[decoder.name].gain is not None
        and (reference := guide.reference_of(decoder)) is not None
    ]
    steered = [finding for finding in compared if finding.decoder.model == "large"]
    tuned = [finding for finding in compared if finding.decoder.model == "tuned" and not finding.decoder.guided]
    best = sorted(steered, key=lambda finding: -finding.gain[0])[:1] + tuned[:1]
    return best or sorted(compared, key=lambda finding: -finding.gain[0])[:1]


def verdict(experiment: Experiment, rows: Sequence[Row]) -> str:
    """The verdict in a few sentences, for a terminal."""
    sentences = []
    compared = findings(experiment, rows)
    for finding in compared:
        row, reference = finding.row, finding.reference
        if finding.few:
            sentences.append(f"{_change(experiment, finding)}.")
            continue
        over = "its untuned self" if finding.of_tuning else "unguided decoding"
        parts = [f"{_change(experiment, finding)} over {over}"]
        oracle = oracle_of(experiment.guide, finding.decoder)
        if oracle is not None and (row.headroom or 0) > 0:
            parts.append(f"{percent(row.headroom)} of what {description(oracle)} gains")
        if reference.flops > 0 and not finding.of_tuning:
            parts.append(f"at {times(row.flops / reference.flops)} the arithmetic")
        judge_gain = interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high)
        judged = _judgement(experiment, finding) + (f" ({judge_gain})" if judge_gain else "")
        sentences.append(f"{', '.join(parts)}; {judged}.")
    if not any(finding.few for finding in compared):
        sentences += between(experiment, rows)
    return _joined(sentences) or NOTHING


def headline(experiment: Experiment, rows: Sequence[Row]) -> str:
    """For the page: by how much the reward changed, and whether the second judge agrees."""
    sentences = [
        _change(experiment, finding) + ("." if finding.few else f"; {_judgement(experiment, finding)}.")
        for finding in findings(experiment, rows)
    ]
    return _joined(sentences) or NOTHING


def _joined(sentences: Sequence[str]) -> str:
    """The sentences as one text, which says only once that the prompts are too few.

    >>> _joined(["3 prompts are too few: on them A rose.", "3 prompts are too few: on them B fell."])
    '3 prompts are too few: on them A rose. On them B fell.'
    """
    said, before = [], ""
    for sentence in sentences:
        few, on_them, change = sentence.partition(": on them ")
        said.append(f"On them {change}" if on_them and few == before else sentence)
        before = few
    return " ".join(said)


def _change(experiment: Experiment, finding: Finding) -> str:
    """`Best-of-16 lifts the gold reward of M by 1.23 nats [0.98, 1.50]`, or that it does not clearly change it."""
    what = "tuning" if finding.of_tuning else description(finding.decoder)
    unit, (gain, low, high) = experiment.reward.entry.unit, finding.gain
    model = model_of(experiment, finding.row)
    subject = f"{what[0].upper()}{what[1:]}"
    if finding.few:
        count = finding.row.prompts
        return (
            f"{count} prompt{' is' if count == 1 else 's are'} too few for a verdict, which takes at least "
            f"{MIN_PROMPTS}: on them {what} changed the gold reward of {model} by {interval(gain, low, high)} {unit}"
        )
    if not finding.clear:
        return f"{subject} does not clearly change the gold reward of {model} ({interval(gain, low, high)} {unit})"
    verb = "lifts" if gain > 0 else "lowers"
    low, high = sorted((abs(low), abs(high)))
    return f"{subject} {verb} the gold reward of {model} by {number(abs(gain))} {unit} [{low:.2f}, {high:.2f}]"


def model_of(experiment: Experiment, row: Row) -> str:
    """The short name of the model that a row is of, tuned or not."""
    return short_names([experiment.base.name, experiment.small.name])[row.model.removesuffix(TUNED_SUFFIX)]


def _judgement(experiment: Experiment, finding: Finding) -> str:
    """Whether the second judge agrees, as far as its interval can tell; or that there is none.

    It tells positive reviews from negative ones, so it can agree only with a reward for positive texts.
    """
    low, high = finding.row.judge_gain_low, finding.row.judge_gain_high
    if low is None or high is None:
        return "no second judge was asked"
    same = reward_words.tone(experiment.reward) == "positive"
    judge = "a second judge" if same else "a judge of how positive texts read"
    if low <= 0 <= high:
        return f"{judge} sees no clear change"
    if not same or not finding.clear:
        return f"{judge} sees a {'rise' if low > 0 else 'fall'}"
    return f"a second judge {'agrees' if (low > 0) == (finding.gain[0] > 0) else 'disagrees'}"
