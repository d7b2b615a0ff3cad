"""Instructions and conversations as prompts, and their split into those to tune, validate and test on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.assets.rows import (
    LINE_COLUMN,
    STANDARD_INPUT,
    SUFFIXES,
    NamedRow,
    Sample,
    files_in,
    read_rows,
    standard_input,
    standard_input_rows,
)
from trimtab.config.data import ColumnsConfig, DataConfig, InstructionsConfig
from trimtab.errors import DataError
from trimtab.messages import (
    check_template_columns,
    is_missing,
    looks_like_messages,
    messages_of,
    parse_messages,
    text_of,
)
from trimtab.records import Message, Prompt, PromptInput

SHIPPED = {"trimtab/instructions": Path(__file__).parents[1] / "config" / "presets" / "instructions.jsonl"}
"""Instructions that come with trimtab."""
USUAL = {
    "messages": ("messages", "conversation"),
    "prompt": ("prompt", "instruction", "question", LINE_COLUMN),
    "source": ("dataset",),
}
"""Columns that are looked for where none is named; the first one that exists is taken."""


def instructions_identity(config: InstructionsConfig, assets: Assets) -> str:
    """A hash that changes when the instructions do; of standard input a hash of its text.

    Raises:
        AssetError, DataError: there are none.
    """
    if config.name == STANDARD_INPUT:
        return _digest(standard_input())[:16]
    return assets.identity(_path(config.name, assets))


def load_instructions(config: InstructionsConfig, assets: Assets, sample: Sample | None = None) -> list[Prompt]:
    """The distinct prompts of a data set, in its order; an id depends on the prompt alone. A `sample` reads a part.

    Of prompts that differ in case or spacing alone only the first counts. Where one is a list of messages all are.

    Raises:
        AssetError: the name resolves to nothing.
        DataError: a file cannot be read, or a row has no prompt.
    """
    if config.name == STANDARD_INPUT:
        rows = standard_input_rows()
    else:
        rows = read_rows(files_in(_path(config.name, assets), SUFFIXES, "instructions", config.files), sample)
    if not rows:
        raise DataError(f"{_shown_name(config)} holds no instructions: give at least one row")
    prompts: dict[str, Prompt] = {}
    for row in rows:
        text = _prompt(row, config.columns)
        key = _digest(_without_case_and_spacing(text))[:16]
        prompts.setdefault(key, Prompt(key, text, source=_source(row, config.columns)))
    if all(isinstance(prompt.text, str) for prompt in prompts.values()):
        return list(prompts.values())
    return [
        replace(prompt, text=[{"role": "user", "content": prompt.text}]) if isinstance(prompt.text, str) else prompt
        for prompt in prompts.values()
    ]


def split_instructions(prompts: Sequence[Prompt], config: DataConfig, seed: int) -> dict[str, list[Prompt]]:
    """The prompts of each part: `test`, `validation` and `tuning`, none in two of them.

    All are ordered by a hash of seed and prompt. `test` is taken from the beginning, `validation` follows it, and
    `tuning` is taken from the end, so that asking for more of `test` or `tuning` leaves what they had. Beside
    `preferences` only `test` is taken.

    Raises:
        DataError: there are too few prompts.
    """
    assert config.instructions is not None
    counts = {"test": config.test_prompts, "validation": config.validation_prompts, "tuning": config.tuning_prompts}
    if config.preferences is not None:
        counts = {"test": config.test_prompts}
    if sum(counts.values()) > len(prompts):
        asked = " + ".join(f"data.{part}_prompts {count}" for part, count in counts.items())
        raise DataError(
            f"{_shown_name(config.instructions)} holds {len(prompts)} different instructions, and {asked} are asked "
            "for: lower them"
        )
    order = sorted(prompts, key=lambda prompt: _digest(f"{seed} {prompt.id}"))
    rest = order[counts["test"] :]
    parts = {
        "test": order[: counts["test"]],
        "validation": rest[: counts.get("validation", 0)],
        "tuning": rest[::-1][: counts.get("tuning", 0)],
    }
    return {
        part: [replace(prompt, id=f"{part}-{number:05d}") for number, prompt in enumerate(chosen)]
        for part, chosen in parts.items()
    }


def _path(name: str, assets: Assets) -> Path:
    return SHIPPED[name] if name in SHIPPED else assets.dataset(name)


def _shown_name(config: InstructionsConfig) -> str:
    return "standard input" if config.name == STANDARD_INPUT else config.name


def _prompt(row: NamedRow, columns: ColumnsConfig) -> PromptInput:
    """The prompt of a row."""
    conversation = columns.messages or (_conversation_column(row) if columns.prompt is None else None)
    name = conversation or columns.prompt or row.column(USUAL["prompt"])
    if name is None:
        raise DataError(
            f"{row.origin} has no column of prompts (its columns: {row.columns}): name it in columns.prompt"
        )
    value = _cell(row, name)
    if conversation or isinstance(value, list) or looks_like_messages(value):
        for beside in (columns.input, columns.system):
            if beside is not None and _cell(row, beside):
                raise DataError(
                    f"{row.origin} has {beside} beside a conversation: write it into the messages of {name}"
                )
        return _question(row, name)
    if not isinstance(value, str) or not value.strip():
        cell = "" if value is None else str(value)[:60]
        raise DataError(f"{row.origin} has {cell!r} for {name}, which is no prompt: fill it or drop the row")
    text = text_of(value, f"{row.origin}: {name}")
    more = _text(row, columns.input or ("input" if columns.prompt is None and "input" in row.values else None))
    text = f"{text}\n\n{more}" if more else text
    system = _text(row, columns.system)
    return [{"role": "system", "content": system}, {"role": "user", "content": text}] if system else text


def _question(row: NamedRow, name: str) -> list[Message]:
    """The conversation of a cell up to the user's last message."""
    value, origin = _cell(row, name), f"{row.origin}: {name}"
    if isinstance(value, str):
        value = parse_messages(value, origin)
    check_template_columns(row.values, row.origin)
    messages = messages_of(value, origin)
    last = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last is None:
        raise DataError(f"{row.origin} has a conversation without a message of the user: drop the row")
    return messages[: last + 1]


def _conversation_column(row: NamedRow) -> str | None:
    """The usual column that holds a conversation. Where there is no prompt either, its name is enough."""
    names = [name for name in USUAL["messages"] if name in row.values]
    for name in names:
        value = row.values[name]
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[")):
            return name
    return names[0] if names and row.column(USUAL["prompt"]) is None else None


def _source(row: NamedRow, columns: ColumnsConfig) -> str:
    """Where an instruction comes from, or "".

    A column that only has the usual name and holds no text or number is the data set's own, and is not read.
    """
    name = columns.source or row.column(USUAL["source"])
    value = None if name is None else _cell(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if columns.source is None and not isinstance(value, str):
        return ""
    return _text(row, name)


def _text(row: NamedRow, name: str | None) -> str:
    """The text of a cell, "" where it is empty or there is no column."""
    value = None if name is None else _cell(row, name)
    return "" if value is None else text_of(value, f"{row.origin}: {name}")


def _cell(row: NamedRow, name: str) -> Any:
    """A cell, None where it is empty."""
    if name not in row.values:
        raise DataError(
            f"{row.origin} has no column {name} (its columns: {row.columns}): mend data.instructions.columns"
        )
    value = row.values[name]
    return None if is_missing(value) else value


def _without_case_and_spacing(prompt: PromptInput) -> str:
    """A form that is equal for two spellings of a prompt; a message keeps its role, content and other fields."""
    if not isinstance(prompt, str):
        messages = []
        for message in prompt:
            more = {name: value for name, value in message.items() if name not in ("role", "content")}
            messages.append([message["role"], message["content"], *([more] if more else [])])
        prompt = json.dumps(messages)
    return " ".join(prompt.lower().split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
