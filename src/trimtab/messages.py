"""Texts and conversations where they enter, from files, from Python or from a server: checked once, and kept whole.

A message is what chat templates take: `role`, `content` as one text, and the fields of `TEMPLATE_FIELDS` that it has.

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
"""What chat templates read of a message beside role and content; other fields, such as ids and dates, are left out."""
TEXT_PARTS = ("text", "input_text", "output_text")
_WRITTEN_OUT = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]\s*:""")
BESIDE = ("tools", "chat_template_kwargs")
"""Columns of TRL's that change how a template renders the conversation of the same row."""


def text_of(value: object, origin: str) -> str:
    """`value`, which is a text of whole characters; `origin` says for a message where it stands.

    Raises:
        DataError: it is something else, which is never spelled out as a text, or holds half of a character.
    """
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
    if isinstance(value, numbers.Number):
        raise DataError(f"{origin} is {shown(value)} and must be a text: write it in quotation marks")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        raise DataError(f"{origin} is {shown(value)}, a date or time, and must be a text: store its column as texts")
    raise DataError(f"{origin} is {shown(value)} and must be a text: mend or drop the row")


def prompt_of(value: object, origin: str) -> PromptInput:
    """`value` as a prompt, which is a text or a list of messages.

    Raises:
        DataError: it is neither, or a message is none.
    """
    if isinstance(value, str):
        return text_of(value, origin)
    if not isinstance(value, list | tuple):
        given = "empty" if is_missing(value) else shown(value)
        raise DataError(f"{origin} is {given} and must be a text or a list of messages: mend or drop the row")
    return messages_of(value, origin)


def messages_of(value: object, origin: str) -> list[Message]:
    """`value` as a conversation of at least one message.

    Raises:
        DataError: it is none, or a message is none.
    """
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{origin} is {shown(value)} and must be a list of messages with role and content")
    return [message_of(entry, f"{origin}, message {number}") for number, entry in enumerate(value, start=1)]


def message_of(entry: object, origin: str) -> Message:
    """A message with its content as one text: the texts of parts are joined, as the templates of text models do.

    `content` may be missing where there are tool calls; then it is an empty text. Fields that hold nothing, as tables
    fill them in where other rows have them, count as absent.

    Raises:
        DataError: there is no known role, or a content that is no text, such as an image.
    """
    if not isinstance(entry, Mapping) or "role" not in entry:
        raise DataError(f"{origin} is {shown(entry)}, and no message with role and content: mend the row")
    role = entry["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{origin} has the role {shown(role)}: write one of {', '.join(ROLES)}")
    more = {name: _field(name, entry[name], f"{origin}: {name}") for name in TEMPLATE_FIELDS if _holds(entry, name)}
    if _holds(entry, "function_call"):
        raise DataError(f"{origin} has a function_call, which templates do not read: write it as tool_calls")
    content = entry.get("content")
    if is_missing(content) and "tool_calls" in more:
        content = ""
    return cast(Message, {"role": role, "content": _content(content, f"{origin}: content"), **more})


def is_written_out(value: object) -> bool:
    """Whether a text is a list of messages that was written out, as a CSV holds it in a cell."""
    return isinstance(value, str) and _WRITTEN_OUT.match(value) is not None


def read_written_out(text: str, origin: str) -> list[Any]:
    """The list that a text holds as JSON.

    Raises:
        DataError: it is written in another way, such as Python's.
    """
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text)
        if isinstance(values, list):
            return values
    raise DataError(
        f"{origin} is {shown(text)}, messages that are not written as JSON: write them as JSON, or store the data set "
        "as JSON lines or Parquet"
    )


def answer_of(message: Message, origin: str) -> str:
    """The text of an answer that is to be learned.

    Raises:
        DataError: the message holds more than its text.
    """
    more = [name for name in message if name not in ("role", "content")]
    if more:
        raise DataError(
            f"{origin} holds {' and '.join(more)}, and only a text is learned: write it all into content as the model "
            "is to write it, or drop the row"
        )
    return message["content"]


def check_nothing_beside(row: Mapping[str, Any], origin: str) -> None:
    """Refuse a row with tools or template settings beside its conversation, which would be left out.

    Raises:
        DataError: it has some.
    """
    for name in BESIDE:
        if _holds(row, name) and row[name] not in ("[]", "{}", "null"):
            raise DataError(
                f"{origin} has {name} beside its messages, which are not shown to the models: write what matters of "
                f"them into a system message and drop the column {name}"
            )


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: None, or the NaN that tables put in the place of nothing."""
    return value is None or (isinstance(value, float) and value != value)


def _holds(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    return not is_missing(value) and not (isinstance(value, str | list | tuple | Mapping) and not value)


def _content(content: object, origin: str) -> str:
    if isinstance(content, list | tuple):
        return "".join(_part(part, f"{origin}, part {number}") for number, part in enumerate(content, start=1))
    return text_of(content, origin)


def _part(part: object, origin: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS:
        return text_of(part.get("text"), origin)
    kind = f"of type {shown(part['type'])}" if isinstance(part, Mapping) and "type" in part else shown(part)
    raise DataError(f'{origin} is {kind}, and models read texts alone: give {{"type": "text", "text": ...}}')


def _field(name: str, value: Any, origin: str) -> Any:
    """A further field of a message: a text, but `tool_calls`, which are a list of JSON or that list written as text."""
    if name != "tool_calls":
        return text_of(value, origin)
    calls = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            calls = json.loads(text_of(value, origin))
    if not isinstance(calls, list):
        raise DataError(f"{origin} is {shown(value)} and must be a list of calls: mend or drop the row")
    try:
        json.dumps(calls, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):  # an UnicodeEncodeError is a ValueError
        raise DataError(f"{origin} is {shown(value)}, which is no plain JSON: mend or drop the row") from None
    return calls
