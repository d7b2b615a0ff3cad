"""What was achieved, in plain sentences that claim no more than the intervals hold.

Knows the table and the configuration, nothing of pages or terminals.

    >>> verdict(Experiment(name="demo"), [])
    'No decoder was compared with an unguided one, so there is no gain to report.'
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.evaluation.evaluate import TUNED, Row, oracle_of
from trimtab.report import reward_words
from trimtab.report.decoder_words import description
from trimtab.report.wording import interval, number, percent, short_names, times

NOTHING = "No decoder was compared with an unguided one, so there is no gain to report."


@dataclass(frozen=True)
class Finding:
    """A decoder that was compared, its row, and the row of its unguided reference."""

    decoder: DecoderConfig
    row: Row
    reference: Row


def findings(experiment: Experiment, rows: Sequence[Row]) -> list[Finding]:
    """What the verdict is about: the guided large model of highest gain, then the tuned small one.

    Where there is neither, whatever was compared and gained most; empty where nothing was compared. The gold reward's
    own pick, and what it guided, are never among them.
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
    steered = [each for each in compared if each.decoder.model == "large"]
    tuned = [each for each in compared if each.decoder.model == "tuned" and not each.decoder.guided]
    found = [max(steered, key=_gain_of)] if steered else []
    found += tuned[:1]
    return found or ([max(compared, key=_gain_of)] if compared else [])


def _gain_of(finding: Finding) -> float:
    assert finding.row.gain is not None
    return finding.row.gain


def verdict(experiment: Experiment, rows: Sequence[Row]) -> str:
    """All of it in one to three sentences, for a terminal."""
    sentences = []
    for finding in findings(experiment, rows):
        over = "its untuned self" if _is_tuned(finding) else "unguided decoding"
        parts = [f"{change(experiment, finding)} over {over}", headroom(experiment, finding)]
        if finding.reference.flops > 0 and not _is_tuned(finding):
            parts.append(f"at {times(finding.row.flops / finding.reference.flops)} the arithmetic")
        row = finding.row
        shown = interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high)
        judged = judgement(experiment, finding) + (f" ({shown})" if shown else "")
        sentences.append(f"{', '.join(part for part in parts if part)}; {judged}.")
    return " ".join(sentences) or NOTHING


def headline(experiment: Experiment, rows: Sequence[Row]) -> str:
    """By how much, and what the second judge says to it, without the rest."""
    found = findings(experiment, rows)
    return " ".join(f"{change(experiment, each)}; {judgement(experiment, each)}." for each in found) or NOTHING


def _is_tuned(finding: Finding) -> bool:
    decoder = finding.decoder
    return decoder.model == "tuned" and decoder.plain


def change(experiment: Experiment, finding: Finding) -> str:
    """`Best-of-16 lifts the gold reward of M by 1.23 nats [0.98, 1.50]`, or that it does not clearly change it."""
    what = "tuning" if _is_tuned(finding) else description(finding.decoder)
    row, unit = finding.row, experiment.reward.entry.unit
    model = short_names([experiment.base.name, experiment.small.name])[row.model.removesuffix(TUNED)]
    subject = f"{what[0].upper()}{what[1:]}"
    assert row.gain is not None and row.gain_low is not None and row.gain_high is not None
    if row.gain_low <= 0 <= row.gain_high:
        shown = interval(row.gain, row.gain_low, row.gain_high)
        return f"{subject} does not clearly change the gold reward of {model} ({shown} {unit})"
    verb = "lifts" if row.gain > 0 else "lowers"
    low, high = sorted((abs(row.gain_low), abs(row.gain_high)))
    return f"{subject} {verb} the gold reward of {model} by {number(abs(row.gain))} {unit} [{low:.2f}, {high:.2f}]"


def headroom(experiment: Experiment, finding: Finding) -> str:
    """`68 % of what the best of bon-16's samples by the gold reward gains`; empty where that says nothing."""
    share, oracle = finding.row.headroom, oracle_of(experiment.guide, finding.decoder)
    return f"{percent(share)} of what {description(oracle)} gains" if share is not None and share > 0 and oracle else ""


def judgement(experiment: Experiment, finding: Finding) -> str:
    """Whether the second judge agrees, as far as its interval can tell; or that there is none.

    It tells positive reviews from negative ones, so that it can agree only with a reward of that.
    """
    row = finding.row
    assert row.gain is not None and row.gain_low is not None and row.gain_high is not None
    if row.judge_gain_low is None or row.judge_gain_high is None:
        return "no second judge was asked"
    same = reward_words.tone(experiment.reward) == "positive"
    judge = "a second judge" if same else "a judge of how positive texts read"
    if row.judge_gain_low <= 0 <= row.judge_gain_high:
        return f"{judge} sees no clear change"
    if not same or row.gain_low <= 0 <= row.gain_high:
        return f"{judge} sees a {'rise' if row.judge_gain_low > 0 else 'fall'}"
    return f"a second judge {'agrees' if (row.judge_gain_low > 0) == (row.gain > 0) else 'disagrees'}"
