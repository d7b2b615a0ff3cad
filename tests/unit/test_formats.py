"""Files of rows: texts come out as they went in, and what is malformed is refused by its line."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.assets.rows import SUFFIXES, NamedRow, files_in, read_rows, read_table
from trimtab.errors import DataError
from trimtab.records import Pair, Prompt, from_json, lines_of, read_jsonl

BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\ufeff\xa0"
"""What `str.splitlines` breaks lines at, or `str.strip` takes away, and no file format does."""
PECULIAR = ("None", "NA", "null", "nan", "007", "1e3", "True", "2021-01-01", "1:30", "yes", "[1]", '{"a": 1}', '"', ",")
texts = (st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(BREAKS + 'a ,"\r\n'))).map(str)
texts |= st.sampled_from(PECULIAR)
lines = texts.filter(lambda text: "\n" not in text and text.strip() and text == text.strip(" \t\r"))


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def escaped(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\r\n\r\n" for row in rows).encode("utf-8-sig")


def listed(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def packed(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress(jsonl(rows))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def commas(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    file = io.StringIO(newline="")
    out = csv.DictWriter(file, list(rows[0]), lineterminator=end, quoting=csv.QUOTE_ALL)
    out.writeheader()
    out.writerows(rows)
    return file.getvalue().encode()


def read_rows_of(place: Path, pattern: str | None = None) -> list[NamedRow]:
    """The rows of a file, or of a folder's."""
    return read_rows(files_in(place, SUFFIXES, "instructions", pattern))


Write = Callable[[list[dict[str, Any]]], bytes]
KINDS: dict[str, tuple[str, Write]] = {
    "JSON lines": ("a.jsonl", jsonl),
    "JSON lines, escaped, with BOM and CRLF": ("a.jsonl", escaped),
    "JSON lines, in capitals": ("A B.JSONL", jsonl),
    "a JSON list": ("a.json", listed),
    "packed JSON lines": ("a.jsonl.gz", packed),
    "Parquet": ("a.parquet", parquet),
    "CSV": ("a.csv", commas),
    "CSV with CRLF": ("ä [1] b.csv", lambda rows: commas(rows, "\r\n")),
}


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": texts, "größe": texts}), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_read_as_it_was_written(tmp_path_factory, kind, rows):
    """What looks like a number, a date or nothing is a text, and only CSV has no empty texts."""
    name, write = KINDS[kind]
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(write(rows))
    wanted = rows if "CSV" not in kind else [{key: text or None for key, text in row.items()} for row in rows]
    assert [row.values for row in read_rows_of(file)] == wanted


@settings(deadline=None)
@given(st.lists(lines, min_size=1, max_size=4))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \n"])
def test_a_text_file_has_a_prompt_a_line(tmp_path_factory, end, prompts):
    file = tmp_path_factory.getbasetemp() / "a.txt"
    file.write_bytes("".join(prompt + end for prompt in prompts).encode("utf-8-sig"))
    assert [row.values["prompt"] for row in read_rows_of(file)] == prompts


@settings(deadline=None)
@given(st.lists(texts, min_size=2, max_size=2))
def test_records_of_our_own_hold_every_text(tmp_path_factory, both):
    file = tmp_path_factory.getbasetemp() / "records.jsonl"
    prompts = [Prompt("a", both[0]), Prompt("b", [{"role": "user", "content": both[1]}])]
    pairs = [Pair("a", both[0], both, 0, [], 0.5, [], [], [False, False])]
    for kind, records in ((Prompt, prompts), (Pair, pairs)):
        file.write_text("".join(lines_of(records)), encoding="utf-8")
        assert read_jsonl(file, kind) == records
        assert [from_json(kind, line) for line in lines_of(records)] == records


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "prompt,chosen\nx,y\na,b,c\n", "a.csv, line 3 has 3 cells and the header 2: put cells with commas"),
        ("a.csv", 'prompt,chosen\n"x\nz",y\nb\n', "a.csv, line 4 has 1 cells and the header 2"),
        ("a.csv", "prompt,chosen\nx,y,\n", "a.csv, line 2 has 3 cells"),
        ("a.csv", 'prompt,chosen\nx,"open\n', "a.csv cannot be read at line 2 .*: put cells with quotes"),
        ("a.csv", 'prompt,chosen\nx,"He said "no""\n', "a.csv cannot be read at line 2"),
        ("a.csv", "prompt,chosen\nx\ry,z\n", "a.csv cannot be read at line 2"),
        ("a.csv", "prompt,prompt\nx,y\n", "a.csv has two columns prompt: rename one"),
        ("a.csv", "", "a.csv cannot be read .*: give a header"),
        ("a.csv", "\n\n", "a.csv cannot be read .*: give a header"),
        ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": \n', "a.jsonl, line 3 is not JSON"),
        ("a.jsonl", '{"prompt": "x", "prompt": "y"}', "a.jsonl, line 1 is not JSON .*'prompt' is given twice"),
        ("a.jsonl", '{"prompt": ' + "[" * 9000 + "]" * 9000 + "}", "a.jsonl, line 1 is not JSON .*nested"),
        ("a.jsonl", '{"prompt": ' + "9" * 5000 + "}", "a.jsonl, line 1 is not JSON"),
        ("a.jsonl", '"a text"', "a.jsonl, line 1 holds 'a text', which is not a JSON object"),
        ("a.json", '[{"prompt": "x"},\n {]', "a.json, line 1 is not JSON .*line 2"),
        ("a.parquet", "PAR1", "a.parquet cannot be read"),
        ("a.jsonl.gz", "{}", "a.jsonl.gz cannot be read"),
        ("a.parquet.gz", "x", "of no known kind: give a file that ends in .jsonl"),
        ("a.xlsx", "x", "of no known kind: give a file that ends in .jsonl"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_in_one_line(tmp_path, name, content, line):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    with pytest.raises(DataError, match=line) as caught:
        read_rows_of(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", " \r\n\n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_a_file_of_blank_lines_has_no_rows(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_rows_of(tmp_path / name) == []


@pytest.mark.parametrize(
    "broken", ['{"prompt":\n "x"}', '{"prompt": "x",\n"y": 1}\n', '\n{ \n"prompt": "x"\n}', '{"prompt": "x"\n}']
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_one_object_may_break_its_lines_anywhere(tmp_path, name, broken):
    (tmp_path / name).write_text(broken)
    (row,) = read_rows_of(tmp_path / name)
    assert row.values["prompt"] == "x"


def test_an_object_over_several_lines_is_a_row(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "x", "more": {"y": 1}}, indent=2))
    assert [row.values for row in read_rows_of(tmp_path / "a.json")] == [{"prompt": "x", "more": {"y": 1}}]


@pytest.mark.parametrize("pattern", ["/tmp/*.json", "**x/a.json"])
def test_what_is_no_pattern_is_one_line(tmp_path, pattern):
    with pytest.raises(DataError, match=r"is not a valid pattern of files in .*: give one such as"):
        read_rows_of(tmp_path, pattern)


def test_files_of_a_folder_are_read_in_order_whatever_their_names(tmp_path):
    names = ["1 é.jsonl", "2[a].jsonl", "3 *.jsonl.gz", "4" + "x" * 200 + ".JSONL", "sub dir/5.jsonl"]
    (tmp_path / "sub dir").mkdir()
    for number, name in enumerate(names):
        content = jsonl([{"prompt": str(number)}])
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [row.values["prompt"] for row in read_rows_of(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_a_cell_may_be_as_long_as_it_likes(tmp_path):
    long = "word " * 100_000
    (tmp_path / "a.csv").write_bytes(commas([{"prompt": long}]))
    assert read_rows_of(tmp_path / "a.csv")[0].values == {"prompt": long}
    assert csv.field_size_limit() == 131_072  # which others in the process may count on


def test_an_index_that_a_program_wrote_is_no_column(tmp_path):
    (tmp_path / "a.csv").write_text(",prompt\n0,x\n\n1,y\n")
    assert [row.values for row in read_rows_of(tmp_path / "a.csv")] == [{"prompt": "x"}, {"prompt": "y"}]


def test_a_file_can_be_looked_at_as_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "questions.csv"
    file.write_text('prompt,code\nWho is that?,007\n"Two\u2028lines",NA\n')
    table = read_table(file)
    assert table.to_dict("records") == [
        {"prompt": "Who is that?", "code": "007"},
        {"prompt": "Two\u2028lines", "code": "NA"},
    ]


def test_semicolons_between_cells_that_hold_commas_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;source\nWho, in the end, is that?;web\n")
    with pytest.raises(DataError, match=r"a\.csv has one column, question;source: put commas between the cells$"):
        read_rows_of(tmp_path / "a.csv")


def test_tabs_separate_the_cells_of_a_tsv_and_ndjson_is_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('prompt\tanswer\nIs it 1,5?\tNA\n"Two\nlines"\t007\n')
    (tmp_path / "b.TSV.gz").write_bytes(gzip.compress(b"prompt\tanswer\nx\t\n"))
    (tmp_path / "c.ndjson").write_text('{"prompt": "y"}\n')
    assert [row.values for row in read_rows_of(tmp_path)] == [
        {"prompt": "Is it 1,5?", "answer": "NA"},
        {"prompt": "Two\nlines", "answer": "007"},
        {"prompt": "x", "answer": None},
        {"prompt": "y"},
    ]
    (tmp_path / "a.tsv").write_text("prompt\tanswer\nx\n")
    with pytest.raises(
        DataError, match=r"a.tsv, line 2 has 1 cells and the header 2: put cells with tabs in quotation"
    ):
        read_rows_of(tmp_path / "a.tsv")
