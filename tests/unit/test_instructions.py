"""Instructions from every kind of file, each once, in parts that never share one."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from trimtab.assets import rows
from trimtab.assets.resolve import Assets
from trimtab.cli import SHIPPED
from trimtab.config.data import DataConfig, InstructionsConfig
from trimtab.config.file import load_experiment, parse_experiment
from trimtab.data.instructions import instructions_identity, load_instructions, split_instructions
from trimtab.data.parts import draw_parts
from trimtab.errors import ConfigurationError, DataError
from trimtab.records import Prompt, PromptInput

EVAL = [
    {"instruction": "Name a colour.", "output": "Blue.", "generator": "someone", "dataset": "helpful_base"},
    {"instruction": "Name a tree.", "output": "Oak.", "generator": "someone", "dataset": "koala"},
]
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "So"},
]


def loaded(name: object, tmp_path: Path, **settings: Any) -> list[Prompt]:
    config = InstructionsConfig.model_validate({"name": str(name), **settings})
    return load_instructions(config, Assets(cache=tmp_path / "cache"))


def texts(name: object, tmp_path: Path, **settings: Any) -> list[PromptInput]:
    return [prompt.text for prompt in loaded(name, tmp_path, **settings)]


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def test_alpaca_evals_file_is_read_out_of_its_folder(tmp_path: Path) -> None:
    """The hub's folder has other files beside it, in other columns."""
    write(tmp_path / "set/alpaca_eval.json", json.dumps(EVAL))
    write(tmp_path / "set/annotations.json", json.dumps([{"preference": 1}]))
    found = loaded(tmp_path / "set", tmp_path, files="alpaca_eval.json")
    assert [(each.text, each.source) for each in found] == [
        ("Name a colour.", "helpful_base"), ("Name a tree.", "koala"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"annotations\.json, row 1 has no column of prompts .*preference"):
        loaded(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow", "txt", "saved", "dict"])
def test_every_kind_of_file_gives_the_same_prompts(kind: str, tmp_path: Path) -> None:
    lines = [{"prompt": "Name a colour."}, {"prompt": "Name, say, a tree: é"}]
    table = datasets.Dataset.from_list(lines)
    place = tmp_path / f"prompts.{kind}"
    if kind == "jsonl":
        write(place, "".join(json.dumps(line) + "\n\n" for line in lines))
    elif kind == "json":
        write(place, json.dumps(lines, indent=1))
    elif kind == "csv":
        table.to_csv(place)
    elif kind == "parquet":
        table.to_parquet(place)
    elif kind == "txt":
        write(place, "".join(f"{line['prompt']}\n" for line in lines))
    elif kind == "dict":
        datasets.DatasetDict({"test": table}).save_to_disk(place)
    else:
        table.save_to_disk(tmp_path / "saved")
        place = tmp_path / "saved"
        if kind == "arrow":
            (place,) = place.glob("*.arrow")
    assert texts(place, tmp_path) == [line["prompt"] for line in lines]


def test_messages_in_a_prompts_cell_of_a_csv_are_messages(tmp_path: Path) -> None:
    """Their JSON was once the prompt's text."""
    asked = [{"role": "user", "content": "Name a tree."}]
    datasets.Dataset.from_list([{"prompt": json.dumps(asked)}]).to_csv(tmp_path / "a.csv")
    assert texts(tmp_path / "a.csv", tmp_path) == [asked]
    datasets.Dataset.from_list([{"prompt": str(asked)}]).to_csv(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"row 1: prompt is .*, messages that are not written as JSON"):
        loaded(tmp_path / "b.csv", tmp_path)
    written = 'Explain [{"role": 1}].'
    datasets.Dataset.from_list([{"prompt": written}]).to_csv(tmp_path / "c.csv")
    assert texts(tmp_path / "c.csv", tmp_path) == [written]


def test_columns_are_chosen_by_option_and_found_by_their_usual_names(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "Guten Tag", "query": "Q", "setting": "Be brief.", "from": "me"}
    file = write(tmp_path / "a.jsonl", json.dumps(row))
    assert texts(file, tmp_path) == ["Translate.\n\nGuten Tag"]  # Alpaca's two columns belong together
    assert texts(file, tmp_path, columns={"prompt": "query"}) == ["Q"]
    (asked,) = loaded(file, tmp_path, columns={"prompt": "query", "system": "setting", "source": "from"})
    assert asked.text == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    assert asked.source == "me"
    more = write(tmp_path / "b.jsonl", json.dumps(row) + "\n" + json.dumps({**row, "query": "R", "setting": ""}))
    plain = texts(more, tmp_path, columns={"prompt": "query", "system": "setting"})[1]
    assert plain == [{"role": "user", "content": "R"}]  # one kind of prompt in a data set
    with pytest.raises(DataError, match=r"row 1 has no column quest \(its columns: instruction, input, query"):
        loaded(file, tmp_path, columns={"prompt": "quest"})


def test_a_conversation_goes_as_far_as_the_users_last_message(tmp_path: Path) -> None:
    whole = [*TURNS, {"role": "assistant", "content": "So what?"}]
    file = write(tmp_path / "a.jsonl", json.dumps({"messages": whole}))
    assert texts(file, tmp_path) == [TURNS]
    file = write(tmp_path / "b.csv", 'talk\n"' + json.dumps(whole).replace('"', '""') + '"\n')
    assert texts(file, tmp_path, columns={"messages": "talk"}) == [TURNS]
    file = write(tmp_path / "c.jsonl", json.dumps({"prompt": TURNS}))  # as TRL's prompts
    assert texts(file, tmp_path) == [TURNS]
    datasets.Dataset.from_list([{"messages": whole}]).to_parquet(tmp_path / "d.parquet")
    assert texts(tmp_path / "d.parquet", tmp_path) == [TURNS]


def test_what_differs_in_case_and_spacing_alone_counts_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "Name a tree.\nname  a TREE.\n\nName a colour.\nName a tree.\n")
    assert texts(file, tmp_path) == ["Name a tree.", "Name a colour."]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a text into standard input."""

    def pipe(text: str) -> None:
        rows.standard_input.cache_clear()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    yield pipe
    rows.standard_input.cache_clear()


def test_standard_input_is_read_once_and_known_by_its_text(piped: Any, tmp_path: Path) -> None:
    config, assets = InstructionsConfig(name="-"), Assets(cache=tmp_path / "cache")
    known = []
    for text, wanted in (
        ("Name a tree.\n Name a colour. \n", ["Name a tree.", "Name a colour."]),
        ('{"prompt": "Hi"}\n{"prompt": "Ho"}\n', ["Hi", "Ho"]),
        (json.dumps(EVAL), ["Name a colour.", "Name a tree."]),
    ):
        piped(text)
        known.append(instructions_identity(config, assets))
        assert texts("-", tmp_path) == wanted
    assert len(set(known)) == 3
    piped('{"prompt": "Hi"}\n{"prompt": \n')
    with pytest.raises(DataError, match="standard input, line 2 is not JSON"):
        loaded("-", tmp_path)
    piped("")
    with pytest.raises(DataError, match="standard input holds no instructions"):
        loaded("-", tmp_path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [*TURNS[:2], {"role": "user", "content": [{"type": "text", "text": "So"}]}]}, TURNS),
        ({"conversation": TURNS, "messages": None}, TURNS),
        ({"prompt": "Hi", "conversation": 17}, "Hi"),
        ({"prompt": "Hi", "messages": "none"}, "Hi"),
        ({"prompt": "Hi", "dataset": {"name": "x"}, "tools": [{"name": "saw"}]}, "Hi"),
        ({"prompt": "2021-01-01"}, "2021-01-01"),
        ({"prompt": "null", "input": None}, "null"),
    ],
)
def test_a_columns_content_says_what_it_is(row: dict[str, Any], told: object, tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.jsonl", json.dumps(row)), tmp_path) == [told]


def test_a_history_with_tool_calls_stays_whole(tmp_path: Path) -> None:
    call = [{"type": "function", "function": {"name": "find", "arguments": "{}"}}]
    history = [
        {"role": "user", "content": "A tree?"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": "oak", "tool_call_id": "1"},
        {"role": "user", "content": "Thanks. A fish?"},
    ]
    other = [{**history[0]}, {**history[1], "tool_calls": [*call, *call]}, *history[2:]]
    rows = [{"messages": [history[0], {**history[1], "content": None}, *history[2:]]}, {"messages": other}]
    (one, two) = loaded(write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), tmp_path)
    assert (one.text, two.text) == (history, other) and one.id != two.id


@pytest.mark.parametrize("column", ["input", "system"])
def test_a_text_beside_a_conversation_is_not_left_out(column: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({"prompt": TURNS, "more": "Be brief."}))
    with pytest.raises(DataError, match="row 1 has more beside a conversation: write it into the messages of prompt"):
        loaded(file, tmp_path, columns={"prompt": "prompt", column: "more"})


def test_a_number_may_say_where_an_instruction_comes_from(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({"prompt": "Hi", "from": 0}))
    assert loaded(file, tmp_path, columns={"source": "from"})[0].source == "0"


def test_standard_input_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    """In the C locale bytes became halves of characters, and other line breaks ended a prompt."""
    code = "from trimtab.assets.rows import *; print(ascii([row.values['prompt'] for row in standard_input_rows()]))"
    given = "\ufeffEin Bär\x85\u2028\rx\r\nzwei".encode()
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert done.stdout.decode().strip() == ascii(["Ein Bär\x85\u2028\rx", "zwei"])
    done = subprocess.run([sys.executable, "-c", code], input=b"caf\xe9", capture_output=True, check=False)
    assert b"standard input is not UTF-8 text (byte 3)" in done.stderr


def many(count: int) -> list[Prompt]:
    return [Prompt(f"{number:04x}", f"Instruction {number}") for number in range(count)]


def split(count: int, seed: int = 0, **asked: int) -> dict[str, list[PromptInput]]:
    config = DataConfig.model_validate(
        {"instructions": "x", "test_prompts": 8, "validation_prompts": 4, "tuning_prompts": 16, **asked}
    )
    parts = split_instructions(many(count), config, seed)
    return {name: [prompt.text for prompt in prompts] for name, prompts in parts.items()}


def test_parts_share_nothing_and_depend_on_seed_and_prompts_alone() -> None:
    parts = split(28)
    every = [str(text) for texts_of in parts.values() for text in texts_of]
    assert sorted(every) == sorted(str(prompt.text) for prompt in many(28))  # all of them, each once
    assert parts == split(28) and parts != split(28, seed=1)
    config = DataConfig.model_validate({"instructions": "x", "test_prompts": 8, "validation_prompts": 4})
    config = config.model_copy(update={"tuning_prompts": 16})
    turned = split_instructions(many(28)[::-1], config, 0)
    assert [prompt.text for prompt in turned["test"]] == parts["test"]


def test_asking_for_more_of_a_part_leaves_what_it_had() -> None:
    before, after = split(60), split(60, test_prompts=20, tuning_prompts=30)
    assert after["test"][:8] == before["test"] and after["tuning"][:16] == before["tuning"]
    assert not set(map(str, after["test"])) & set(map(str, after["tuning"] + after["validation"]))


def test_too_few_are_counted() -> None:
    with pytest.raises(DataError, match=r"x holds 27 different instructions, and data\.test_prompts 8 \+ data\.valid"):
        split(27)


def test_with_preferences_all_instructions_may_be_tested_on(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "Name a tree.\nName a colour.\n")
    config = DataConfig.model_validate({"instructions": str(file), "preferences": "pairs", "test_prompts": 2})
    parts = draw_parts(config, Assets(cache=tmp_path / "cache"), seed=0)
    assert len(parts["test"]) == 2 and not parts["tuning"] and config.reviews is None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"prompt": ""}', "row 1 has '' for prompt, which is no prompt"),
        ('{"prompt": 3}', "row 1 has '3' for prompt, which is no prompt"),
        ('{"messages": [{"role": "user"}]}', "row 1: messages, message 1: content is empty and must be a text"),
        (
            '{"messages": {"role": "user", "content": "Hi"}}',
            "row 1: messages is .* and must be a list of messages with role and content",
        ),
        ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "without a message of the user"),
        ("[1]", "holds 1, which is not a JSON object"),
        ("", "holds no instructions: give at least one row"),
        ('{"prompt": "Hi \\ud83d"}', "row 1: prompt is .*half of a character"),
        ('{"instruction": "Hi", "input": 5}', "row 1: input is 5 and must be a text: write it in quotation marks"),
        ('{"instruction": "Hi", "input": ["x"]}', r"row 1: input is \['x'\] and must be a text"),
        ('{"prompt": [{"role": "user", "content": null}]}', "row 1: prompt, message 1: content is empty"),
        ('{"messages": [{"role": "user", "content": "Hi"}], "tools": [{}]}', "row 1 has tools beside its messages"),
        ('{"messages": [{"from": "human", "value": "Hi"}]}', "message 1 is .* no message with role and content"),
        ('{"prompt": null}', "row 1 has '' for prompt"),
        ('{"prompt": true}', "row 1 has 'True' for prompt"),
    ],
)
def test_rows_that_are_no_prompts_are_named(content: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=line):
        loaded(write(tmp_path / "a.jsonl", content), tmp_path)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"data": {"reviews": None}}, "data: reviews is null and there are no other prompts"),
        ({"data": {"instructions": "x"}}, "reward: training wants labelled reviews: give data.reviews"),
        ({"data": {"instructions": {"name": "x", "columns": {"messages": "m", "prompt": "p"}}}}, "drop prompt"),
    ],
)
def test_settings_that_do_not_go_together_are_named(parts: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        parse_experiment({"name": "demo", **parts}, origin="demo.yaml")


def test_the_sign_for_standard_input_is_read_as_yaml_reads_it() -> None:
    made = load_experiment(SHIPPED / "chat.yaml", ["data.instructions=-"])
    assert made.data.instructions == InstructionsConfig(name="-")
