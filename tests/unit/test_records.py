"""Records survive their line of JSON, and a line that is no record says so with file and number."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.records import Generation, Pair, Prompt, Review, from_json, read_jsonl, to_json

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(TEXTS, st.lists(st.integers(0, 300_000)), st.none() | st.floats(allow_nan=False))
def test_a_generation_survives(text: str, ids: list[int], value: float | None) -> None:
    record = Generation("p", text, 3, [1], ids, text, "stop", value, None)
    line = to_json(record)
    assert "\n" not in line
    assert from_json(Generation, line) == record


def test_messages_and_pairs_survive() -> None:
    prompt = Prompt("p", [{"role": "user", "content": "Hi"}])
    pair = Pair("p", prompt.text, ["a", "b"], 1, [0.5, 1.0], 0.4, [1], [[2], [3]], [True, False], "validation")
    assert from_json(Prompt, to_json(prompt)) == prompt and from_json(Pair, to_json(pair)) == pair


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", r"the line is '{\n' (Invalid JSON"),
        ("[]", "the line is [] (Input should be an object)"),
        ('{"id": "a"}', "text is missing; label is missing; split is missing"),
        ('{"id": "a", "text": "b", "label": "1", "split": "train"}', "label is '1'"),
        ('{"id": "a", "text": "b", "label": 1, "split": "dev"}', "split is 'dev'"),
        ('{"id": "a", "text": "b", "label": 1, "split": "test", "by": "x"}', "by is 'x' (Unexpected"),
        ('{"id": "a", "text": "b", "label": true, "split": "train"}', "label is True"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "reviews.jsonl"
    file.write_text(to_json(Review("x", "y", 1, "test")) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2") as raised:
        read_jsonl(file, Review)
    assert fault in str(raised.value)


def test_broken_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "reviews.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(DataError, match="is not UTF-8"):
        read_jsonl(tmp_path / "reviews.jsonl", Review)
