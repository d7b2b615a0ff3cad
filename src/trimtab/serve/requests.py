"""What HTTP and engine say to each other, as plain data: requests, the events that answer them, limits and counters.

>>> request = GenerationRequest(id="r1", prompt="I really", decoder=DecoderConfig(width=4, successors=4, chunk=5))
>>> request.rows
16
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from trimtab.config.guide import DecoderConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import TrimtabError
from trimtab.records import Finish, PromptInput


@dataclass(frozen=True)
class GenerationRequest:
    """One request for `n` responses to one prompt.

    Random numbers follow from `seed`, `prompt` and `first` alone: choice i is response `first + i` of
    `guided.generate([prompt] * (first + n))`.

    Attributes:
        id: names the request in logs and messages.
        prompt: a text, a conversation, or token ids of the decoder's model. Texts are put into the model's template,
            conversations are written by its chat template, ids are read as they are (guides read their text).
        decoder: the model and the search. `n_best`, `budget` and `best_of` have no meaning here and are refused.
        max_new_tokens: of each response, at most; 0 only with `echo`.
        stop: strings that end a response, which is cut before the first of them; they may hold special tokens.
        stop_token_ids: tokens that end a response, besides the model's own end tokens; their text is left out.
        logprobs: None: no log-probabilities. k: of each token, and of the k likeliest tokens in its place. They are the
            model's own, before temperature and filters. A search that chooses among candidates gives those of the
            returned ids, without likeliest ones, with its last piece of text.
        echo: the prompt comes first, as a `TextPiece` with its tokens; not for conversations.
        stream: pieces of text come as soon as all beams share them; else each choice has one piece at its end.
        trace: every step of the search comes as a `SearchStep`.
    """

    id: str
    prompt: PromptInput | tuple[int, ...]
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = 50
    n: int = 1
    first: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    trace: bool = False

    @property
    def rows(self) -> int:
        """W·K·n: the largest number of rows that are decoded for it at a time."""
        return self.n * self.decoder.width * self.decoder.successors


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text. `text`: what it adds, special tokens by their name, parts of characters as U+FFFD.

    `log_probability` in nats: None where none was asked for, and for the first token of a prompt. `top`: the likeliest
    tokens in its place, likeliest first, as (id, text, log-probability).
    """

    id: int
    text: str
    log_probability: float | None = None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextPiece:
    """More text of a choice. All pieces of a choice, joined, are its text; none is ever taken back.

    `tokens` are those that wrote this piece and were not in an earlier one; an end token is among the last ones. The
    tokens of a piece and its text need not end at the same character. `prompt`: whether this is the echoed prompt.
    """

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()
    prompt: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate of one step of a search, with its whole text so far.

    `value` is None where nothing judges candidates. `parent`: its parent's index among the candidates that the step
    before kept (of one that is `held`, its own). `kept`: its index among those that this step keeps, None where it was
    dropped. `held`: it had finished before, and only keeps its place. `tokens`: the number of its tokens. `dropped`:
    why it was dropped, in words; empty where it was kept.
    """

    text: str
    value: float | None
    finish: Finish | None
    parent: int
    kept: int | None
    held: bool
    tokens: int
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class SearchStep:
    """All candidates of one step of a choice's search, best first; steps are counted from 0."""

    choice: int
    number: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """A choice has all its text.

    `stop`: the stop string or stop token that ended it; None where the model's end token did, or the length. `value`:
    what the search ranked it by, None without a search.
    """

    choice: int
    finish: Literal["stop", "length"]
    stop: str | int | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request has cost; FLOPs of a call that served several requests are shared out by the tokens it read.

    `prompt`: tokens of the prompt, counted once. `returned`: tokens of all returned responses, end tokens included.
    `drawn`: all tokens sampled for it, also those of dropped candidates. `guide`: tokens that the guides have read.
    `flops`: forward FLOPs of all models, as `StatefulModel.flops` counts them.
    """

    prompt: int = 0
    returned: int = 0
    drawn: int = 0
    guide: int = 0
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """The last event of a request that was answered."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The last event of a request that has no answer; the error's message is one line.

    `error` is a `CancelledError` after `cancel`, a `ShutdownError` after `close`, else what went wrong: a model's
    logits or values that are no numbers, memory that does not hold even this request alone, an error of a reward.
    """

    error: TrimtabError


Event: TypeAlias = TextPiece | SearchStep | ChoiceEnd | RequestEnd | RequestFailed
"""The events of a request, in order: pieces and steps, the end of each choice, then one end of the request."""


@dataclass(frozen=True)
class Limits:
    """What the engine takes on.

    `rows`: candidates that are decoded together. `queue`: requests that wait. `request_rows`: W·K·n of one request.
    `context`: tokens of a prompt and its response together (None: the model's own limit). `slice_tokens`: prompt tokens
    that are read at once between two steps.
    """

    rows: int = 256
    queue: int = 256
    request_rows: int = 256
    context: int | None = None
    slice_tokens: int = 512


class RefusedError(TrimtabError):
    """A request that the engine does not take on; `reason` labels it in counters."""

    reason = "refused"


class QueueFullError(RefusedError):
    """Too many requests wait; `retry_after` is the number of seconds after which to ask again."""

    reason = "queue_full"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ContextLengthError(RefusedError):
    """Prompt and response are longer than a model's context."""

    reason = "context_length_exceeded"


class TooManyRowsError(RefusedError):
    """Width, successors and n together ask for too many rows."""

    reason = "too_many_rows"


class ShutdownError(RefusedError):
    """The engine is closing, or closed."""

    reason = "shutting_down"


class CancelledError(TrimtabError):
    """The request was cancelled."""


@dataclass(frozen=True)
class Counters:
    """A snapshot of what /metrics shows. Numbers by decoder have the decoder's name as key.

    `queued` and `running`: requests. `rows`: rows that are being decoded, `row_limit`: how many may be (memory that
    ran out lowers it for a while, which `memory_cuts` counts). `steps` and `step_seconds`: steps of the engine, each of
    one token a row, and their time. `drawn` and `returned`: tokens. `requests`: ended ones by (decoder, outcome), the
    outcome being `answered`, `failed` or `cancelled`. `refusals`: by reason.
    """

    queued: int = 0
    running: int = 0
    rows: int = 0
    row_limit: int = 0
    memory_cuts: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    drawn: Mapping[str, int] = field(default_factory=dict)
    returned: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)


class RequestHandle(Protocol):
    """A request that was taken on. Its events are read once, from any thread or from asyncio.

    `for event in handle` blocks the thread until the next event; `async for event in handle` lets the running event
    loop go on meanwhile. Both end after `RequestEnd` or `RequestFailed`.
    """

    request: GenerationRequest

    def __iter__(self) -> Iterator[Event]: ...

    def __aiter__(self) -> AsyncIterator[Event]: ...

    def cancel(self) -> None:
        """Free the request's rows at the next step. May be called from any thread, more than once, or too late."""


class GenerationEngine(Protocol):
    """Runs requests. All methods may be called from any thread. `alive`: whether its own thread still runs."""

    limits: Limits

    @property
    def alive(self) -> bool: ...

    def submit(self, request: GenerationRequest) -> RequestHandle:
        """Take a request on.

        Raises:
            QueueFullError, ContextLengthError, TooManyRowsError, ShutdownError: it is refused.
            TrimtabError: the prompt cannot be read, or settings do not go together; the message says which.
        """

    def tokenize(self, prompt: PromptInput, decoder: DecoderConfig) -> list[Token]:
        """The prompt as the decoder's model reads it, template included."""

    def between_steps(self, call: Callable[[], Any]) -> Any:
        """The result of a call in the engine's thread, between two steps: for what must not run beside one."""

    def context(self, decoder: DecoderConfig) -> int:
        """How many tokens prompt and response may have together."""

    def counters(self) -> Counters: ...

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take nothing on any more, let what runs or waits end for so many seconds, then end the rest.

        Returns once the engine's thread has ended. What did not end gets `RequestFailed` with a `ShutdownError`.
        """
