"""What clients send: OpenAI's requests, with vLLM's names for sampling and the field `trimtab` for the search.

A field that is unknown or not supported is refused by its name, so that no answer differs in silence from what was
asked for. Values that ask for nothing (null, `tools: []`, `presence_penalty: 0`) are accepted.

>>> ChatRequest.model_validate({"model": "gemma", "messages": [{"role": "user", "content": "Hello"}]}).n
1
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from trimtab.messages import ROLES, TEXT_PARTS
from trimtab.serve.search_settings import SETTINGS_SCHEMA

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 64
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),  # of chat completions
    "enable_thinking": (),
    "extra_body": (),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "guided_json": (),
    "ignore_eos": (False,),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "refusal": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of other servers that this one does not have, each with values that ask for nothing."""
StopString = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]  # tokenizers know no larger number
Ids = Annotated[list[TokenId], Field(min_length=1)]


class Body(BaseModel):
    """Base of all requests: exact types, no unknown field."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name in known or not _neutral(name, value))
        }


def _neutral(name: str, value: Any) -> bool:
    return any(type(value) is type(neutral) and value == neutral for neutral in UNSUPPORTED.get(name, ()))


class WholeBody(Body):
    """Base of what is a request's whole body."""

    model: str

    @model_validator(mode="before")
    @classmethod
    def _characters_are_whole(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a character (a lone surrogate): mend the text") from None
        return values


class StreamOptions(Body):
    """What a stream adds to the answer's text. `include_usage`: a last event with the tokens of all choices."""

    include_usage: bool = False


class TextPart(Body):
    """A part of a message's content. Models read texts alone."""

    type: Literal[TEXT_PARTS] = "text"  # type: ignore[valid-type]
    text: str


class ChatMessage(Body):
    """A message of a conversation, with the fields that chat templates read."""

    role: Literal[ROLES]  # type: ignore[valid-type]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class GenerationBody(WholeBody):
    """What completions and chat completions have in common.

    `n`: choices to return, each of a search of its own. `seed`: the same seed and prompt get the same answer, alone or
    among others; without one, one is drawn, and the answer's `trimtab.seed` names it. Temperature and filters that are
    left out are the decoder's own. `stop`: the answer is cut before the first of these; they may hold special tokens.
    `return_token_ids`: choices have their ids.
    `trimtab`: settings of the search (docs/serving.md). `user`, `metadata` and the like label a request and change
    nothing.
    """

    n: int = Field(1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)  # beyond, logits overflow
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    trimtab: Annotated[dict[str, Any], Field(json_schema_extra=SETTINGS_SCHEMA)] = Field({})
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _options_of_streams_have_one(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options describe a stream: give stream, or leave them out")
        return self

    @property
    def sampling(self) -> dict[str, Any]:
        """Temperature and filters that the request sets, by the names of `SamplingConfig`."""
        names = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
        return self.model_dump(include=names, exclude_unset=True) | (
            {"top_k": 0} if self.top_k == -1 else {}
        )  # vLLM: -1 is no filter

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event that counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _fields_fit(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs come with logprobs: give logprobs: true, or leave them out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer; None: the decoder's own limit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        """How many likely tokens to show beside each; None where no log-probabilities are asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationBody):
    """`POST /v1/completions`. `prompt` is a text or a list of token ids, or a list of several of one kind.

    With `echo`, choices begin with the prompt, whose tokens have log-probabilities where `logprobs` asks for them;
    `max_tokens: 0` then writes nothing.
    """

    prompt: str | Annotated[list[str], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _something_is_written(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0, which writes nothing: give at least 1, or echo")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts, one or several: texts, or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = tuple(entry for entry in self.prompt if isinstance(entry, int))
        if ids:
            return [ids]
        return [
            tuple(entry) if isinstance(entry, list) else entry for entry in self.prompt if not isinstance(entry, int)
        ]

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer; None: the decoder's own limit."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likely tokens to show beside each; None where no log-probabilities are asked for."""
        return self.logprobs


class TokenizeRequest(WholeBody):
    """`POST /tokenize`: a text or a conversation, which is encoded as the model reads it, in its template."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt, or messages")
        return self
