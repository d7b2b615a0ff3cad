"""A row of a preference data set as a pair: two responses to a prompt, and which of them won.

>>> row = NamedRow("row 1", {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"})
>>> pair_of(row, "train", "train-00000", ended=False).responses
[' 4', ' 5']
"""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field

from trimtab.assets.rows import NamedRow
from trimtab.errors import DataError, shown
from trimtab.messages import (
    answer_of,
    check_template_columns,
    is_missing,
    looks_like_messages,
    messages_of,
    parse_messages,
    prompt_of,
    text_of,
)
from trimtab.records import Message, Pair, PromptInput, Split

Values = Mapping[str, Any]
SIDES = ("chosen", "rejected")
PER_RESPONSE = "hold one entry for each of two responses"
OPTIONAL_COLUMNS: dict[str, tuple[pydantic.TypeAdapter[Any], str]] = {
    "rewards": (pydantic.TypeAdapter(Annotated[list[int | float], Field(min_length=2, max_length=2)]), PER_RESPONSE),
    "probability": (pydantic.TypeAdapter(Annotated[float, Field(ge=0, le=1)]), "be a number from 0 to 1"),
    "prompt_ids": (pydantic.TypeAdapter(list[int]), "be a list of token ids"),
    "token_ids": (pydantic.TypeAdapter(Annotated[list[list[int]], Field(min_length=2, max_length=2)]), PER_RESPONSE),
}
"""Columns of trimtab's form that a row may lack: the type of each, and what it must be or hold, for messages."""
_BOOLEAN_WORDS = {"true": True, "false": False}  # as they are written in a CSV


def pair_of(row: NamedRow, split: Split, name: str, ended: bool) -> Pair:
    """Read a row as a pair.

    A row has one of two forms. Either `responses` holds two texts and `chosen` the index of the better one (trimtab's
    own form); or `chosen` and `rejected` are two texts or two conversations. In the second form, a column that has the
    name of one of `OPTIONAL_COLUMNS` and other content is ignored.

    Args:
        name: the id of a pair whose row has none.
        ended: whether plain responses are complete, where the row does not say so: the model then learns their end.

    Raises:
        DataError: the row is not a pair; the message begins with the row's origin.
    """
    values, origin = _with_messages(row), row.origin
    indexed = _is_indexed(values)
    chosen, ended_by_default = 0, [ended, ended]
    if indexed:
        prompt = prompt_of(values.get("prompt"), f"{origin}: prompt")
        responses, chosen = _indexed_responses(values, origin)
    elif isinstance(values.get("chosen"), list):
        prompt, responses = _conversation(values, origin)
        ended_by_default = [bool(text) for text in responses]  # an empty answer has no end to learn
    elif "prompt" in values:
        prompt = prompt_of(values["prompt"], f"{origin}: prompt")
        responses = [text_of(values.get(side), f"{origin}: {side}") for side in SIDES]
    else:
        raise DataError(
            f"{origin}: chosen and rejected are texts, and there is no prompt: give one, or conversations; mend the row"
        )
    if not isinstance(prompt, str):
        check_template_columns(values, origin)
    prompt_ids, token_ids = _ids(values, indexed, origin)
    probability = _optional(values, "probability", indexed, origin)
    return Pair(
        prompt_id=_name(values.get("prompt_id"), origin) or name,
        prompt=prompt,
        responses=responses,
        chosen=chosen,
        rewards=_optional(values, "rewards", indexed, origin) or [],
        probability=0.5 if probability is None else probability,
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        ended=_ended(values.get("ended"), origin) or ended_by_default,
        split=split,
    )


def _with_messages(row: NamedRow) -> Values:
    """The row's values, in which texts that are JSON lists of messages are parsed. The two answers are parsed only if
    both are such lists: a single one may be an answer about JSON."""
    names = ["prompt", *(SIDES if all(looks_like_messages(row.values.get(side)) for side in SIDES) else ())]
    written = [name for name in names if looks_like_messages(row.values.get(name))]
    return {**row.values, **{name: parse_messages(row.values[name], f"{row.origin}: {name}") for name in written}}


def _is_indexed(values: Values) -> bool:
    if "responses" not in values:
        return False
    return "rejected" not in values or (
        isinstance(values["responses"], list) and isinstance(values.get("chosen"), int | float)
    )


def _indexed_responses(values: Values, origin: str) -> tuple[list[str], int]:
    responses, chosen = values["responses"], values.get("chosen")
    if not isinstance(responses, list) or len(responses) != 2:
        raise DataError(
            f"{origin}: responses and chosen must give two texts, not {shown(responses)}: mend or drop the row"
        )
    texts = [text_of(text, f"{origin}: response {number}") for number, text in enumerate(responses)]
    if isinstance(chosen, bool) or chosen not in (0, 1):
        raise DataError(f"{origin}: chosen is {chosen!r} and must be 0 or 1: mend or drop the row")
    return texts, int(chosen)


def _conversation(values: Values, origin: str) -> tuple[PromptInput, list[str]]:
    """The prompt and both answers.

    The prompt is the beginning that both conversations share where there is no column `prompt`, or where that is a text
    and the conversations hold the prompt, too.
    """
    if not isinstance(values.get("rejected"), list):
        raise DataError(
            f"{origin}: chosen is a conversation and rejected {shown(values.get('rejected'))}: give both as messages"
        )
    chosen, rejected = (messages_of(values[side], f"{origin}: {side}") for side in SIDES)
    prompt = values.get("prompt")
    if prompt is None or (isinstance(prompt, str) and len(chosen) > 1):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise DataError(f"{origin}: prompt is empty and must be a text or a list of messages: mend or drop the row")
    else:
        prompt = prompt_of(prompt, f"{origin}: prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return prompt, [_answer(chosen, f"{origin}: chosen"), _answer(rejected, f"{origin}: rejected")]


def _answer(turns: list[Message], origin: str) -> str:
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise DataError(f"{origin} must be one message of the assistant behind the prompt, not {shown(turns)}")
    return answer_of(turns[0], origin)


def _name(value: Any, origin: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value, f"{origin}: prompt_id") if isinstance(value, str) else ""


def _optional(values: Values, name: str, indexed: bool, origin: str) -> Any:
    """The value of an optional column; None where the row has none.

    A value of a wrong type is an error in trimtab's own form (`indexed`); elsewhere the column has another meaning.
    """
    kind, requirement = OPTIONAL_COLUMNS[name]
    value = values.get(name)
    with contextlib.suppress(pydantic.ValidationError):
        return kind.validate_python(value, strict=True)
    if indexed and not is_missing(value) and value != []:
        raise DataError(f"{origin}: {name} is {shown(value)} and must {requirement}")
    return None


def _ids(values: Values, indexed: bool, origin: str) -> tuple[list[int], list[list[int]]]:
    """The token ids of the prompt and of both responses; empty where the row has none."""
    token_ids, prompt_ids = (_optional(values, name, indexed, origin) for name in ("token_ids", "prompt_ids"))
    if not indexed and (token_ids is None or prompt_ids is None):
        return [], []
    return prompt_ids or [], token_ids or []


def _ended(value: Any, origin: str) -> list[bool] | None:
    """Whether each response is complete, from a column of one value or of two; None where it is empty or missing."""
    value = _BOOLEAN_WORDS.get(value.lower()) if isinstance(value, str) else value
    if isinstance(value, bool):
        return [value, value]
    if not isinstance(value, list) or not value:
        return None
    if [type(entry) for entry in value] != [bool, bool]:
        raise DataError(f"{origin}: ended is {shown(value)} and must hold true or false for each of two responses")
    return value
