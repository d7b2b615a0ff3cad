"""The records that flow along the line, each one JSON object on a line of its own.

>>> record = Prompt(id="test-00007", text="I really")
>>> from_json(Prompt, to_json(record)) == record
True
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from trimtab.errors import DataError

Split = Literal["train", "validation", "test"]
Finish = Literal["eos", "length", "stop", "failed", "unvalued", "too_long"]
"""Why a response ended. The last three say that there is none: the prompt was set aside."""
SET_ASIDE: dict[Finish, str] = {
    "failed": "a model's logits for it are not finite numbers",
    "unvalued": "a response to it has no finite value: the reward or the guides gave none, or it outgrew their context",
    "too_long": "it leaves no room for a response in a model's context",
}
"""Why a prompt was set aside, by what its one generation says."""


class Message(TypedDict):
    """One turn of a conversation as chat templates take it; `content` is one text, empty beside tool calls alone."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[Any]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    thinking: NotRequired[str]


PromptInput = str | list[Message]


@dataclasses.dataclass(frozen=True, slots=True)
class Review:
    """A labelled text. `label` is 1 for positive and 0 for negative."""

    id: str
    text: str
    label: int
    split: Literal["train", "test"]


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What a model continues: a string or a list of messages. `source` is the id of the review it was cut from."""

    id: str
    text: PromptInput
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """One response. `token_ids` are the ids as sampled, an end token included only where the model sampled it.

    `prompt_ids` is the prompt as the sampling model read it. `index` counts the responses to one prompt: the sample's
    slot where they were sampled, the rank where a search ordered them. `value` is the search's value, `reward` the
    gold reward; each is None where it was not computed. A prompt that was set aside has one generation, without text.
    Behind an endpoint ids are not known, and `tokens` is the number of the response's tokens; else it is None.
    """

    prompt_id: str
    prompt: PromptInput
    index: int
    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    finish: Finish
    value: float | None = None
    reward: float | None = None
    log_probability: float | None = None
    tokens: int | None = None

    @property
    def length(self) -> int:
        """The number of the response's tokens."""
        return len(self.token_ids) if self.tokens is None else self.tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one prompt and which of them won.

    `chosen` indexes `responses`. `probability` is the Bradley-Terry probability that response 0 beats response 1.
    `token_ids` is empty where the pair comes from a data set that has only text, `rewards` where it has none (then
    `probability` is 0.5); `ended[i]` says whether response i ended with an end token that the model sampled.
    """

    prompt_id: str
    prompt: PromptInput
    responses: list[str]
    chosen: int
    rewards: list[float]
    probability: float
    prompt_ids: list[int]
    token_ids: list[list[int]]
    ended: list[bool]
    split: Split = "train"


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """What was measured on one response of one decoder.

    `reward` and `judge` in nats (log-odds), the latter None where there is no second judge; `log_probability` is the
    sum over `base_tokens` tokens under the unguided base model; `tokens` counts the response's sampled tokens.
    """

    decoder: str
    prompt_id: str
    reward: float
    judge: float | None
    log_probability: float
    base_tokens: int
    tokens: int


Record = TypeVar("Record", Review, Prompt, Generation, Pair, Score)


def to_json(record: Review | Prompt | Generation | Pair | Score) -> str:
    """One line of JSON, without a line break, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, allow_nan=True)


def from_json(kind: type[Record], line: str) -> Record:
    """The record in `line`.

    Raises:
        DataError: the line is not JSON, or not an object with the fields of `kind`.
    """
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not a {kind.__name__} record: {line[:80]!r} is not JSON ({error.msg})") from None
    if not isinstance(values, dict):
        raise DataError(f"not a {kind.__name__} record: {line[:80]!r} is not a JSON object")
    names = {field.name for field in dataclasses.fields(kind)}
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    wrong = sorted((set(values) - names) | (required - set(values)))
    if wrong:
        raise DataError(f"not a {kind.__name__} record: fields {', '.join(wrong)} are missing or unknown")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise DataError(f"not a {kind.__name__} record: {name} is {value!r}")
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value can stand in a field of this type; looks one level into lists."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_fits(entry, item) for entry in value)
    if typing.is_typeddict(hint):
        if not isinstance(value, dict) or not hint.__required_keys__ <= value.keys() <= set(hint.__annotations__):
            return False
        return all(isinstance(value[name], str) for name in hint.__required_keys__)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a file, in order.

    Raises:
        DataError: the file is not UTF-8, or a line is no record of this kind; the message names file and line.
    """
    records = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    records.append(from_json(kind, line))
                except DataError as error:
                    raise DataError(f"{path}, line {number}: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return records


def lines_of(records: Iterable[Review | Prompt | Generation | Pair | Score]) -> Iterator[str]:
    """The lines of a JSON-lines file, each with its line break."""
    return (to_json(record) + "\n" for record in records)
