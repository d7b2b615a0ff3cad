"""What a completions endpoint answers: the choices in it, checked, and the tokens that each has.

>>> answer = {"choices": [{"text": " so", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
>>> choices_in(answer, 2, (), "http://host/v1/completions")
[Choice(text=' so', tokens=2, finish='length')]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.errors import EndpointError, shown
from trimtab.messages import text_of

FINISHES: dict[str, Literal["eos", "length", "stop"]] = {
    "stop": "eos",
    "length": "length",
    "content_filter": "stop",
    "eos_token": "eos",  # these two as text-generation-inference says them
    "stop_sequence": "stop",
}
"""What a server's reasons stand for; a stop string has its own, where the server says so."""


@dataclass(frozen=True)
class Choice:
    """One continuation: `stop` ended at a stop string, which is not in the text, `eos` where the model ended it.

    `too_long` is none: the server refuses the question's text as longer than its context.
    """

    text: str
    tokens: int
    finish: Literal["eos", "length", "stop", "too_long"]


def choices_in(answer: Mapping[str, Any], limit: int, stop: Sequence[str], url: str) -> list[Choice]:
    """All choices by their index, or in their order where the server at `url` numbers none.

    `limit` is the number of tokens that each may have. Servers count the tokens of all choices together.

    Raises:
        EndpointError: the answer is not what OpenAI's protocol says.
        DataError: a text holds half of a character.
    """
    choices = _choices(answer, url)
    finishes = [_finish(each, stop, url) for each in choices]
    texts = [_text(each, url) for each in choices]
    counts = share_out(_written(answer, len(choices), limit, url), texts, finishes, limit)
    return [Choice(*each) for each in zip(texts, counts, finishes, strict=True)]


def _choices(answer: Mapping[str, Any], url: str) -> list[Mapping[str, Any]]:
    """The choices by their index; in the order that they have where the server numbers none."""
    choices = answer.get("choices")
    if "choices" not in answer and answer.get("error"):
        raise EndpointError(f"{url} answers an error, {shown(answer['error'])}: mend either")
    if not isinstance(choices, list) or not choices or not all(isinstance(each, Mapping) for each in choices):
        raise _unlike("'choices'" if "choices" not in answer else "a choice", url)
    indices = [each.get("index") for each in choices]
    if all(index is None for index in indices):
        return choices
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
        raise _unlike(f"a whole number for each index ({shown(indices)})", url)
    return sorted(choices, key=lambda each: int(each["index"]))


def _text(choice: Mapping[str, Any], url: str) -> str:
    """What was written; servers say null where it is nothing."""
    if "text" not in choice:
        hint = ", but with messages, as a chat endpoint does" if "message" in choice else ""
        raise _unlike(f"'text'{hint}", url)
    if choice["text"] is None:
        return ""
    if not isinstance(choice["text"], str):
        raise _unlike(f"a text in 'text' ({shown(choice['text'])})", url)
    return text_of(choice["text"], f"{url}: an answer")


def _written(answer: Mapping[str, Any], choices: int, limit: int, url: str) -> int:
    """The tokens of all choices together; a server may count an end token of each beyond the limit."""
    usage = answer.get("usage")
    total = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if not isinstance(total, int) or isinstance(total, bool) or total < 0:
        raise _unlike(f"'usage' with completion_tokens, the number of tokens it wrote ({shown(usage)})", url)
    if total > choices * (limit + 1):
        raise EndpointError(
            f"{url} wrote {total} tokens in {choices} choices of at most {limit}: it does not keep "
            "to max_tokens; mend the server"
        )
    return min(total, choices * limit)


def _unlike(lacking: str, url: str) -> EndpointError:
    return EndpointError(
        f"{url} answers without {lacking}: give the address of an OpenAI-compatible server of completions"
    )


def _finish(choice: Mapping[str, Any], stop: Sequence[str], url: str) -> Literal["eos", "length", "stop"]:
    """Why a choice ended. A server that does not say what stopped it is taken at its word where there are stop strings.

    vLLM's `stop_reason` is the stop string, or None for an end token; others give `stop` for both.
    """
    reason = choice.get("finish_reason")
    if reason == "stop" and stop and (isinstance(choice.get("stop_reason"), str) or "stop_reason" not in choice):
        return "stop"
    if not isinstance(reason, str) or reason not in FINISHES:
        raise _unlike(f"a finish reason that is known ({reason!r})", url)
    return FINISHES[reason]


def share_out(total: int, texts: Sequence[str], finishes: Sequence[str], limit: int) -> list[int]:
    """How many of all `total` tokens each text has: `limit` what was cut there, the rest by lengths of text.

    Servers count the tokens of all choices of a request together.

    >>> share_out(13, ["a b c d e", "a b", "abcdef"], ["length", "eos", "eos"], limit=5)
    [5, 3, 5]
    """
    cut = [finish == "length" for finish in finishes]
    rest = total - limit * sum(cut)
    if all(cut) or rest < 0:  # the context was full before the limit
        return [total * (place + 1) // len(texts) - total * place // len(texts) for place in range(len(texts))]
    lengths = [0 if each else max(1, len(text)) for each, text in zip(cut, texts, strict=True)]
    shares = [rest * length / sum(lengths) for length in lengths]
    counts = [limit if each else int(share) for each, share in zip(cut, shares, strict=True)]
    order = sorted(range(len(texts)), key=lambda place: int(shares[place]) - shares[place])
    for place in [place for place in order if not cut[place]][: total - sum(counts)]:
        counts[place] += 1
    return counts
