"""The records that the steps read and write: one JSON object a line.

>>> record = Prompt(id="test-00007", text="I really")
>>> from_json(Prompt, to_json(record)) == record
True
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic takes the standard library's from Python 3.12 on

from trimtab.errors import DataError, faults_in

Split = Literal["train", "validation", "test"]
Finish = Literal["eos", "length", "stop", "failed", "unvalued", "unrewarded", "too_long"]
"""Why a response ended. The last four mark a prompt that was set aside: it has no response."""
SET_ASIDE: dict[Finish, str] = {
    "failed": "a model's logits for it are not finite numbers",
    "unvalued": "a response to it has no finite value: the reward or the guides gave none, or it outgrew their context",
    "unrewarded": "the reward that guides gave a response to it no finite number",
    "too_long": "it leaves no room for a response in a model's context",
}
"""Why a prompt was set aside, by the `finish` of its only generation."""
_STRICT = ConfigDict(extra="forbid", strict=True, defer_build=True)


@with_config(_STRICT)
class Message(TypedDict):
    """One turn of a conversation, as chat templates read it. `content` may be empty only beside tool calls."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[Any]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    thinking: NotRequired[str]


PromptInput = str | list[Message]


class JsonRecord:
    """Base of the records: read back, a line must have exactly their fields, of exactly their types."""

    __slots__ = ()
    __pydantic_config__ = _STRICT


@dataclasses.dataclass(frozen=True, slots=True)
class Review(JsonRecord):
    """A labelled text. `label` is 1 for positive and 0 for negative."""

    id: str
    text: str
    label: int
    split: Literal["train", "test"]


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt(JsonRecord):
    """What a model continues: a string or a list of messages. `source` is the id of the review it was cut from."""

    id: str
    text: PromptInput
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Generation(JsonRecord):
    """One response. `token_ids` are the sampled ids; they include an end token only where the model sampled one.

    `prompt_ids` is the prompt as the sampling model read it. `index` numbers the responses to one prompt: by slot where
    they were sampled, by rank where a search ordered them. `value` is the search's value, `reward` the gold reward;
    each is None where it was not computed. A prompt that was set aside has one generation, without text. A served model
    shows no ids: there `tokens` is the number of the response's tokens; else it is None.
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
class Pair(JsonRecord):
    """Two responses to one prompt; `chosen` is the index of the winner.

    `probability` is the Bradley-Terry probability that response 0 beats response 1. In pairs from a data set
    `token_ids` is empty where it has only text, and `rewards` where it has none (then `probability` is 0.5). `ended[i]`
    says whether response i ended with an end token that the model sampled.
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
class Score(JsonRecord):
    """The measurements of one response of one decoder.

    `reward` and `judge` are log-odds in nats; `judge` is None where there is no second judge. `log_probability` is the
    sum over `base_tokens` tokens under the unguided base model. `tokens` counts the response's sampled tokens.
    """

    decoder: str
    prompt_id: str
    reward: float
    judge: float | None
    log_probability: float
    base_tokens: int
    tokens: int


Record = TypeVar("Record", bound=JsonRecord)
_READERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Review, Prompt, Generation, Pair, Score)}


def to_json(record: Review | Prompt | Generation | Pair | Score) -> str:
    """One line of JSON, without a line break, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, allow_nan=True)


def from_json(kind: type[Record], line: str) -> Record:
    """The record in `line`.

    Raises:
        DataError: the line is not JSON, or not an object with the fields of `kind`.
    """
    try:
        record: Record = _READERS[kind].validate_json(line)
    except ValidationError as error:
        raise DataError(f"not a {kind.__name__} record: {faults_in(error, 'the line')}") from None
    return record


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
