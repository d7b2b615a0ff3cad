"""The table in its shapes: nothing lost in CSV, nothing cut off in a terminal, nothing claimed that is not clear."""

import csv
import dataclasses
import io
import math

import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluation.evaluate import Row
from trimtab.experiment import Experiment
from trimtab.report import columns, tables

LARGE, SMALL = "google/gemma-3-270m", "HuggingFaceTB/SmolLM2-135M-Instruct"


def row(decoder="bon-16", **changes):
    plain = Row(
        decoder, LARGE, 1.9, 1.6, 2.2, 0.83, 0.5, 1.1, 0.47, 0.9, 0.4, 0.2, 0.6,
        0.75, 5.1, 0.3, 0.81, -3.2, 39.5, 3.9e11, 0.25, 96, 0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def reference(decoder="base", **changes):
    blank = dict.fromkeys(
        ["gain", "gain_low", "gain_high", "headroom", "judge_gain", "judge_gain_low", "judge_gain_high"]
    )
    return row(decoder, reward=1.07, flops=3e10, **{**blank, **changes})


def run(*decoders, **values):
    return Experiment.model_validate({"name": "demo", "guide": {"decoders": list(decoders)}, **values})


QUICKSTART = run(
    {"name": "base"}, {"successors": 16}, {"best_of": "bon-16"}, {"width": 4, "successors": 4, "chunk": 5},
    {"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"},
)  # fmt: skip


def quickstart_rows(**cbs):
    return [
        reference(),
        row(),
        row("gold-bon-16", gain=1.8, headroom=1.0),
        row("cbs-4-4-5", **{"gain": 1.23, "gain_low": 0.98, "gain_high": 1.5, "headroom": 0.68, "flops": 6e11, **cbs}),
        reference("untuned", model=SMALL),
        row("tuned", model=f"{SMALL} (tuned)", headroom=None),
    ]


def test_csv_has_the_promised_columns(tmp_path):
    tables.write_csv([row()], tmp_path / "table.csv")
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert header == (
        "decoder,model,reward,reward_low,reward_high,gain,gain_low,gain_high,headroom,judge,judge_gain,judge_gain_low,"
        "judge_gain_high,positive,diversity,distinct_1,distinct_2,fluency,new_tokens,flops,seconds,prompts,left_out"
    )


@given(st.floats(allow_nan=False), st.none() | st.floats(allow_nan=False, allow_infinity=False), st.text(min_size=1))
def test_csv_gives_back_every_value(tmp_path_factory, reward, headroom, model):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    written = row(reward=reward, headroom=headroom, model=model.replace("\r", "").replace("\x00", "") or "m")
    tables.write_csv([written, reference()], path)
    (read, blank) = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    assert float(read["reward"]) == reward
    assert (read["headroom"] == "") if headroom is None else (float(read["headroom"]) == headroom)
    assert read["model"] == written.model
    assert int(read["prompts"]) == 96
    assert blank["gain"] == blank["judge_gain_low"] == ""


def test_markdown_is_one_table_whose_cells_cannot_break_it(tmp_path):
    tables.write_markdown([row(model="a|b"), reference()], tmp_path / "table.md")
    lines = [line for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(columns.COLUMNS) + 2}
    assert "| 1.90 [1.60, 2.20] | 0.83 [0.50, 1.10] | 47 % |" in lines[2]


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_table_fits_and_cuts_nothing_off(width):
    rows = [
        *quickstart_rows(),
        row("eft-0.5", model=SMALL, reward=-1.25, reward_low=-1.5, gain_low=-0.5, judge_gain_low=-1),
    ]
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal_table(rows, width))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for shown in ("gold-bon-16", "-1.25", "[-1.50, 2.20]", "[-0.50, 1.10]", "[-1.00, 0.60]", "0.39", "0.25", "sec."):
        assert shown in text
    assert ("-1.25 [-1.50, 2.20]" in text) == (width == 120)
    assert f"{SMALL}: untuned, tuned, eft-0.5" in text


def test_terminal_table_says_what_was_left_out_and_takes_names_literally():
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(tables.terminal_table([row(left_out=3, prompts=93, model="[red]x[/red]")]))
    text = console.export_text()
    assert "96 prompts" in text and "3 responses without a finite reward" in text
    assert "[red]x[/red]: bon-16" in text


def test_verdict_names_the_best_search_its_share_its_cost_and_the_judge():
    assert tables.verdict(QUICKSTART, quickstart_rows()) == (
        "CBS 4/4/5 lifts the gold reward of google/gemma-3-270m by 1.23 nats [0.98, 1.50] over unguided decoding, 68 % "
        "of what the best of bon-16's samples by the gold reward gains, at 20 times the arithmetic; a second judge "
        "agrees (0.40 [0.20, 0.60]). Tuning lifts the gold reward of HuggingFaceTB/SmolLM2-135M-Instruct by 0.83 nats "
        "[0.50, 1.10] over its untuned self; a second judge agrees (0.40 [0.20, 0.60])."
    )


def test_verdict_never_credits_the_gold_pick():
    verdict = tables.verdict(QUICKSTART, quickstart_rows(gain=0.1, gain_low=0.05, gain_high=0.2))
    assert verdict.startswith("Best-of-16 lifts")


def test_verdict_claims_nothing_where_the_interval_holds_zero():
    rows = [reference(), row(gain=0.1, gain_low=-0.1, gain_high=0.3, headroom=0.05, judge_gain_low=-0.2)]
    verdict = tables.verdict(run({"name": "base"}, {"successors": 16}), rows)
    assert "does not clearly change the gold reward of google/gemma-3-270m (0.10 [-0.10, 0.30] nats)" in verdict
    assert "a second judge sees no clear change" in verdict


@pytest.mark.parametrize(
    "judge, words", [((0.2, 0.6), "a second judge disagrees"), ((-0.6, -0.2), "a second judge agrees")]
)
def test_verdict_on_a_loss(judge, words):
    low, high = judge
    loss = row(gain=-0.5, gain_low=-0.75, gain_high=-0.25, headroom=-0.3, judge_gain_low=low, judge_gain_high=high)
    verdict = tables.verdict(
        run({"name": "base"}, {"successors": 16}, reward={"definition": "positive_logit"}), [reference(), loss]
    )
    assert "lowers the gold reward of google/gemma-3-270m by 0.50 logits [0.25, 0.75]" in verdict
    assert "%" not in verdict  # a negative share of the headroom says nothing
    assert words in verdict


def test_verdict_without_a_comparison_says_so():
    assert "no gain to report" in tables.verdict(run({"name": "base"}), [reference()])


def test_numbers_read_well():
    assert columns.number(-0.001) == "0.00"
    assert columns.number(None) == columns.interval(None, None, None) == columns.percent(None) == ""
    assert [columns.significant(value) for value in (0.0, 0.02134, 1.938, 999.4, 12345.6)] == [
        "0", "0.0213", "1.94", "999", "12346"
    ]  # fmt: skip
    assert math.isfinite(float(columns.significant(1e-9)))


@pytest.mark.parametrize(
    "decoder, words",
    [
        ({"name": "base"}, "unguided decoding"),
        ({"successors": 16}, "best-of-16"),
        ({"width": 4, "successors": 4, "chunk": 5}, "CBS 4/4/5"),
        ({"model": "untuned", "beta": 0.5}, "EFT beta 0.5"),
        ({"beta": 2.0, "successors": 8}, "EFT beta 2 with best-of-8"),
    ],
)
def test_decoders_in_words(decoder, words):
    assert columns.description(run(decoder).guide.decoders[0]) == words
