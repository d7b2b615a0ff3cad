"""Texts and conversations from files, from Python or from a server, checked where they enter trimtab.

A message is what chat templates read: `role`, `content` as one text, and those of `TEMPLATE_FIELDS` that it has.
Functions that take an `origin`, the place that a value comes from, raise `DataError` with it where they refuse a value.

    >>> prompt_of([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "row 1")
    [{'role': 'user', 'content': 'Hello'}]
    >>> text_of(5, "a.jsonl, row 3: chosen")
    Traceback (most recent call last):
    trimtab.errors.DataError: a.jsonl, row 3: chosen is 5 and must be a text: write it in quotation marks
"""

import contextlib
import datetime
import json
import numbers
import re
from collections.abc import Mapping
from typing import Any, cast

from trimtab.errors import DataError, shown
from trimtab.records import Message, PromptInput

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
TEMPLATE_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
"""What chat templates read of a message beside role and content; other fields, such as ids and dates, are dropped."""
TEXT_PARTS = ("text", "input_text", "output_text")
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns of TRL's data sets that change how a template renders the conversation of the same row."""
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]\s*:""")


def text_of(value: object, origin: str) -> str:
    """`value`, if it is a text of whole characters; other types are refused, never converted."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start : error.start + 1]
            raise DataError(
                f"{origin} is {shown(value)} and holds {half!r}, half of a character (a lone surrogate): mend the text"
            ) from None
        return value
    if is_missing(value):
        raise DataError(f"{origin} is empty and must be a text: fill it or drop the row")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        raise DataError(f"{origin} is {shown(value)}, a date or time, and must be a text: store its column as texts")
    remedy = "write it in quotation marks" if isinstance(value, numbers.Number) else "mend or drop the row"
    raise DataError(f"{origin} is {shown(value)} and must be a text: {remedy}")


def prompt_of(value: object, origin: str) -> PromptInput:
    """`value` as a prompt: a text, or a list of messages."""
    if isinstance(value, str):
        return text_of(value, origin)
    if isinstance(value, list | tuple):
        return messages_of(value, origin)
    content = "empty" if is_missing(value) else shown(value)
    raise DataError(f"{origin} is {content} and must be a text or a list of messages: mend or drop the row")


def messages_of(value: object, origin: str) -> list[Message]:
    """`value` as a conversation of at least one message."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{origin} is {shown(value)} and must be a list of messages with role and content")
    return [message_of(entry, f"{origin}, message {number}") for number, entry in enumerate(value, start=1)]


def message_of(entry: object, origin: str) -> Message:
    """A message with its content as one text: the texts of parts are joined, as the templates of text models do.

    `content` may be missing beside tool calls, and is then an empty text. Empty fields, with which tables fill up their
    rows, count as absent. Unknown roles and content that is not text, such as images, are refused.
    """
    if not isinstance(entry, Mapping) or "role" not in entry:
        raise DataError(f"{origin} is {shown(entry)}, and no message with role and content: mend the row")
    role = entry["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{origin} has the role {shown(role)}: write one of {', '.join(ROLES)}")
    fields = {
        name: (_tool_calls if name == "tool_calls" else text_of)(entry[name], f"{origin}: {name}")
        for name in TEMPLATE_FIELDS
        if _has(entry, name)
    }
    if _has(entry, "function_call"):
        raise DataError(f"{origin} has a function_call, which templates do not read: write it as tool_calls")
    content = entry.get("content")
    if is_missing(content) and "tool_calls" in fields:
        content = ""
    if isinstance(content, list | tuple):
        parts = enumerate(content, start=1)
        content = "".join(_part(part, f"{origin}: content, part {number}") for number, part in parts)
    return cast(Message, {"role": role, "content": text_of(content, f"{origin}: content"), **fields})


def looks_like_messages(value: object) -> bool:
    """Whether a value is the text of a list of messages, as a cell of a CSV file holds one."""
    return isinstance(value, str) and _MESSAGES_AS_TEXT.match(value) is not None


def parse_messages(text: str, origin: str) -> list[Any]:
    """The list that a text holds as JSON; other notations, such as Python's, are refused."""
    values = _parsed(text)
    if isinstance(values, list):
        return values
    raise DataError(
        f"{origin} is {shown(text)}, messages that are not written as JSON: write them as JSON, or store the data set "
        "as JSON lines or Parquet"
    )


def answer_of(message: Message, origin: str) -> str:
    """The text of an answer to train on; a message with more fields than its text is refused."""
    more = [name for name in message if name not in ("role", "content")]
    if more:
        raise DataError(
            f"{origin} holds {' and '.join(more)}, and only a text is learned: write it all into content as the model "
            "is to write it, or drop the row"
        )
    return message["content"]


def check_template_columns(row: Mapping[str, Any], origin: str) -> None:
    """Refuse a row with tools or template settings beside its conversation: models would not be shown them."""
    for name in TEMPLATE_COLUMNS:
        if _has(row, name) and row[name] not in ("[]", "{}", "null"):
            raise DataError(
                f"{origin} has {name} beside its messages, which are not shown to the models: write what matters of "
                f"them into a system message and drop the column {name}"
            )


def is_missing(value: object) -> bool:
    """Whether a cell is empty: None, or the NaN that tables put into empty cells."""
    return value is None or (isinstance(value, float) and value != value)


def _has(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    return not is_missing(value) and not (isinstance(value, str | list | tuple | Mapping) and not value)


def _part(part: object, origin: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS:
        return text_of(part.get("text"), origin)
    kind = f"of type {shown(part['type'])}" if isinstance(part, Mapping) and "type" in part else shown(part)
    raise DataError(f'{origin} is {kind}, and models read texts alone: give {{"type": "text", "text": ...}}')


def _tool_calls(value: object, origin: str) -> list[Any]:
    """Tool calls: a list of JSON, or its text."""
    calls = _parsed(text_of(value, origin)) if isinstance(value, str) else value
    if not isinstance(calls, list):
        raise DataError(f"{origin} is {shown(value)} and must be a list of calls: mend or drop the row")
    try:
        json.dumps(calls, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):  # a UnicodeEncodeError is a ValueError
        raise DataError(f"{origin} is {shown(value)}, which is no plain JSON: mend or drop the row") from None
    return calls


def _parsed(text: str) -> Any:
    """The value of a JSON text; None where it is not JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return None
