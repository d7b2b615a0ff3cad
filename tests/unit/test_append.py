"""Appending to a file of lines whose last line was cut, as by a full disk or a power cut."""

import json
from pathlib import Path

import pytest

from trimtab.search.trace import read_traces
from trimtab.store import files
from trimtab.store.files import append_text


@pytest.mark.parametrize("chunk", [1, 3, 65_536])
@pytest.mark.parametrize(
    ("there", "stays"),
    [
        ("", ""),
        ("one\ntwo\n", "one\ntwo\n"),
        ("one\ntw", "one\n"),
        ("o", ""),
        ("\nlong" * 9, "\nlong" * 8 + "\n"),
    ],
)
def test_half_a_line_is_taken_away(
    there: str, stays: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", chunk)
    file = tmp_path / "folder" / "lines.txt"
    if there:
        file.parent.mkdir()
        file.write_text(there)
    append_text(file, "drei\u2028€\n")
    assert file.read_bytes().decode() == f"{stays}drei\u2028€\n"


def test_a_trace_that_was_cut_goes_on(tmp_path: Path) -> None:
    """The prompt whose search was cut is searched and written once more; the others stay."""
    candidate = {"parent": 0, "held": False, "text": " good", "value": 1.0, "finish": "stop", "kept": 0}

    def line(prompt: str) -> str:
        return json.dumps({"prompt_id": prompt, "step": 0, "prompt": "a", "candidates": [candidate]}) + "\n"

    file = tmp_path / "trace.jsonl"
    append_text(file, line("p0") + line("p1")[:40])
    append_text(file, line("p1"))
    assert {name: node.children[0].text for name, node in read_traces(file).items()} == {"p0": " good", "p1": " good"}
