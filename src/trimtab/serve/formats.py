"""Answers and their events in the two forms of OpenAI's protocol: chat completions and completions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.serve import answers
from trimtab.serve.answer_state import AnswerState, Choice
from trimtab.serve.requests import SearchStep, TextPiece, Token

UNFINISHED = "\ufffd"
"""What the text of a token holds for a part of a character."""
IMPOSSIBLE = -9999.0


@dataclass(frozen=True)
class Heading:
    """What is equal in all events of an answer. `shows_ids`: choices have their token ids. `top`: how many likely
    tokens are shown beside each; None where no log-probabilities are."""

    id: str
    created: int
    model: str
    decoder: str
    seed: int
    shows_ids: bool = False
    top: int | None = None

    def chunk(self, kind: str, choices: Sequence[Any], **more: Any) -> dict[str, Any]:
        """One event of a stream."""
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": [*choices], **more,
        }  # fmt: skip

    def report(self, state: AnswerState) -> answers.SearchReport:
        """What the search was and cost."""
        usage = state.usage
        return answers.SearchReport(
            decoder=self.decoder,
            seed=self.seed,
            values=[None if choice.end is None else choice.end.value for choice in state.choices],
            tokens_drawn=usage.drawn,
            guide_tokens=usage.guide,
            flops=usage.flops,
            rewards=state.rewards,
        )

    def whole(self, state: AnswerState, choices: Sequence[Any]) -> dict[str, Any]:
        """The fields of an answer that is not streamed."""
        return {
            "id": self.id, "created": self.created, "model": self.model, "choices": choices,
            "usage": usage_of(state), "trimtab": self.report(state),
        }  # fmt: skip


def usage_of(state: AnswerState) -> answers.Usage:
    """The tokens of prompts and choices."""
    prompt, returned = state.usage.prompt, state.usage.returned
    return answers.Usage(prompt_tokens=prompt, completion_tokens=returned, total_tokens=prompt + returned)


class ChatFormat:
    """`POST /v1/chat/completions`."""

    prefix, chunk_kind = "chatcmpl", "chat.completion.chunk"

    def __init__(self, heading: Heading) -> None:
        self.heading = heading

    def openings(self, state: AnswerState) -> list[dict[str, Any]]:
        """The first event of each choice: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": choice.index, "delta": delta, "finish_reason": None}) for choice in state.choices]

    def piece(self, choice: Choice, piece: TextPiece) -> dict[str, Any]:
        """An event with more text of a choice, which has it already."""
        body: dict[str, Any] = {"index": choice.index, "delta": {"content": piece.text}, "finish_reason": None}
        if self.heading.top is not None:
            body["logprobs"] = {"content": chat_logprobs(piece.tokens)}
        if self.heading.shows_ids:
            body["token_ids"] = [token.id for token in piece.tokens]
        return self._chunk(body)

    def end(self, choice: Choice) -> dict[str, Any]:
        """The last event of a choice."""
        assert choice.end is not None
        return self._chunk({"index": choice.index, "delta": {}, "finish_reason": choice.end.finish})

    def whole(self, state: AnswerState) -> answers.ChatCompletion:
        """The answer that is not streamed."""
        return answers.ChatCompletion(**self.heading.whole(state, [self._choice(choice) for choice in state.choices]))

    def _choice(self, choice: Choice) -> answers.ChatChoice:
        assert choice.end is not None
        logprobs = None if self.heading.top is None else {"content": chat_logprobs(choice.tokens)}
        return answers.ChatChoice(
            index=choice.index,
            message=answers.AnswerMessage(content=choice.text),
            logprobs=None if logprobs is None else answers.ChatLogprobs.model_validate(logprobs),
            finish_reason=choice.end.finish,
            token_ids=[token.id for token in choice.tokens] if self.heading.shows_ids else None,
        )

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self.heading.chunk(self.chunk_kind, [choice])


class CompletionFormat:
    """`POST /v1/completions`."""

    prefix, chunk_kind = "cmpl", "text_completion"

    def __init__(self, heading: Heading) -> None:
        self.heading = heading
        self._logprobs: dict[int, ShownLogprobs] = {}  # of each choice that is streamed

    def openings(self, state: AnswerState) -> list[dict[str, Any]]:
        """Nothing: text comes at once."""
        return []

    def piece(self, choice: Choice, piece: TextPiece) -> dict[str, Any]:
        """An event with more text of a choice, which has it already."""
        body: dict[str, Any] = {"index": choice.index, "text": piece.text, "logprobs": None, "finish_reason": None}
        if self.heading.top is not None:
            logprobs = self._logprobs.setdefault(choice.index, ShownLogprobs())
            body["logprobs"] = logprobs.more(piece.tokens, choice.echo + choice.text)
        if self.heading.shows_ids:
            body["prompt_token_ids" if piece.prompt else "token_ids"] = [token.id for token in piece.tokens]
        return self._chunk(body)

    def end(self, choice: Choice) -> dict[str, Any]:
        """The last event of a choice."""
        assert choice.end is not None
        body = {"index": choice.index, "text": "", "logprobs": None, "finish_reason": choice.end.finish}
        return self._chunk({**body, "stop_reason": choice.end.stop})

    def whole(self, state: AnswerState) -> answers.Completion:
        """The answer that is not streamed."""
        return answers.Completion(**self.heading.whole(state, [self._choice(choice) for choice in state.choices]))

    def _choice(self, choice: Choice) -> answers.CompletionChoice:
        assert choice.end is not None
        shows_ids, text = self.heading.shows_ids, choice.echo + choice.text
        tokens = choice.echoed + choice.tokens
        logprobs = None if self.heading.top is None else ShownLogprobs().more(tokens, text)
        return answers.CompletionChoice(
            index=choice.index,
            text=text,
            logprobs=None if logprobs is None else answers.CompletionLogprobs.model_validate(logprobs),
            finish_reason=choice.end.finish,
            stop_reason=choice.end.stop,
            token_ids=[token.id for token in choice.tokens] if shows_ids else None,
            prompt_token_ids=[token.id for token in choice.echoed] if shows_ids and choice.echoed else None,
        )

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self.heading.chunk(self.chunk_kind, [choice])


Format = ChatFormat | CompletionFormat


def step_of(step: SearchStep, choice: int) -> dict[str, Any]:
    """One step of a search, as a stream shows it under `trimtab.step`."""
    candidates = [asdict(candidate) for candidate in step.candidates]
    return {"step": {"choice": choice, "number": step.number, "candidates": candidates}}


def chat_logprobs(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """The tokens with their log-probabilities, as chat completions show them."""
    return [
        {
            **_shown(token.text, token.log_probability),
            "top_logprobs": [_shown(text, log) for _, text, log in token.top],
        }
        for token in tokens
    ]


def _shown(text: str, log_probability: float | None) -> dict[str, Any]:
    whole = UNFINISHED not in text
    return {"token": text, "logprob": _finite(log_probability), "bytes": list(text.encode()) if whole else None}


def _finite(log_probability: float | None) -> float | None:
    """JSON has no infinity: an impossible token has the log-probability that vLLM shows."""
    return None if log_probability is None else max(log_probability, IMPOSSIBLE)


class ShownLogprobs:
    """The tokens of a choice with their log-probabilities, as completions show them: all at once, or piece by piece.

    The sampled token is among the likely ones, whether it is one of the likeliest or not, as OpenAI's server has it.
    """

    def __init__(self) -> None:
        self._offsets, self._has_likely = Offsets(), False

    def more(self, tokens: Sequence[Token], text: str) -> dict[str, Any]:
        """What is shown of the next tokens; `text` is what all tokens have written so far."""
        self._has_likely |= any(token.top for token in tokens)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.log_probability) for token in tokens],
            "top_logprobs": [_likely(token) for token in tokens] if self._has_likely else None,
            "text_offset": self._offsets.more(tokens, text),
        }


def _likely(token: Token) -> dict[str, float] | None:
    if token.log_probability is None:
        return None
    likely: dict[str, float] = {}
    for text, log in [*((text, log) for _, text, log in token.top), (token.text, token.log_probability)]:
        likely.setdefault(text, max(log, IMPOSSIBLE))  # parts of characters share a text: the likeliest stays
    return likely


class Offsets:
    """The character of a text at which each of its tokens begins, while both still grow.

    Special tokens, which the text leaves out, have no width there. Of a character that several tokens write, all have
    the character's place.

    >>> tokens = [Token(1, "<start>"), Token(5, "An"), Token(6, " \ufffd"), Token(7, "\ufffd"), Token(8, "!")]
    >>> Offsets().more(tokens, "An é!")
    [0, 0, 2, 2, 4]
    """

    def __init__(self) -> None:
        self._at, self._pending = 0, 0  # where the next token begins; the characters that are not whole before it
        self._open: list[Token] = []  # tokens whose width more text may change

    def more(self, tokens: Sequence[Token], text: str) -> list[int]:
        """The offsets of the next tokens; `text` is what all tokens have written so far."""
        looked_at, found = [*self._open, *tokens], []
        at, pending, closed = self._at, self._pending, 0
        for number, token in enumerate(looked_at):
            if pending and UNFINISHED not in token.text:  # behind a character of several tokens
                end = at + len(token.text) + pending + 1
                next_at = text.find(token.text, at, end)
                settled = next_at >= 0 or len(text) >= end
                at, pending = (next_at if next_at >= 0 else at), 0
            else:
                settled = True
            found.append(at)
            if UNFINISHED in token.text:
                pending += len(token.text)
            elif text.startswith(token.text, at):
                at += len(token.text)
            else:
                settled = settled and not token.text.startswith(text[at : at + len(token.text)])
            if settled and closed == number:
                closed, self._at, self._pending = number + 1, at, pending
        self._open = looked_at[closed:]
        return found[len(looked_at) - len(tokens) :]
