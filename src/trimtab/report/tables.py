"""The table as CSV, as Markdown and in the terminal, and its verdict in plain sentences.

Knows nothing of figures or of how rows were measured.

    >>> round_trip = float(csv_text(0.1 + 0.2))
    >>> round_trip == 0.1 + 0.2
    True
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import rich.box
import rich.table
import rich.text

from trimtab.evaluation.evaluate import TUNED, Row, oracle_of
from trimtab.experiment import DecoderConfig, Experiment
from trimtab.report.columns import COLUMNS, description, interval, percent, reward_unit, significant
from trimtab.runs import write_text

WIDE = 120  # terminal columns from which a mean and its interval fit on one line
LEFT = ("decoder", "reward", "gain", "judge gain")


def csv_text(value: str | float | int | None) -> str:
    """A cell that reads back as the same value: floats in full, None as nothing."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write `table.csv`: a column for each field of `Row`, floats with all their digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    writer.writerows([csv_text(value) for value in dataclasses.astuple(row)] for row in rows)
    write_text(path, [file.getvalue()])


def write_markdown(rows: Sequence[Row], path: Path) -> None:
    """Write the rounded table with a model column, and below it what each column means."""
    decoder, *others = COLUMNS
    cells = [[decoder.heading, "model", *(column.heading for column in others)], ["---"] * (len(COLUMNS) + 1)]
    cells += [[decoder.text(row), row.model, *(column.text(row) for column in others)] for row in rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in cells]
    write_text(path, [*lines, "\n", *(f"- **{column.heading}**: {column.meaning}\n" for column in COLUMNS)])


def terminal_table(rows: Sequence[Row], width: int = WIDE) -> rich.table.Table:
    """The table for a terminal of `width` columns, at least 100, a section for each model.

    Below 120 columns an interval stands under its mean, so that nothing is cut off.
    """
    grouped = families(rows)
    names = [f"{model}: {', '.join(row.decoder for row in members)}" for model, members in grouped.items()]
    table = rich.table.Table(
        title=rich.text.Text("\n".join(names)),
        title_justify="left",
        caption=rich.text.Text(_legend(rows)),
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    shown = [column for column in COLUMNS if column.narrow]
    for column in shown:
        table.add_column(column.narrow, justify="left" if column.heading in LEFT else "right", no_wrap=True)
    for members in grouped.values():
        for row in members:
            cells = [column.text(row) for column in shown]
            table.add_row(*(rich.text.Text(cell if width >= WIDE else cell.replace(" [", "\n[")) for cell in cells))
        table.add_section()
    return table


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the model they sample from, the tuned model with the untuned one that it is compared with."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.model.removesuffix(TUNED), []).append(row)
    return grouped


def _legend(rows: Sequence[Row]) -> str:
    left_out = sum(row.left_out for row in rows)
    prompts = max((row.prompts + row.left_out for row in rows), default=0)
    missing = f"; {left_out} responses without a finite reward left out" if left_out else ""
    return (
        "mean [interval]; gain: over the same model unguided; headroom: share of the gold pick's gain; "
        f"diversity, fluency: nats; TFLOP, sec.: for one of {prompts} prompts{missing}"
    )


def verdict(experiment: Experiment, rows: Sequence[Row]) -> str:
    """What was achieved, in one to three plain sentences: the guided large model first, then the tuned small one."""
    by_name = {row.decoder: row for row in rows}
    compared = [
        (decoder, by_name[decoder.name])
        for decoder in experiment.guide.decoders
        if decoder.best_of is None and decoder.name in by_name and by_name[decoder.name].gain is not None
    ]
    steered = [entry for entry in compared if entry[0].model == "large"]
    tuned = [entry for entry in compared if entry[0].model == "tuned" and not entry[0].guided]
    if not compared:
        return "No decoder was compared with an unguided one, so there is no gain to report."
    sentences = [_headline(experiment, by_name, *max(steered, key=_gain_of))] if steered else []
    sentences += [_tuned_sentence(experiment, row) for _, row in tuned[:1]]
    return " ".join(sentences or [_headline(experiment, by_name, *max(compared, key=_gain_of))])


def _gain_of(entry: tuple[DecoderConfig, Row]) -> float:
    assert entry[1].gain is not None
    return entry[1].gain


def _headline(experiment: Experiment, by_name: Mapping[str, Row], decoder: DecoderConfig, row: Row) -> str:
    guide, what = experiment.guide, description(decoder)
    change = f"{what[0].upper()}{what[1:]} {_change(experiment, row)} over unguided decoding"
    oracle, reference = oracle_of(guide, decoder), guide.reference_of(decoder)
    if row.headroom is not None and row.headroom > 0 and oracle is not None:
        change += f", {percent(row.headroom)} of what {description(oracle)} gains"
    cost = ""
    if reference is not None and by_name[reference.name].flops > 0:
        cost = f", at {significant(row.flops / by_name[reference.name].flops)} times the arithmetic"
    return f"{change}{cost}; {_judgement(row)}."


def _tuned_sentence(experiment: Experiment, row: Row) -> str:
    return f"Tuning {_change(experiment, row)} over its untuned self; {_judgement(row)}."


def _change(experiment: Experiment, row: Row) -> str:
    """`lifts the gold reward of M by 1.23 nats [0.98, 1.50]`, or that it is not clear from this many prompts."""
    unit = reward_unit(experiment)
    model = row.model.removesuffix(TUNED)
    assert row.gain is not None and row.gain_low is not None and row.gain_high is not None
    if row.gain_low <= 0 <= row.gain_high:
        shown = interval(row.gain, row.gain_low, row.gain_high)
        return f"does not clearly change the gold reward of {model} ({shown} {unit})"
    verb = "lifts" if row.gain > 0 else "lowers"
    low, high = sorted((abs(row.gain_low), abs(row.gain_high)))
    return f"{verb} the gold reward of {model} by {abs(row.gain):.2f} {unit} [{low:.2f}, {high:.2f}]"


def _judgement(row: Row) -> str:
    assert row.gain is not None and row.gain_low is not None and row.gain_high is not None
    assert row.judge_gain_low is not None and row.judge_gain_high is not None
    shown = interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high)
    if row.judge_gain_low <= 0 <= row.judge_gain_high:
        return f"a second judge sees no clear change ({shown})"
    if row.gain_low <= 0 <= row.gain_high:
        return f"a second judge sees a {'rise' if row.judge_gain_low > 0 else 'fall'} ({shown})"
    return f"a second judge {'agrees' if (row.judge_gain_low > 0) == (row.gain > 0) else 'disagrees'} ({shown})"
