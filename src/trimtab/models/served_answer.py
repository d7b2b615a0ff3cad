"""The answer of a completions server: its choices, validated, and how many tokens each has.

>>> answer = {"choices": [{"text": " so", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
>>> choices_in(answer, 2, (), "http://host/v1/completions")
[Choice(text=' so', tokens=2, finish='length')]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from trimtab.errors import EndpointError, faults_in, shown
from trimtab.messages import text_of

FINISHES: dict[str, Literal["eos", "length", "stop"]] = {
    "stop": "eos",
    "length": "length",
    "content_filter": "stop",
    "eos_token": "eos",  # this one and the next are text-generation-inference's
    "stop_sequence": "stop",
}
"""What the finish reasons of servers mean."""


@dataclass(frozen=True)
class Choice:
    """One continuation. `stop`: it ended before a stop string; `eos`: the model ended it; `too_long`: there is no
    continuation, because the server refused the request's text as longer than its context."""

    text: str
    tokens: int
    finish: Literal["eos", "length", "stop", "too_long"]


class _ServedChoice(BaseModel, strict=True):
    text: str | None  # null where nothing was written
    finish_reason: Literal["stop", "length", "content_filter", "eos_token", "stop_sequence"]
    index: int | None = None
    stop_reason: Any = ""
    """vLLM: the stop string, or null where the model ended. Servers that say neither may have found a stop string."""

    def finish(self, stop: Sequence[str]) -> Literal["eos", "length", "stop"]:
        if self.finish_reason == "stop" and stop and isinstance(self.stop_reason, str):
            return "stop"
        return FINISHES[self.finish_reason]


class _ServedUsage(BaseModel, strict=True):
    completion_tokens: NonNegativeInt


class _ServedAnswer(BaseModel, strict=True):
    choices: list[_ServedChoice] = Field(min_length=1)
    usage: _ServedUsage


def choices_in(answer: Mapping[str, Any], limit: int, stop: Sequence[str], url: str) -> list[Choice]:
    """All choices, by their index where the server at `url` numbers them, else in their order.

    `limit` is the number of tokens that each may have. Servers count the tokens of all choices together.

    Raises:
        EndpointError: the answer does not follow OpenAI's protocol.
        DataError: a text holds half of a character.
    """
    if "choices" not in answer and answer.get("error"):
        raise EndpointError(f"{url} answers an error, {shown(answer['error'])}: mend the request or the server")
    try:
        served = _ServedAnswer.model_validate(answer)
    except ValidationError as error:
        missing = (fault["input"] for fault in error.errors() if fault["loc"][-1:] == ("text",))
        chat = any(isinstance(choice, Mapping) and "message" in choice for choice in missing)
        raise EndpointError(
            f"{url} answers otherwise than a completions server{', with messages, as a chat endpoint does' * chat} "
            f"({faults_in(error, 'the answer')}): give the address of an OpenAI-compatible server of completions"
        ) from None
    numbered = {choice.index: choice for choice in served.choices if choice.index is not None}
    if numbered and len(numbered) < len(served.choices):
        raise EndpointError(f"{url} gives an index of its own to some choices alone: mend the server")
    choices = [numbered[index] for index in sorted(numbered)] or served.choices
    total, most = served.usage.completion_tokens, len(choices) * limit
    if total > most + len(choices):  # a server may count an end token of each beyond the limit
        raise EndpointError(
            f"{url} wrote {total} tokens in {len(choices)} choices of at most {limit}: it does not keep "
            "to max_tokens; mend the server"
        )
    texts = [text_of(choice.text or "", f"{url}: an answer") for choice in choices]
    finishes = [choice.finish(stop) for choice in choices]
    counts = share_out(min(total, most), texts, finishes, limit)
    return [Choice(*fields) for fields in zip(texts, counts, finishes, strict=True)]


def share_out(total: int, texts: Sequence[str], finishes: Sequence[str], limit: int) -> list[int]:
    """How many of all `total` tokens each text has: `limit` where it was cut there, the others by their lengths.

    >>> share_out(13, ["a b c d e", "a b", "abcdef"], ["length", "eos", "eos"], limit=5)
    [5, 3, 5]
    """
    count = len(texts)
    ended = [index for index, finish in enumerate(finishes) if finish != "length"]
    rest = total - limit * (count - len(ended))
    if not ended or rest < 0:  # the context was full before the limit
        return [total * (index + 1) // count - total * index // count for index in range(count)]
    lengths = {index: max(1, len(texts[index])) for index in ended}
    shares = {index: rest * length / sum(lengths.values()) for index, length in lengths.items()}
    counts = [int(shares.get(index, limit)) for index in range(count)]
    by_remainder = sorted(ended, key=lambda index: int(shares[index]) - shares[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
