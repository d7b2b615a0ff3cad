"""Instructions and conversations as prompts, and their split into those to tune, validate and test on.

>>> prompts = split_instructions(load_instructions(config, assets), data, seed=0)   # doctest: +SKIP
>>> prompts["test"][0].text                                                         # doctest: +SKIP
'Name three things that float.'
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.config.data import ColumnsConfig, DataConfig, InstructionsConfig
from trimtab.data.rows import LINE, STANDARD_INPUT, NamedRow, read_rows_of, standard_input, standard_input_rows
from trimtab.errors import DataError, shown
from trimtab.messages import check_template_columns, is_missing, looks_like_messages, messages_of, text_of
from trimtab.records import Message, Prompt, PromptInput

SHIPPED = {"trimtab/instructions": Path(__file__).parents[1] / "config" / "presets" / "instructions.jsonl"}
"""Instructions that come with trimtab."""
USUAL = {
    "messages": ("messages", "conversation"),
    "prompt": ("prompt", "instruction", "question", LINE),
    "source": ("dataset",),
}
"""Columns that are looked for where none is named, the first that is there."""


def instructions_identity(config: InstructionsConfig, assets: Assets) -> str:
    """What changes when the instructions do; of standard input a hash of its text.

    Raises:
        AssetError, DataError: there are none.
    """
    if config.name == STANDARD_INPUT:
        return hashlib.sha256(standard_input().encode()).hexdigest()[:16]
    return assets.identity(_place(config.name, assets))


def _place(name: str, assets: Assets) -> Path:
    return SHIPPED[name] if name in SHIPPED else assets.dataset(name)


def load_instructions(config: InstructionsConfig, assets: Assets) -> list[Prompt]:
    """The distinct prompts of a data set, in its order; an id depends on the prompt alone.

    Prompts that differ in case or spacing alone count as one, the first. Where one is a list of messages all are.

    Raises:
        AssetError: the name resolves to nothing.
        DataError: a file cannot be read, or a row has no prompt.
    """
    if config.name == STANDARD_INPUT:
        rows = standard_input_rows()
    else:
        rows = read_rows_of(_place(config.name, assets), config.files)
    if not rows:
        raise DataError(f"{_named(config)} holds no instructions: give at least one row")
    prompts: dict[str, Prompt] = {}
    for row in rows:
        text = _prompt(row, config.columns)
        key = _digest(_plain(text))[:16]
        prompts.setdefault(key, Prompt(key, text, source=_source(row, config.columns)))
    if all(isinstance(each.text, str) for each in prompts.values()):
        return list(prompts.values())
    return [replace(each, text=_as_messages(each.text)) for each in prompts.values()]


def _as_messages(prompt: PromptInput) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def split_instructions(prompts: Sequence[Prompt], config: DataConfig, seed: int) -> dict[str, list[Prompt]]:
    """The prompts of each part: `test`, `tuning` and `validation`, none in two of them.

    All are put in an order by a hash of seed and prompt. `test` is taken from its beginning, `tuning` from its end,
    each as far as it asks; `validation` follows `test`. So asking for more of `test` or `tuning` leaves what they had.
    With `preferences` only `test` is taken.

    Raises:
        DataError: there are too few.
    """
    assert config.instructions is not None
    wanted = {"test": config.test_prompts, "validation": config.validation_prompts, "tuning": config.tuning_prompts}
    if config.preferences is not None:
        wanted = {"test": config.test_prompts}
    total = sum(wanted.values())
    if total > len(prompts):
        asked = " + ".join(f"data.{part}_prompts {count}" for part, count in wanted.items())
        raise DataError(
            f"{_named(config.instructions)} holds {len(prompts)} different instructions, and {asked} are asked for: "
            "lower them"
        )
    order = sorted(prompts, key=lambda prompt: _digest(f"{seed} {prompt.id}"))
    parts = {"test": order[: wanted["test"]], "validation": [], "tuning": []}
    if len(wanted) > 1:
        parts["validation"] = order[wanted["test"] : wanted["test"] + wanted["validation"]]
        parts["tuning"] = order[::-1][: wanted["tuning"]]
    return {
        part: [Prompt(f"{part}-{number:05d}", each.text, each.source) for number, each in enumerate(chosen)]
        for part, chosen in parts.items()
    }


def _named(config: InstructionsConfig) -> str:
    return "standard input" if config.name == STANDARD_INPUT else config.name


def _prompt(row: NamedRow, columns: ColumnsConfig) -> PromptInput:
    """The prompt of a row.

    Raises:
        DataError: there is none.
    """
    messages = columns.messages or (_conversation(row) if columns.prompt is None else None)
    if messages is not None:
        return _question(_cell(row, messages), row, messages)
    name = columns.prompt or _usual(row, "prompt")
    if name is None:
        there = ", ".join(row.values) or "none"
        raise DataError(f"{row.origin} has no column of prompts (its columns: {there}): name it in columns.prompt")
    value = _cell(row, name)
    if isinstance(value, list) or looks_like_messages(value):
        for named in (columns.input, columns.system):
            if named is not None and _cell(row, named):
                raise DataError(f"{row.origin} has {named} beside a conversation: write it into the messages of {name}")
        return _question(value, row, name)
    if not isinstance(value, str) or not value.strip():
        given = "" if value is None else str(value)[:60]
        raise DataError(f"{row.origin} has {given!r} for {name}, which is no prompt: fill it or drop the row")
    value = text_of(value, f"{row.origin}: {name}")
    beside = columns.input or ("input" if columns.prompt is None and "input" in row.values else None)
    more = "" if beside is None else _text_beside(row, beside)
    text = f"{value}\n\n{more}" if more else value
    system = "" if columns.system is None else _text_beside(row, columns.system)
    if not system:
        return text
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def _text_beside(row: NamedRow, name: str) -> str:
    """A text that may be missing, then it is empty."""
    value = _cell(row, name)
    return "" if value is None else text_of(value, f"{row.origin}: {name}")


def _source(row: NamedRow, columns: ColumnsConfig) -> str:
    """Where an instruction comes from; a number that says so is spelled out.

    A column that is not named, and has the usual name and holds something else, is the data set's own.
    """
    name = columns.source or _usual(row, "source")
    value = None if name is None else _cell(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (columns.source is None and not isinstance(value, str)):
        return ""
    return text_of(value, f"{row.origin}: {name}")


def _conversation(row: NamedRow) -> str | None:
    """The column of the usual name that holds a conversation; the usual name alone counts where there is no prompt."""
    found = [name for name in USUAL["messages"] if name in row.values]
    for name in found:
        value = row.values[name]
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[")):
            return name
    return found[0] if found and _usual(row, "prompt") is None else None


def _usual(row: NamedRow, what: str) -> str | None:
    return next((name for name in USUAL[what] if name in row.values), None)


def _cell(row: NamedRow, name: str) -> Any:
    """A cell, None where it is empty.

    Raises:
        DataError: there is no such column.
    """
    if name not in row.values:
        there = ", ".join(row.values) or "none"
        raise DataError(f"{row.origin} has no column {name} (its columns: {there}): mend data.instructions.columns")
    value = row.values[name]
    return None if is_missing(value) else value


def _question(value: Any, row: NamedRow, name: str) -> list[Message]:
    """The conversation of a cell up to its last message of the user; a CSV holds it as JSON.

    Raises:
        DataError: it is none, has no message of the user, or has tools beside it.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.origin} has {shown(value)} for {name}, and no list of messages with role and content: mend the row"
        )
    check_template_columns(row.values, row.origin)
    messages = messages_of(value, f"{row.origin}: {name}")
    last = max((place for place, each in enumerate(messages) if each["role"] == "user"), default=-1)
    if last < 0:
        raise DataError(f"{row.origin} has a conversation without a message of the user: drop the row")
    return messages[: last + 1]


def _plain(prompt: PromptInput) -> str:
    """What two spellings of one prompt share."""
    text = prompt if isinstance(prompt, str) else json.dumps([_told(each) for each in prompt])
    return " ".join(text.lower().split())


def _told(message: Message) -> list[Any]:
    """What a message says: its role, its content, and its other fields where it has some."""
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    return [message["role"], message["content"], *([more] if more else [])]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
