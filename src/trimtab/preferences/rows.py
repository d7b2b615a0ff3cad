"""A row of a preference data set as a pair: two responses to a prompt, and which of them won.

>>> row = NamedRow("row 1", {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"})
>>> pair_of(row, "train", "train-00000", ended=False).responses
[' 4', ' 5']
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeGuard

from trimtab.data.rows import NamedRow
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
from trimtab.records import Message, Pair, PromptInput

Split = Literal["train", "validation", "test"]
_SPELLED = {"true": True, "false": False}  # as a CSV holds them


def pair_of(row: NamedRow, split: Split, name: str, ended: bool) -> Pair:
    """The pair of a row; `name` is its id where the row has none, `ended` whether its texts are whole.

    Which form a row has is told by what stands in it: `chosen` is the index of one of two `responses`, or a text or a
    conversation beside `rejected`. Beside the latter, columns that bear the names of ours and hold something else are
    the data set's own.

    Raises:
        DataError: the row is no pair; the message begins with where it stands.
    """
    origin = row.origin
    values = _with_messages(row.values, origin)
    indexed = _is_indexed(values)
    chosen = 0
    if indexed:
        prompt = prompt_of(values.get("prompt"), f"{origin}: prompt")
        responses, chosen = _two_texts(values.get("responses"), origin), _index(values.get("chosen"), origin)
        whole = [ended, ended]
    elif isinstance(values.get("chosen"), list):
        check_template_columns(values, origin)
        prompt, responses = _conversation(values, origin)
        whole = [bool(text) for text in responses]  # of an empty answer nothing is learned, its end neither
    else:
        prompt = _prompt_of_texts(values, origin)
        responses = [text_of(values.get(side), f"{origin}: {side}") for side in ("chosen", "rejected")]
        whole = [ended, ended]
    if not isinstance(prompt, str):
        check_template_columns(values, origin)
    prompt_ids, token_ids = _ids(values, indexed, origin)
    return Pair(
        prompt_id=_name(values.get("prompt_id"), name, origin),
        prompt=prompt,
        responses=responses,
        chosen=chosen,
        rewards=_own(values, "rewards", _is_number, indexed, origin),
        probability=_probability(values.get("probability"), indexed, origin),
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        ended=_ended(values.get("ended"), origin) or whole,
        split=split,
    )


def _with_messages(values: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """The row with messages as lists that stand in it as texts. Both answers must be such texts, so that one that is
    about JSON stays what it is."""
    both = all(looks_like_messages(values.get(side)) for side in ("chosen", "rejected"))
    columns = ("prompt", "chosen", "rejected") if both else ("prompt",)
    names = [name for name in columns if looks_like_messages(values.get(name))]
    return {**values, **{name: parse_messages(values[name], f"{origin}: {name}") for name in names}}


def _is_indexed(values: Mapping[str, Any]) -> bool:
    if "responses" not in values:
        return False
    return "rejected" not in values or (isinstance(values["responses"], list) and _is_number(values.get("chosen")))


def _index(chosen: Any, origin: str) -> int:
    if not _is_number(chosen) or chosen not in (0, 1):
        raise DataError(f"{origin}: chosen is {chosen!r} and must be 0 or 1: mend or drop the row")
    return int(chosen)


def _two_texts(responses: Any, origin: str) -> list[str]:
    if not isinstance(responses, list) or len(responses) != 2:
        raise DataError(
            f"{origin}: responses and chosen must give two texts, not {shown(responses)}: mend or drop the row"
        )
    return [text_of(text, f"{origin}: response {number}") for number, text in enumerate(responses)]


def _prompt_of_texts(values: Mapping[str, Any], origin: str) -> PromptInput:
    if "prompt" not in values:
        raise DataError(
            f"{origin}: chosen and rejected are texts, and there is no prompt: give one, or conversations; mend the row"
        )
    return prompt_of(values["prompt"], f"{origin}: prompt")


def _conversation(values: Mapping[str, Any], origin: str) -> tuple[PromptInput, list[str]]:
    """The prompt and both answers. Of whole conversations the prompt is what both begin with; a text beside them, which
    repeats its last message, is not read."""
    given = values.get("prompt")
    if not isinstance(values.get("rejected"), list):
        raise DataError(
            f"{origin}: chosen is a conversation and rejected {shown(values.get('rejected'))}: give both as messages"
        )
    chosen, rejected = (messages_of(values[side], f"{origin}: {side}") for side in ("chosen", "rejected"))
    prompt: PromptInput
    if given is None or (isinstance(given, str) and len(chosen) > 1):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise DataError(f"{origin}: prompt is empty and must be a text or a list of messages: mend or drop the row")
    else:
        prompt = prompt_of(given, f"{origin}: prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return prompt, [_answer(turns, f"{origin}: {side}") for side, turns in (("chosen", chosen), ("rejected", rejected))]


def _answer(turns: list[Message], origin: str) -> str:
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise DataError(f"{origin} must be one message of the assistant behind the prompt, not {shown(turns)}")
    return answer_of(turns[0], origin)


def _name(value: Any, name: str, origin: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value, f"{origin}: prompt_id") if isinstance(value, str) and value else name


def _own(values: Mapping[str, Any], name: str, fits: Callable[[Any], bool], indexed: bool, origin: str) -> list[Any]:
    """A column of ours: one entry for each of two responses. Another form is refused beside `responses`, where it would
    be a mistake in ours, and else it is the data set's own."""
    value = values.get(name)
    if isinstance(value, list) and len(value) == 2 and all(map(fits, value)):
        return value
    if indexed and not is_missing(value) and value != []:
        raise DataError(f"{origin}: {name} is {shown(value)} and must hold one entry for each of two responses")
    return []


def _ids(values: Mapping[str, Any], indexed: bool, origin: str) -> tuple[list[int], list[list[int]]]:
    """The tokens of the prompt and of both responses; none where a data set's own columns have these names."""
    token_ids, prompt_ids = _own(values, "token_ids", _is_ids, indexed, origin), values.get("prompt_ids")
    if _is_ids(prompt_ids) and (indexed or token_ids):
        return prompt_ids, token_ids
    if indexed and not is_missing(prompt_ids):
        raise DataError(f"{origin}: prompt_ids is {shown(prompt_ids)} and must be a list of token ids")
    return [], token_ids if indexed else []


def _probability(value: Any, indexed: bool, origin: str) -> float:
    if _is_number(value) and 0 <= value <= 1:
        return float(value)
    if indexed and not is_missing(value):
        raise DataError(f"{origin}: probability is {shown(value)} and must be a number from 0 to 1")
    return 0.5


def _ended(value: Any, origin: str) -> list[bool] | None:
    """Whether each response is whole, by a column that says it of both or of each; None where it says nothing of it."""
    value = _SPELLED.get(value.lower()) if isinstance(value, str) else value
    if isinstance(value, bool):
        return [value, value]
    if not isinstance(value, list) or not value:
        return None
    if len(value) != 2 or not all(isinstance(entry, bool) for entry in value):
        raise DataError(f"{origin}: ended is {shown(value)} and must hold true or false for each of two responses")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
