"""The table in its shapes: nothing lost in CSV, nothing cut off in a terminal, nothing claimed that is not clear."""

import csv
import dataclasses
import io
import math

import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st

from tiny_report import SMALL, quickstart_rows, reference, row, run
from trimtab.evaluation.differences import Difference
from trimtab.evaluation.metrics import Estimate
from trimtab.report import columns, decoder_words, tables, wording


def test_csv_has_the_promised_columns(tmp_path):
    tables.write_csv([row()], tmp_path / "table.csv")
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert header == (
        "decoder,model,reward,reward_low,reward_high,gain,gain_low,gain_high,headroom,judge,judge_gain,judge_gain_low,"
        "judge_gain_high,positive,diversity,distinct_1,distinct_2,fluency,new_tokens,flops,seconds,prompts,left_out,"
        "set_aside,by_gold,reward_std,threshold,below,kl,kl_low,kl_high,kl_per_token,to_best,to_best_low,to_best_high"
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
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(columns.columns_of([row()])) + 2}
    assert "| 1.90 [1.60, 2.20] | 0.83 [0.50, 1.10] | 47 % |" in lines[2]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_terminal_table_fits_and_cuts_nothing_off(width):
    rows = [
        *(dataclasses.replace(each, to_best=-0.4, to_best_low=-0.6, to_best_high=-0.2) for each in quickstart_rows()),
        row("eft-0.5", model=SMALL, reward=-1.25, reward_low=-1.5, gain_low=-0.5, judge_gain_low=-1),
    ]
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(*tables.terminal_tables(rows, width))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for shown in ("gold-bon-16", "-1.25", "[-1.50, 2.20]", "[-0.50, 1.10]", "[-1.00, 0.60]", "0.39", "0.25", "sec."):
        assert shown in text
    assert ("-1.25 [-1.50, 2.20]" in text) == (width == 160)
    assert text.count("\ngold-bon-16 ") == {60: 3, 80: 2, 100: 2}.get(width, 1)  # in as many parts
    assert f"{SMALL}: untuned, tuned, eft-0.5" in " ".join(text.split())


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_table_of_an_experiment_without_prompts_fits_too(width):
    """With the share below a threshold, KL and the model that fluency is measured under in the place of headroom."""
    measured = {"threshold": -0.5, "below": 0.04, "headroom": None, "prompts": 5000}
    rows = [
        reference("untuned", model=SMALL, **measured),
        row(
            "tuned",
            model=f"{SMALL} (tuned)",
            gain_low=-0.5,
            judge_gain_low=-1,
            kl=12.31,
            kl_low=11.9,
            kl_high=12.72,
            kl_per_token=0.195,
            **measured,
        ),
    ]
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(*tables.terminal_tables(rows, width, columns.columns_of(rows, large=False, prompted=False)))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text and "head-" not in text
    for shown in ("12.31", "[11.90, 12.72]", "4 %", "-0.50", "untuned", "5000 responses", "KL from the untuned model"):
        assert shown in " ".join(text.split())  # the legend is broken into lines
    meanings = {column.heading: column.meaning for column in columns.columns_of(rows, large=False, prompted=False)}
    assert "since there is no large one" in meanings["fluency (untuned)"] and "cut to" not in meanings["diversity"]


def test_names_without_end_leave_room_for_numbers():
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(*tables.terminal_tables([row("M" * 80)], 80))
    text = console.export_text()
    assert text.count("M") >= 80 and "[1.60, 2.20]" in text and max(map(len, text.splitlines())) <= 80


def test_decoders_differences_are_written_with_all_their_digits(tmp_path):
    found = Difference(Estimate(0.125, -1e-17, 0.5), Estimate(-0.25, -0.5, 0.1), 96)
    unread = Difference(Estimate(1.0, 0.5, 1.5), None, 95)
    tables.write_differences([row("a", against={"b": found, "c": unread}), row("b")], tmp_path / "differences.csv")
    assert (tmp_path / "differences.csv").read_text().splitlines() == [
        "decoder,other,prompts,reward,reward_low,reward_high,fluency,fluency_low,fluency_high",
        "a,b,96,0.125,-1e-17,0.5,-0.25,-0.5,0.1",
        "a,c,95,1.0,0.5,1.5,,,",
    ]


def test_no_column_is_empty_wherever_the_table_is_shown():
    """A run without a judge once had a column of dashes, and so had one without a comparison."""
    blank = dict.fromkeys(["judge", "judge_gain", "judge_gain_low", "judge_gain_high"])
    rows = [reference(**blank), row(**blank)]
    assert "judge_gain" not in [column.name for column in columns.columns_of(rows)]
    assert not {"gain", "to_best", "headroom"} & {column.name for column in columns.columns_of([reference()])}


def test_terminal_table_says_what_was_left_out_and_takes_names_literally():
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(*tables.terminal_tables([row(left_out=3, prompts=93, model="[red]x[/red]")], 120))
    text = console.export_text()
    assert "96 prompts" in text and "3 responses without finite logits" in text
    assert "[red]x[/red]: bon-16" in text


def test_numbers_read_well():
    assert wording.number(-0.001) == "0.00"
    assert wording.number(None) == wording.interval(None, None, None) == wording.percent(None) == ""
    assert [wording.significant(value) for value in (0.0, 0.012, 0.02134, 1.938, 999.4, 12345.6)] == [
        "0", "0.0120", "0.0213", "1.94", "999", "12,346"
    ]  # fmt: skip
    assert math.isfinite(float(wording.significant(1e-9)))


@pytest.mark.parametrize(
    "decoder, words",
    [
        ({"name": "base"}, "unguided decoding"),
        ({"successors": 16}, "best-of-16"),
        ({"width": 4, "successors": 4, "chunk": 5}, "chunk-level beam search (CBS 4/4/5)"),
        ({"model": "untuned", "beta": 0.5}, "EFT beta 0.5"),
        ({"beta": 2.0, "successors": 8}, "EFT beta 2 with best-of-8"),
    ],
)
def test_decoders_in_words(decoder, words):
    assert decoder_words.description(run(decoder).guide.decoders[0]) == words


def test_times_and_ratios_read_well():
    seconds = (0.0612, 0.937, 9.86, 25.49, 99.6, 937.6, 3599.6, 3600, 90061)
    assert [wording.duration(value) for value in seconds] == [
        "0.061 s", "0.94 s", "9.9 s", "25 s", "1 min 40 s", "15 min 38 s", "1 h 0 min", "1 h 0 min", "25 h 1 min"
    ]  # fmt: skip
    assert [wording.times(ratio) for ratio in (0.52, 2.06, 9.94, 9.96, 24.7)] == [
        "0.5 times", "2.1 times", "9.9 times", "10 times", "25 times"
    ]  # fmt: skip


def test_a_model_goes_by_its_last_name_unless_another_has_the_same():
    assert wording.short_names(["google/gemma", "me/tiny", "me/tiny (tuned)", "runs/tuned/"]) == {
        "google/gemma": "gemma", "me/tiny": "tiny", "me/tiny (tuned)": "tiny (tuned)", "runs/tuned/": "tuned"
    }  # fmt: skip
    assert wording.short_names(["a/model", "b/model"]) == {"a/model": "a/model", "b/model": "b/model"}


@pytest.mark.parametrize(
    "decoder, words",
    [
        ({"name": "base"}, ["by itself"]),
        ({"successors": 16}, ["of 16 samples", "the guide"]),
        ({"width": 2, "successors": 3, "chunk": 5}, ["every 5 tokens", "2 beams", "3 ways", "best 2"]),
        ({"width": 2, "successors": 3, "chunk": 1}, ["every token"]),
        ({"beta": 2.0, "successors": 8}, ["2 times the difference", "of 8 samples"]),
    ],
)
def test_decoders_are_explained_with_their_own_numbers(decoder, words):
    explanation = decoder_words.explanation(run(decoder).guide.decoders[0])
    assert all(word in explanation for word in words)
