"""`trimtab export`: all generations as CSV, JSON lines or a data set, a row for each; nothing is overwritten."""

import csv
import json
import math
from pathlib import Path

import datasets
import pytest
from test_decoded import PROMPTS, write_run

from trimtab import cli
from trimtab.assets.rows import read_rows
from trimtab.integrations.generation_table import COLUMNS, rows_of
from trimtab.pipeline.decoded import point, read_decoded
from trimtab.records import Generation, Score
from trimtab.store.files import write_json, write_records


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two decoders of three prompts, one of them unscored, two candidates a prompt."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "chat", "base", [0.5, -2.0, math.nan])
    write_run(tmp_path / "chat", "bon-2", [0.0, 0.0, 0.0])
    (tmp_path / "chat/decoders/bon-2/scores").unlink()
    return tmp_path / "chat"


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", "export", *arguments])
    cli.main()


def test_a_row_is_a_generation_with_its_scores(run: Path) -> None:
    rows = list(rows_of(read_decoded(f"{run}:base")))
    assert len(rows) == 2 * len(PROMPTS) and all([*row] == [*COLUMNS] for row in rows)
    first = next(row for row in rows if row["prompt_id"] == "test-0" and row["chosen"])
    assert first == {
        "decoder": "base", "prompt_id": "test-0", "prompt": "Name a tree.", "source": "helpful", "candidate": 0,
        "chosen": True, "text": " An oak. ", "finish": "eos", "tokens": 1, "value": None, "reward": 0.5,
        "positive": True, "judge": None, "fluency": -1.0, "set_aside": "",
    }  # fmt: skip
    answers = {row["prompt_id"]: row for row in rows if row["chosen"]}
    assert [answers[f"test-{number}"]["positive"] for number in range(3)] == [True, False, None]
    assert "its reward is nan" in answers["test-2"]["set_aside"]
    others = [row for row in rows if not row["chosen"]]
    assert {(row["candidate"], row["reward"], row["fluency"]) for row in others} == {(1, None, None)}


def test_rewards_that_the_search_took_and_prompts_without_an_answer(run: Path) -> None:
    made = [
        Generation("test-0", "Why?", 0, [1], [2, 3], "a", "eos", value=1.5, reward=4.0),
        Generation("test-1", "How?", 0, [1], [], "", "too_long"),
    ]
    (run / "guide-x").mkdir()
    write_records(run / "guide-x" / "records.jsonl", made)
    write_json(run / "guide-x" / "made_from.json", {"inputs": []})
    point(run, "x", "generations", run / "guide-x")
    one, two = rows_of(read_decoded(f"{run}:x"))
    assert (one["value"], one["reward"], one["positive"], one["tokens"]) == (1.5, 4.0, True, 2)
    assert two["reward"] is None and "leaves no room for a response" in two["set_aside"]


def test_the_three_kinds_hold_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(monkeypatch, str(run), "--csv", "all.csv", "--jsonl", "all.jsonl", "--dataset", "all")
    assert "12 generations of base, bon-2, in all.csv" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("all.jsonl").read_text(encoding="utf-8").splitlines()]
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(lines) == len(cells) == 12 and [*cells[0]] == [*lines[0]] == [*COLUMNS]
    assert [cell["text"] for cell in cells] == [line["text"] for line in lines]
    assert [cell["reward"] for cell in cells] == [
        "" if line["reward"] is None else str(line["reward"]) for line in lines
    ]
    again = [row.values["prompt"] for row in read_rows([Path("all.csv")])]
    assert json.loads(again[-1]) == lines[-1]["prompt"]
    table = datasets.load_dataset("all", split="train")
    assert table["prompt"][0] == [{"role": "user", "content": "Name a tree."}]
    assert table["decoder"] == [line["decoder"] for line in lines] and table["reward"][1] == lines[1]["reward"]


def test_conversations_stay_messages_in_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("test_decoded.PROMPTS", [[{"role": "user", "content": "Why?"}]])
    write_run(tmp_path / "chat", "base", [1.0])
    export(monkeypatch, "chat", "--decoder", "base", "--dataset", "all")
    assert datasets.load_dataset("all", split="train")["prompt"][0] == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--csv", "there.csv"], "there.csv exists: delete it, or give another name"),
        (["--dataset", "there"], "there exists: delete it, or give another name"),
        (["--csv", "new.csv", "--jsonl", "there.csv"], "there.csv exists"),
        (["--decoder", "base", "--output", "there.csv"], "there.csv exists: delete it, or give another name"),
        (
            ["--jsonl", "nowhere/new.jsonl"],
            "nowhere/new.jsonl cannot be written, there is no folder nowhere: create it",
        ),
        (["--csv", "new.csv", "--decoder", "bon-3"], "chat has no decoder bon-3: it has base, bon-2"),
        ([], "nothing says what to write: give --csv FILE, --jsonl FILE or --dataset FOLDER for a table of all"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    arguments: list[str], line: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.csv").write_text("mine")
    Path("there").mkdir()
    with pytest.raises(SystemExit) as ended:
        export(monkeypatch, str(run), *arguments)
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(error.splitlines()) == 1 and line in error
    assert Path("there.csv").read_text() == "mine" and not Path("new.csv").exists()


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export(monkeypatch, str(tmp_path), "--csv", str(tmp_path / "new.csv"))
    assert "has decoded nothing: give the directory of a run" in capsys.readouterr().err


def test_unused_scores_are_no_rows(run: Path) -> None:
    """A score whose prompt has no generation, of a run that was put together by hand, adds nothing."""
    scores = [Score("base", "test-9", 1.0, None, -1.0, 1, 1)]
    write_records(run / "evaluate-base" / "records.jsonl", scores)
    assert {row["reward"] for row in rows_of(read_decoded(f"{run}:base"))} == {None}
