"""Between HTTP and the engine: a client's request becomes requests of the engine, or a refusal."""

import contextlib
import math
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pydantic
from anyio.to_thread import run_sync

from trimtab.config.guide import DecoderConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import DataError, TrimtabError, one_line, shown
from trimtab.messages import prompt_of
from trimtab.records import Message, PromptInput
from trimtab.serve.answer_state import Scorer
from trimtab.serve.answers import ServerFacts
from trimtab.serve.api_errors import ApiError
from trimtab.serve.formats import Heading
from trimtab.serve.metrics import OTHER, Metrics
from trimtab.serve.model_names import ModelNames
from trimtab.serve.protocol import ChatMessage, ChatRequest, CompletionRequest, GenerationBody
from trimtab.serve.requests import (
    ContextLengthError,
    GenerationEngine,
    GenerationRequest,
    QueueFullError,
    RefusedError,
    RequestHandle,
    ShutdownError,
)
from trimtab.serve.search_settings import changed, wants
from trimtab.serve.shared_reward import SharedReward

PROMPTS_PER_REQUEST = 128
SHUTDOWN_RETRY_SECONDS = 5


@dataclass(frozen=True)
class Defaults:
    """What a request gets that it does not ask for: the run's sampling, stop strings and longest answer."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Service:
    """What the routes answer with.

    `conversations`: whether all models have a chat template. Without, a conversation of one message of the user is
    read as its text, in the models' own templates, and others are refused. `reward`: what scores answers where clients
    ask for it, `reward_unit` the unit of its numbers.
    """

    engine: GenerationEngine
    names: ModelNames
    metrics: Metrics
    defaults: Defaults = field(default_factory=Defaults)
    conversations: bool = True
    reward: SharedReward | None = None
    reward_unit: str = "points"
    started: int = field(default_factory=lambda: int(time.time()))

    def decoder(self, body: GenerationBody) -> DecoderConfig:
        """The decoder that a request asks for by its model's name and its settings.

        Raises:
            ApiError: there is no such model, or no such setting.
        """
        decoder = changed(self.names.decoder(body.model), body.trimtab)
        self.names.check(decoder)
        return decoder

    def chat_prompt(self, messages: Sequence[ChatMessage]) -> PromptInput:
        """The prompt of a conversation.

        Raises:
            ApiError: it holds what models do not read.
        """
        plain = [message.model_dump(exclude_none=True) for message in messages]
        try:
            prompt = prompt_of(plain, "messages")
        except DataError as error:
            raise ApiError(400, str(error), param="messages") from None
        return prompt if self.conversations else _only_message(prompt)

    def requests(
        self, body: ChatRequest | CompletionRequest, prompts: Sequence[PromptInput | tuple[int, ...]], request_id: str
    ) -> list[GenerationRequest]:
        """A request of the engine for each prompt.

        Raises:
            ApiError: the model, a setting or a temperature is wrong, or there are too many prompts.
        """
        if len(prompts) > PROMPTS_PER_REQUEST:
            message = f"{len(prompts)} prompts are too many: send at most {PROMPTS_PER_REQUEST} at once"
            raise ApiError(400, message, param="prompt")
        decoder, seed = self.decoder(body), body.seed
        first = GenerationRequest(
            id=request_id,
            prompt=prompts[0],
            decoder=decoder.model_copy(update={"name": self.label(decoder)}),
            sampling=self._sampling(body),
            max_new_tokens=self.defaults.max_new_tokens if body.limit is None else body.limit,
            n=body.n,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            stop=tuple(dict.fromkeys([*self.defaults.stop, *body.stops])),
            stop_token_ids=tuple(body.stop_token_ids),
            logprobs=body.top,
            echo=isinstance(body, CompletionRequest) and body.echo,
            stream=body.stream,
            trace=wants(body.trimtab, "steps"),
        )
        if first.trace and not first.stream:
            raise ApiError(400, "trimtab.steps are events of a stream: give stream: true", param="trimtab.steps")
        return [first, *(_another(first, prompts, number) for number in range(1, len(prompts)))]

    def heading(self, body: ChatRequest | CompletionRequest, request: GenerationRequest, prefix: str) -> Heading:
        """What all events of the answer to a request have in common."""
        return Heading(
            id=f"{prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            decoder=self.decoder(body).name,
            seed=request.seed,
            shows_ids=body.return_token_ids,
            top=body.top,
        )

    async def scorer(self, body: GenerationBody, requests: Sequence[GenerationRequest]) -> Scorer | None:
        """What gives the rewards of the choices of these requests; None where `body` asks for none.

        The reward is loaded here, so that no search is run for an answer that cannot be scored; and between two steps,
        since libraries change the default dtype of the whole process while they load a model.

        Raises:
            ApiError: there is no reward, it cannot be loaded, or it cannot read a prompt.
        """
        if not wants(body.trimtab, "reward"):
            return None
        reward, prompts = self.reward, [request.prompt for request in requests for _ in range(request.n)]
        if reward is None:
            message = "trimtab.reward: what is served has no gold reward (a finished run has one): leave it out"
            raise ApiError(400, message, param="trimtab.reward")
        texts = [prompt for prompt in prompts if not isinstance(prompt, tuple)]
        if len(texts) < len(prompts):
            raise ApiError(400, "the gold reward reads texts: give the prompt as a text, not as ids", param="prompt")

        async def scores(responses: Sequence[str]) -> list[float | None]:
            with _reward_faults():
                return await reward.scores(texts, responses)

        if not reward.loaded:
            with _reward_faults():
                await run_sync(self.engine.between_steps, reward)
        return scores

    async def submit(self, requests: Sequence[GenerationRequest], prompt: str) -> list[RequestHandle]:
        """Hand the requests to the engine; all are taken on, or none. `prompt` is the field that holds their prompts.

        Raises:
            ApiError: it refuses one, or could never hold all of them.
        """
        queue = max(1, self.engine.limits.queue)
        if len(requests) > queue:
            message = (
                f"{len(requests)} prompts are more than the queue of this server holds: send at most {queue} at once"
            )
            raise ApiError(400, message, param=prompt)
        handles: list[RequestHandle] = []
        try:
            for request in requests:
                handles.append(await run_sync(self.engine.submit, request))
        except TrimtabError as error:
            raise refusal(error, prompt) from None
        finally:
            if len(handles) < len(requests):
                for handle in handles:
                    handle.cancel()
        return handles

    def drain(self, seconds: float) -> None:
        """Take nothing on any more, let what runs end for so many seconds, then have the rest refused."""
        end = time.monotonic() + seconds
        self.engine.close(seconds)
        if self.reward is not None:
            time.sleep(max(0.0, end - time.monotonic()))  # answers may still be scored
            self.reward.close()

    def label(self, decoder: DecoderConfig) -> str:
        """The decoder's name in metrics: its own where it is a listed one."""
        listed = self.names.known(decoder.name)
        return decoder.name if listed else OTHER

    @property
    def facts(self) -> ServerFacts:
        """What holds for all models, as clients see it."""
        sampling = self.defaults.sampling
        return ServerFacts(
            chat=self.conversations,
            reward=None if self.reward is None else self.reward_unit,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=self.defaults.max_new_tokens,
        )

    def _sampling(self, body: GenerationBody) -> SamplingConfig:
        try:
            return SamplingConfig.model_validate({**self.defaults.sampling.model_dump(), **body.sampling})
        except pydantic.ValidationError as error:
            fault = error.errors()[0]
            name = str(fault["loc"][0])
            message = f"{name} is {shown(fault['input'])}: {fault['msg'].removeprefix('Value error, ')}"
            raise ApiError(400, message, param=name) from None


def _another(
    first: GenerationRequest, prompts: Sequence[PromptInput | tuple[int, ...]], number: int
) -> GenerationRequest:
    """The request for the prompt of this number in a list, given that for the list's first prompt.

    Answers to equal prompts differ: they are numbered through the whole list, as `guided.generate` does.
    """
    before = prompts[:number].count(prompts[number])
    return replace(first, id=f"{first.id}-{number}", prompt=prompts[number], first=before * first.n)


@contextlib.contextmanager
def _reward_faults() -> Iterator[None]:
    """Inside, an error of the reward is the server's: the client's request is sound."""
    try:
        yield
    except ShutdownError as error:
        raise refusal(error, "prompt") from None
    except TrimtabError as error:
        raise ApiError(500, one_line(str(error)), code="reward_failed") from None


def refusal(error: TrimtabError, prompt: str) -> ApiError:
    """What a client is told of a request that is not taken on; `prompt` is the field that holds its prompt."""
    if isinstance(error, QueueFullError):
        return ApiError.busy(str(error), max(1, math.ceil(error.retry_after)))
    if isinstance(error, ContextLengthError):
        return ApiError.too_long(str(error), prompt)
    if isinstance(error, ShutdownError):
        return ApiError(503, str(error), code=error.reason, headers={"Retry-After": str(SHUTDOWN_RETRY_SECONDS)})
    return ApiError(400, str(error), code=error.reason if isinstance(error, RefusedError) else None)


def _only_message(prompt: PromptInput) -> PromptInput:
    """The text of a conversation's only message.

    Raises:
        ApiError: there are several, or it is not the user's.
    """
    messages: list[Message] = [] if isinstance(prompt, str) else prompt
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    raise ApiError(
        400, "the model has no chat template: send one message of the user, or a prompt to /v1/completions",
        param="messages",
    )  # fmt: skip
