"""Pairs as a data set, and other people's data sets as pairs."""

import csv
import datetime
import json
from pathlib import Path

import datasets
import pytest

from trimtab.errors import DataError
from trimtab.preferences.dataset import read_dataset, write_dataset
from trimtab.records import Pair


def pair(number: int, split: str, prompt: object = "I really") -> Pair:
    return Pair(
        prompt_id=f"tune-{number}",
        prompt=prompt,
        responses=[" like it\n “très bien” 😀", f" hate it {number}"],
        chosen=number % 2,
        rewards=[1.5, -0.1 * number],
        probability=0.75,
        prompt_ids=[1, 7, number],
        token_ids=[[5, 6, 0], [8, number]],
        ended=[True, False],
        split=split,
    )


PAIRS = [pair(0, "train"), pair(1, "train"), pair(2, "validation"), pair(3, "test")]


def write_lines(folder: Path, **splits: list[dict]) -> Path:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A tree?"}]
OAK, MANY = {"role": "assistant", "content": "An oak."}, {"role": "assistant", "content": "There are many."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": [OAK], "rejected": [MANY]},
        {"chosen": [*ASKED, OAK], "rejected": [*ASKED, MANY]},
        {"prompt": "A tree?", "chosen": [*ASKED, OAK], "rejected": [*ASKED, MANY]},
    ],
    ids=["explicit prompt", "implicit prompt", "implicit prompt, its text beside it"],
)
def test_conversations_are_read_in_every_form_that_trl_reads(tmp_path, row):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    train, validation = read_dataset(tmp_path)
    assert train.prompt == validation.prompt == ASKED
    assert (train.responses, train.chosen, train.ended) == (["An oak.", "There are many."], 0, [True, True])


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"chosen": [*ASKED, OAK, ASKED[1], OAK], "rejected": [*ASKED, MANY]}, "one message of the assistant"),
        ({"chosen": [*ASKED, OAK], "rejected": ASKED}, "one message of the assistant"),
        ({"chosen": [OAK], "rejected": [MANY]}, "prompt is .* must be a text or a list of messages"),
        ({"chosen": "An oak.", "rejected": "Many."}, "there is no prompt: give one, or conversations"),
    ],
)
def test_conversations_that_make_no_pair_are_named(tmp_path, row, line):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=line):
        read_dataset(tmp_path)


def test_pairs_come_back_as_they_were_written(tmp_path):
    write_dataset(PAIRS, tmp_path / "pairs")
    assert read_dataset(tmp_path / "pairs") == PAIRS


def test_prompts_that_are_messages_come_back_too(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    pairs = [pair(0, "train", messages), pair(1, "validation", messages)]
    write_dataset(pairs, tmp_path)
    assert read_dataset(tmp_path) == pairs
    with pytest.raises(DataError, match="some prompts are strings"):
        write_dataset([pair(0, "train"), pair(1, "train", messages)], tmp_path)


def test_the_folder_is_what_the_datasets_library_reads(tmp_path):
    """The schema of ZHZisZZ/imdb_preference: prompt, two responses, chosen; three splits."""
    write_dataset(PAIRS, tmp_path / "pairs")
    loaded = datasets.load_dataset(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 2, "validation": 1, "test": 1}
    row = loaded["train"][1]
    assert (row["prompt"], row["responses"], row["chosen"]) == (PAIRS[1].prompt, PAIRS[1].responses, 1)


def test_one_list_of_pairs_gives_one_file_of_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset(PAIRS, tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet")]
    assert len(files) == 3
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


BARE = [{"prompt": "It was", "responses": [" good", " bad"], "chosen": 1}]


@pytest.mark.parametrize("layout", ["jsonl", "parquet", "save_to_disk"])
def test_the_bare_schema_is_read_in_every_layout(tmp_path, layout):
    """What only text says: no ids, no rewards, no end token."""
    if layout == "jsonl":
        write_lines(tmp_path, train=BARE, validation=BARE)
    elif layout == "parquet":
        (tmp_path / "data").mkdir()
        for split in ("train", "validation"):
            datasets.Dataset.from_list(BARE).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    else:
        table = datasets.Dataset.from_list(BARE)
        datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path)
    train, validation = read_dataset(tmp_path)
    assert train == Pair("train-00000", "It was", [" good", " bad"], 1, [], 0.5, [], [], [False, False], "train")
    assert (validation.split, validation.prompt_id) == ("validation", "validation-00000")


def test_chosen_and_rejected_texts_are_read(tmp_path):
    """In this schema `chosen` is a text, not an index."""
    rows = [{"prompt": "It was", "chosen": " good", "rejected": " bad"}]
    train, _ = read_dataset(write_lines(tmp_path, train=rows, validation=rows), ended=True)
    assert (train.responses[train.chosen], train.responses[1 - train.chosen]) == (" good", " bad")
    assert train.ended == [True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 2}, r"train.jsonl, row 2: chosen is 2 and must be 0 or 1"),
        ({"responses": [" good"]}, r"row 2: responses and chosen must give two texts"),
        ({"responses": [" good", None]}, r"row 2: response 1 is empty and must be a text"),
        ({"prompt": None}, r"row 2: prompt is empty and must be a text or a list of messages"),
        ({"token_ids": [[1], [2]], "prompt_ids": "x"}, r"row 2: prompt_ids is 'x' and must be a list of token ids"),
        ({"rewards": {"a": 1}}, r"row 2: rewards is .* and must hold one entry for each"),
        ({"probability": 2}, r"row 2: probability is 2 and must be a number from 0 to 1"),
        ({"rewards": [1.0]}, r"row 2: rewards is \[1.0\] and must hold one entry for each of two responses"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, change, message):
    good = {**BARE[0], "rewards": [0.0, 1.0]}
    with pytest.raises(DataError, match=message):
        read_dataset(write_lines(tmp_path, train=[good, {**good, **change}], validation=[good]))


def in_form(form: str, folder: Path, row: dict) -> Path:
    """The row in both splits, as JSON lines, CSV, Parquet, or what `datasets` saves."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        if form == "jsonl":
            (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
        elif form == "csv":
            with (folder / f"{split}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
                writer.writerow(row)
        elif form == "parquet":
            datasets.Dataset.from_list([row]).to_parquet(folder / f"{split}.parquet")
    if form == "saved":
        table = datasets.Dataset.from_list([row]).with_format("numpy")
        datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(folder)
    return folder


PECULIAR = [
    "None", "NA", "null", "nan", "4", "007", "1.50", "1e3", "True", "false", "2021-01-01", "2021-01-01 12:00", "12:30",
    "[1]", '{"a": 1}', "a\u2028b\x85c\x0cd", "line\r\nline", ' "x", y', "{prompt} {{ x }} $1 \\1",
]  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "saved"])
@pytest.mark.parametrize("text", PECULIAR)
def test_texts_are_read_as_they_are_written(tmp_path, form, text):
    """What `datasets` guesses types of came out as another text, or as none."""
    row = {"prompt": text, "chosen": text, "rejected": f"{text} "}
    train, _ = read_dataset(in_form(form, tmp_path / "a [1] é", row))
    assert (train.prompt, train.responses) == (text, [text, f"{text} "])


@pytest.mark.parametrize("form", ["jsonl", "parquet", "saved"])
@pytest.mark.parametrize("text", PECULIAR)
@pytest.mark.parametrize("parts", [False, True])
def test_texts_of_messages_too(tmp_path, form, text, parts):
    content = [{"type": "text", "text": text}] if parts else text
    answer = [{"role": "assistant", "content": content}]
    asked = [{"role": "user", "content": content}]
    train, _ = read_dataset(in_form(form, tmp_path, {"prompt": asked, "chosen": answer, "rejected": answer}))
    assert (train.prompt, train.responses) == ([{"role": "user", "content": text}], [text, text])


NO_TEXTS = [None, 5, 2.5, True, datetime.date(2021, 1, 1), datetime.datetime(2021, 1, 1), ["x"], {"text": "x"}]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "saved"])
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected", "message", "response"])
@pytest.mark.parametrize("value", NO_TEXTS, ids=str)
def test_what_is_no_text_is_named_by_its_row(tmp_path, form, column, value):
    if form == "jsonl" and isinstance(value, datetime.date):
        return
    if column == "response":
        row = {"prompt": "A tree?", "responses": [value, value], "chosen": 0}
    elif column == "message":
        answers = [{"role": "assistant", "content": value}]
        row = {"prompt": "A tree?", "chosen": answers, "rejected": answers}
    else:
        row = {"prompt": "A tree?", "chosen": "An oak.", "rejected": "Many.", column: value}
    with pytest.raises(DataError, match=r"row 1") as caught:
        read_dataset(in_form(form, tmp_path, row))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_an_empty_cell_is_named_by_its_row(tmp_path, column):
    row = {"prompt": "A tree?", "chosen": "An oak.", "rejected": "Many.", column: ""}
    with pytest.raises(DataError, match=rf"train\.csv, row 1: {column} is empty"):
        read_dataset(in_form("csv", tmp_path, row))


CALL = [{"type": "function", "function": {"name": "find_tree", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"content": None, "tool_calls": CALL}, "chosen holds tool_calls, and only a text is learned"),
        ({"tool_calls": CALL}, "chosen holds tool_calls"),
        ({"content": "Wait.", "tool_calls": CALL}, "chosen holds tool_calls"),
        ({"content": None}, "chosen, message 1: content is empty"),
        ({"content": "An oak.", "reasoning_content": "So."}, "chosen holds reasoning_content"),
        ({"content": [{"type": "image", "image": "oak.png"}]}, "chosen, message 1: content, part 1 is of type 'image'"),
    ],
)
def test_an_answer_that_is_more_than_a_text_is_refused(tmp_path, answer, line):
    row = {"prompt": ASKED, "chosen": [{"role": "assistant", **answer}], "rejected": [MANY]}
    with pytest.raises(DataError, match=rf"train\.jsonl, row 1: {line}"):
        read_dataset(in_form("jsonl", tmp_path, row))


@pytest.mark.parametrize("empty", ["", []])
def test_of_an_empty_answer_no_end_is_learned(tmp_path, empty):
    row = {"prompt": ASKED, "chosen": [OAK], "rejected": [{"role": "assistant", "content": empty}]}
    train, _ = read_dataset(in_form("jsonl", tmp_path, row))
    assert (train.responses, train.ended) == (["An oak.", ""], [True, False])


def test_a_history_with_tool_calls_comes_back_whole(tmp_path):
    history = [
        ASKED[1],
        {"role": "assistant", "content": "", "tool_calls": CALL},
        {"role": "tool", "content": "oak", "tool_call_id": "1", "name": "find_tree"},
    ]
    row = {"prompt": history, "chosen": [OAK], "rejected": [MANY]}
    (tmp_path / "given").mkdir()
    train, validation = read_dataset(in_form("jsonl", tmp_path / "given", row))
    assert train.prompt == history
    write_dataset([train, validation], tmp_path / "written")
    assert read_dataset(tmp_path / "written") == [train, validation]
    with pytest.raises(DataError, match="row 1 has tools beside its messages"):
        read_dataset(in_form("jsonl", tmp_path / "tools", {**row, "tools": CALL}))


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_id": {"of": 1}}, {"prompt_id": None}, {"rewards": {"chosen": 1.0, "rejected": 0.2}},
        {"rewards": [1.0, 0.2, 1, 1]}, {"rewards": ["good", "bad"]}, {"rewards": 3}, {"probability": "high"},
        {"probability": 17}, {"ended": "2024-01-01"}, {"ended": None}, {"responses": ["An oak.", "Many."]},
        {"responses": ["a", "b", "c", "d"]}, {"responses": "two"}, {"responses": 2}, {"token_ids": [1, 2]},
        {"token_ids": "x", "prompt_ids": "y"}, {"prompt_ids": [[1]]}, {"split": "dev"}, {"tools": [{"name": "saw"}]},
        {"messages": "none"}, {"text": 1},
    ],
    ids=str,
)  # fmt: skip
def test_columns_of_the_data_sets_own_are_not_taken_for_ours(tmp_path, more):
    row = {"prompt": "A tree?", "chosen": "An oak.", "rejected": "Many.", **more}
    train, _ = read_dataset(in_form("jsonl", tmp_path, row))
    assert train == Pair(
        "train-00000", "A tree?", ["An oak.", "Many."], 0, [], 0.5, [], [], [False, False], "train"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ended"), [(True, [True, True]), (False, [False, False]), ([True, False], [True, False])]
)
def test_a_column_says_whether_responses_are_whole(tmp_path, given, ended):
    row = {"prompt": "A tree?", "chosen": "An oak.", "rejected": "Many.", "prompt_id": 17, "ended": given}
    train, _ = read_dataset(in_form("jsonl", tmp_path / "json", row), ended=True)
    assert (train.ended, train.prompt_id) == (ended, "17")
    if isinstance(given, bool):
        assert read_dataset(in_form("csv", tmp_path / "csv", row))[0].ended == ended
    with pytest.raises(DataError, match=r"ended is .* and must hold true or false"):
        read_dataset(in_form("jsonl", tmp_path / "wrong", {**row, "ended": [1, 0]}))


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_half_a_character_is_named(tmp_path, column):
    row = {"prompt": "A tree?", "chosen": "An oak.", "rejected": "Many.", column: "An oak \ud83d"}
    with pytest.raises(DataError, match=rf"row 1: {column} is .*half of a character"):
        read_dataset(in_form("jsonl", tmp_path, row))


def test_missing_columns_are_named_with_what_would_do(tmp_path):
    rows = [{"question": "a", "chosen": 1}]
    with pytest.raises(
        DataError, match=r"columns chosen, question: it needs \(prompt, responses, chosen\) or \(prompt, chosen, rej"
    ):
        read_dataset(write_lines(tmp_path, train=rows, validation=rows))


def test_one_split_alone_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"has the splits 'train' and lacks 'validation': add it, .*train_test_split"):
        read_dataset(write_lines(tmp_path, train=BARE))
    datasets.Dataset.from_list(BARE).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="lacks 'train' and 'validation'"):
        read_dataset(tmp_path / "saved")


def test_a_folder_without_data_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read_dataset(tmp_path / "nowhere")
    (tmp_path / "broken").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "broken" / f"{split}.jsonl").write_text("{oops")
    with pytest.raises(DataError, match=r"train\.jsonl, line 1 is not JSON") as caught:
        read_dataset(tmp_path / "broken")
    assert "\n" not in str(caught.value)
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('a data set must not run code')")
    with pytest.raises(DataError, match="cannot be read as a data set"):
        read_dataset(tmp_path / "script")


WRITTEN_OUT = [
    {"prompt": ASKED, "chosen": [OAK], "rejected": [MANY]},
    {"chosen": [*ASKED, OAK], "rejected": [*ASKED, MANY]},
    {"prompt": "A tree?", "chosen": [*ASKED, OAK], "rejected": [*ASKED, MANY]},
]


def write_cells(folder: Path, row: dict) -> Path:
    for split in ("train", "validation"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*row], [*row.values()]])
    return folder


@pytest.mark.parametrize("row", WRITTEN_OUT, ids=["apart", "whole", "with a text"])
def test_messages_are_read_from_the_cells_of_a_csv(tmp_path, row):
    """Their JSON was once learned as the answer's text."""
    cells = {name: value if isinstance(value, str) else json.dumps(value, indent=1) for name, value in row.items()}
    found = read_dataset(write_cells(tmp_path, cells))[0]
    assert (found.prompt, found.responses, found.ended) == (ASKED, ["An oak.", "There are many."], [True, True])


@pytest.mark.parametrize("row", WRITTEN_OUT, ids=["apart", "whole", "with a text"])
def test_messages_as_python_writes_them_are_refused(tmp_path, row):
    with pytest.raises(DataError, match=r"row 1: \w+ is .* not written as JSON: write them as JSON"):
        read_dataset(write_cells(tmp_path, {name: str(value) for name, value in row.items()}))


@pytest.mark.parametrize("chosen", ['[{"role": "tree"}]', "[{'role': 1}]", "[1, 2]", '[{"a": 1}]', "[{"])
def test_an_answer_about_json_is_a_text(tmp_path, chosen):
    cells = {"prompt": "Write JSON.", "chosen": chosen, "rejected": "I cannot."}
    assert read_dataset(write_cells(tmp_path, cells))[0].responses == [chosen, "I cannot."]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("README.md", b"---\nconfigs: [\n---\n", "the settings in its README.md are no YAML"),
        ("README.md", b"---\nconfigs: pairs\n---\n", "Expected configs to be a list"),
        ("README.md", b"---\nconfigs: [{config_name: default, data_files: none-*}]\n---\n", "found in the folder"),
        ("README.md", b"---\n\xff\n---\n", "can't decode byte 0xff"),
        ("train.zip", b"PK", "not a zip file"),
    ],
    ids=["no-yaml", "no-list", "no-files", "no-utf8", "no-zip"],
)
def test_what_describes_a_data_set_is_refused_in_one_line_too(tmp_path, name, content, cause):
    if name == "README.md":
        write_lines(tmp_path, train=BARE, validation=BARE)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match="cannot be read as a data set") as refused:
        read_dataset(tmp_path)
    assert cause in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).count("/") == str(tmp_path).count("/")  # no other folder is named


def test_progress_bars_of_the_library_are_as_before(tmp_path):
    write_dataset(PAIRS, tmp_path)
    assert not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        read_dataset(tmp_path)
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        write_dataset([], tmp_path)
