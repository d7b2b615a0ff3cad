"""Texts and messages where they enter: the text as it is written, or one line that says what to do."""

import datetime
import decimal
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.messages import ROLES, answer_of, check_template_columns, message_of, messages_of, prompt_of, text_of
from trimtab.records import Prompt, from_json, to_json

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
CALL = {"type": "function", "function": {"name": "find_tree", "arguments": {"leaves": "green"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://host/oak.png"}}


def told(content: object, **more: object) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@settings(deadline=None)
@given(texts)
def test_a_text_is_itself(text):
    assert text_of(text, "here") == prompt_of(text, "here") == text
    assert message_of(told(text), "here") == told(text)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "is empty and must be a text: fill it or drop the row"),
        (float("nan"), "is empty and must be a text"),
        (5, "is 5 and must be a text: write it in quotation marks"),
        (0, "is 0 and must be a text"),
        (2.5, "is 2.5 and must be a text: write it in quotation marks"),
        (True, "is True and must be a text: write it in quotation marks"),
        (decimal.Decimal("1.50"), r"is Decimal\('1.50'\) and must be a text: write it in quotation marks"),
        (datetime.date(2021, 1, 1), "is 2021-01-01, a date or time, and must be a text: store its column as texts"),
        (datetime.datetime(2021, 1, 1, 12), "is 2021-01-01 12:00:00, a date or time, and must be a text"),
        (b"bytes", "is b'bytes' and must be a text"),
        ({"text": "x"}, r"is \{'text': 'x'\} and must be a text"),
        (["x"], r"is \['x'\] and must be a text"),
        ("An oak \ud83d", r"is 'An oak \\ud83d' and holds '\\ud83d', half of a character"),
        ("\udcff", ".* half of a character"),
    ],
)
def test_what_is_no_text_is_never_spelled_out(value, line):
    with pytest.raises(DataError, match=f"^a.jsonl, row 3: chosen {line}") as caught:
        text_of(value, "a.jsonl, row 3: chosen")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(texts, min_size=1))
def test_parts_are_joined_to_their_text(parts):
    kinds = [{"type": "text", "text": text} for text in parts]
    bare = [{"text": text} for text in parts]
    tables = [{"type": "text", "text": text, "image_url": None} for text in parts]
    for content in (kinds, bare, tables):
        assert message_of(told(content), "here") == told("".join(parts))


@settings(deadline=None)
@given(json_values)
def test_whatever_stands_for_a_content_is_the_text_of_it_or_refused(content):
    """Never Python's spelling of an object, never an empty text that nobody wrote."""
    try:
        message = message_of(told(content), "row 1")
    except DataError as error:
        assert str(error).startswith("row 1") and not isinstance(content, str)
    else:
        pieces = [content] if isinstance(content, str) else [part["text"] for part in content]
        assert message["content"] == "".join(pieces)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (told(None), "content is empty and must be a text"),
        ({"role": "assistant"}, "content is empty and must be a text"),
        (told(None, tool_calls=[]), "content is empty"),
        (told([IMAGE]), r"part 1 is of type 'image_url', and models read texts alone"),
        (told([{"type": "text", "text": "Look:"}, {"type": "input_audio"}]), "part 2 is of type 'input_audio'"),
        (told(["An oak."]), "part 1 is 'An oak.', and models read texts alone"),
        (told([{"type": "text", "text": None}]), "part 1 is empty and must be a text"),
        (told([{"type": "text"}]), "part 1 is empty"),
        (told({"type": "text", "text": "x"}), "content is {.* and must be a text"),
        (told("x", function_call={"name": "f"}), "function_call, which templates do not read: write it as tool_calls"),
        (told(None, tool_calls=[{"when": datetime.date(2021, 1, 1)}]), "tool_calls is .* no plain JSON"),
        (told(None, tool_calls=[{"name": "\ud83d"}]), "tool_calls is .* no plain JSON"),
        (told(None, tool_calls='[{"name": "\\ud83d"}]'), "tool_calls is .* no plain JSON"),
        (told(None, tool_calls={"name": "f"}), "tool_calls is .* must be a list of calls"),
        (told("x", name=5), "name is 5 and must be a text: write it in quotation marks"),
        (told("x", reasoning_content=["So."]), r"reasoning_content is \['So.'\] and must be a text"),
        (told(None, tool_calls="find a tree"), "tool_calls is 'find a tree' and must be a list of calls"),
        (told("x", name="\ud83d"), "half of a character"),
        ({"role": "human", "content": "x"}, "has the role 'human': write one of system, .*user"),
        ({"role": None, "content": "x"}, "has the role None"),
        ({"role": 1, "content": "x"}, "has the role 1"),
        ({"from": "human", "value": "x"}, "no message with role and content"),
        ("Hello", "is 'Hello', and no message with role and content"),
    ],
)
def test_a_message_that_would_lose_something_is_named(message, line):
    with pytest.raises(DataError, match=f"^row 4, message 2.*{line}") as caught:
        messages_of([{"role": "user", "content": "Hi"}, message], "row 4")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ROLES)
def test_what_templates_read_of_a_message_is_kept(role):
    whole = {
        "role": role,
        "content": "x",
        "name": "oak",
        "tool_calls": [CALL],
        "tool_call_id": "1",
        "reasoning_content": "So.",
    }
    dated = {**whole, "timestamp": datetime.datetime(2021, 1, 1), "toxic": False, "refusal": None, "audio": None}
    assert message_of(dated, "here") == whole
    prompt = Prompt("a", [message_of(dated, "here")])
    assert from_json(Prompt, to_json(prompt)) == prompt


@pytest.mark.parametrize("content", [None, "", []])
def test_tool_calls_stand_for_a_content(content):
    calls = message_of(told(content, tool_calls=[CALL]), "here")
    assert calls == told("", tool_calls=[CALL])
    assert message_of(told(content, tool_calls=json.dumps([CALL])), "here") == calls


@pytest.mark.parametrize("more", [{"tool_calls": [CALL]}, {"reasoning_content": "So."}, {"thinking": "So."}])
def test_an_answer_is_its_text_alone(more):
    assert answer_of(message_of(told("An oak.", tool_calls=None, audio=None), "row 1"), "row 1") == "An oak."
    with pytest.raises(DataError, match=f"row 1 holds {next(iter(more))}, and only a text is learned: write it all"):
        answer_of(message_of(told("An oak.", **more), "row 1"), "row 1")


@pytest.mark.parametrize("name", ["tools", "chat_template_kwargs"])
def test_what_stands_beside_a_conversation_is_not_left_out_without_a_word(name):
    for nothing in (None, [], {}, "", "[]", "null"):
        check_template_columns({name: nothing}, "row 1")
    for something in ([CALL], json.dumps([CALL]), {"enable_thinking": False}):
        with pytest.raises(DataError, match=f"row 1 has {name} beside its messages"):
            check_template_columns({name: something}, "row 1")


@pytest.mark.parametrize("value", [5, None, True, {}, {"role": "user", "content": "Hi"}, b"Hi", [], 2.5])
def test_what_is_no_prompt_is_named(value):
    with pytest.raises(DataError, match=r"^prompt 1 is .* must be a"):
        prompt_of(value, "prompt 1")
