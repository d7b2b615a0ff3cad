"""What clients get: the bodies of OpenAI's protocol, with what the search cost under `trimtab`."""

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of the prompt, counted once, and of the choices that are returned."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SearchReport(BaseModel):
    """What the search was and cost.

    `decoder`: its settings in a name. `seed`: the same seed and prompt get the same answer. `values`: what the search
    ranked each choice by, null where it had no value. `tokens_drawn`: sampled tokens of all candidates. `guide_tokens`:
    tokens that the guides read. `flops`: forward FLOPs of all models; of what several requests shared, this one's part.
    `rewards`: each choice's gold reward where the request asks for it, null where that is not finite; scoring is not
    part of `flops`.
    """

    decoder: str
    seed: int
    values: list[float | None] = []
    tokens_drawn: int = 0
    guide_tokens: int = 0
    flops: float = 0.0
    rewards: list[float | None] | None = None


class TopLogprob(BaseModel):
    """A likely token at a place, its log-probability in nats, and its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest tokens at its place."""

    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens, before temperature and filters."""

    content: list[TokenLogprob] = []


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a choice's tokens in nats, before temperature and filters.

    `text_offset`: the character of the choice's text at which each token begins. The first token of an echoed prompt
    has no probability: null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class AnswerMessage(BaseModel):
    """The answer of a chat completion."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    token_ids: list[int] | None = None


class ChatCompletion(BaseModel):
    """The answer to `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    trimtab: SearchReport


class CompletionChoice(BaseModel):
    """One continuation. `stop_reason`: the stop string or token that ended it; null where the model ended, or length.

    It is vLLM's field.
    """

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(BaseModel):
    """The answer to `POST /v1/completions`; the choices of several prompts follow each other."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    trimtab: SearchReport


class DecoderFacts(BaseModel):
    """The settings of a decoder that clients most often change, as `docs/search-settings.md` explains them."""

    width: int
    successors: int
    chunk: int | None
    beta: float | None


class ServerFacts(BaseModel):
    """What holds for all models of the server.

    `chat`: whether the models have a chat template. `reward`: the unit of the gold reward, null where there is none to
    ask for. The others are what a request gets that does not set them.
    """

    chat: bool
    reward: str | None
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class ModelCard(BaseModel):
    """A model of the list: a decoder. `description` says what it does."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["trimtab"] = "trimtab"
    description: str
    max_model_len: int | None
    trimtab: DecoderFacts


class ModelList(BaseModel):
    """The answer to `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    trimtab: ServerFacts


class Tokens(BaseModel):
    """The answer to `POST /tokenize`."""

    count: int
    max_model_len: int | None
    tokens: list[int]


class Health(BaseModel):
    """The answer to `GET /health`."""

    status: Literal["ok"] = "ok"
