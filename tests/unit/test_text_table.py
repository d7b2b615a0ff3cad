"""Tables of names on a terminal: at any width, and at 80 columns, no name is cut."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.catalog import CATALOG
from trimtab.config.guides import guide_pairs
from trimtab.store.progress import Stage, stage_table
from trimtab.store.text_table import column_widths, print_rows

words = st.text("abcdefgh/-.", min_size=1, max_size=30)
cells = st.lists(words, max_size=6).map(" ".join)


def printed(width: int, columns: list[str], rows: list[list[str]]) -> str:
    console = Console(width=width, file=io.StringIO())
    print_rows(console, columns, rows, right=("right",))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@settings(deadline=None)
@given(rows=st.lists(st.tuples(words, cells, cells).map(list), min_size=1, max_size=5), width=st.integers(10, 160))
def test_every_word_is_whole_at_every_width(rows: list[list[str]], width: int) -> None:
    columns = ["name", "what", "right"]
    text = printed(width, columns, rows)
    for row in rows:
        assert all(word in text for cell in row for word in cell.split())
    if column_widths([columns, *rows], width) is not None:
        assert max(map(len, text.splitlines())) <= width


def test_columns_share_what_is_left() -> None:
    assert column_widths([["name", "what"], ["me/tiny", "of a few layers"]], 100) == [7, 15]
    assert column_widths([["name", "what"], ["me/tiny", "of a few layers"]], 18) == [7, 6]
    assert column_widths([["name", "what"], ["me/tiny", "of a few layers"]], 17) is None


def test_texts_of_others_are_no_markup_and_no_control_characters() -> None:
    assert "[red]x[/red] \\x1b[31m" in printed(80, ["name", "what"], [["[red]x[/red]", "\x1b[31m"]]).replace("   ", " ")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    cli.main()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_lists_of_names_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / ("a-long-name-of-a-folder" * 3)))
    monkeypatch.delenv("TRIMTAB_PATH_MAP", raising=False)
    run(monkeypatch, "assets")
    text = capsys.readouterr().out
    assert all(name in text for name in CATALOG) and "a-long-name-of-a-folder" * 3 in text
    run(monkeypatch, "guides")
    text = capsys.readouterr().out
    assert all(name in text and pair.untuned.name in text for name, pair in guide_pairs().items())


def test_lists_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tmp_path / "paths.yaml"))
    (tmp_path / "paths.yaml").write_text(f"imdb: {tmp_path}\n")
    run(monkeypatch, "assets", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["cache"] == str(tmp_path) and [entry["name"] for entry in found["assets"]] == [*CATALOG]
    folders = {entry["name"]: entry["folder"] for entry in found["assets"]}
    assert folders["imdb"] == str(tmp_path) and folders["google/gemma-3-270m"] is None
    assert all(entry["size"] == CATALOG[entry["name"]].size for entry in found["assets"])
    (tmp_path / "guides.yaml").write_text("mine: {untuned: me/small, tuned: {adapter: me/adapter}}\n")
    run(monkeypatch, "guides", "--json", "--guides", str(tmp_path / "guides.yaml"))
    pairs = json.loads(capsys.readouterr().out)
    assert pairs["mine"]["tuned"] == {"name": "me/small", "adapter": "me/adapter"}
    assert pairs["mine"]["source"] == str(tmp_path / "guides.yaml") and pairs["zephyr"]["untuned"]["template"] == "chat"


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_decoder_s_name_goes_on_in_the_next_line_of_the_progress(width: int) -> None:
    name = "guide cbs-4-4-5-by-reward-per-token-and-some-more"
    stage = Stage(name, state="runs", done=12, total=96, began=0.0, updated=1.0, rate=0.05)
    console = Console(width=width, file=io.StringIO())
    console.print(stage_table([stage], 2.0, 5))
    assert isinstance(console.file, io.StringIO)
    lines = [line[:26].strip() for line in console.file.getvalue().splitlines()]
    assert "…" not in console.file.getvalue() and "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_the_plan_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    name = "a-decoder-with-a-name-that-is-rather-long-but-allowed"
    sets = f"guide.decoders=[{{successors: 2, name: {name}}}]"
    run(monkeypatch, "plan", "quickstart", "--runs", str(tmp_path), "--set", sets)
    text = capsys.readouterr().out
    assert f"guide {name}" in text and f"evaluate {name}" in text and "…" not in text
