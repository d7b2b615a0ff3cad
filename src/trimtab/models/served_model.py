"""A model behind an OpenAI-compatible completions endpoint, such as a vLLM server: it returns texts and their number
of tokens, but neither ids nor logits."""

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from trimtab.config.fields import CHAT, check_template, fill
from trimtab.config.models import EndpointConfig, ModelConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import EndpointError, ModelError, TooLongError, check_type
from trimtab.models.http_client import Endpoint
from trimtab.models.served_answer import Choice, choices_in
from trimtab.records import PromptInput

SEED_STRIDE = 1_000_003  # added to the seed of a repeated request for each choice that the server has already returned
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Usage:
    """What a server has counted: requests, tokens read and tokens written."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def price(self, config: EndpointConfig) -> float | None:
        """The cost at the endpoint's prices, in their currency; None where they are not known."""
        if config.prompt_price is None or config.completion_price is None:
            return None
        return (self.prompt_tokens * config.prompt_price + self.completion_tokens * config.completion_price) / 1e6


@dataclass(frozen=True)
class Question:
    """A request for `count` continuations of a text, of at most `tokens` tokens each, sampled with `seed`."""

    text: str
    count: int
    tokens: int
    seed: int


class CompletionsModel:
    """A model that continues texts on a server.

    Args:
        url: the endpoint's address as OpenAI's clients take it, such as http://host:8000/v1.
        name: the model's name on the server.
        template: the text around a prompt, which stands at `{prompt}`.
        settings: key, concurrency, timeout, attempts and prices, as `endpoint` of a `ModelConfig` takes them.

    Raises:
        ConfigurationError: the address or a setting is none that can be used, the template lacks `{prompt}`, or the
            environment lacks the variable of the key.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        template: str = "{prompt}",
        settings: EndpointConfig | Mapping[str, Any] | None = None,
    ) -> None:
        check_template(template)
        check_type("name", name, str, "the model's name on the server")
        check_type("settings", settings, EndpointConfig | Mapping | None, 'such as {"key_variable": "MY_KEY"}')
        self.name = name
        self.template = template
        given = settings if isinstance(settings, EndpointConfig) else {**(settings or {}), "url": url}
        self.settings = given if isinstance(given, EndpointConfig) else EndpointConfig(**given)
        self.usage = Usage()  # what the server has counted so far
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/completions",
            timeout=self.settings.timeout,
            attempts=self.settings.attempts,
            key_variable=self.settings.key_variable,
            pause=self._pause,
        )

    def __repr__(self) -> str:
        return f"<CompletionsModel {self.name} at {self.settings.url}, template {self.template!r}>"

    @classmethod
    def of(cls, config: ModelConfig) -> "CompletionsModel":
        """The model of a configuration that names an endpoint."""
        assert config.endpoint is not None, config
        return cls(config.endpoint.url, config.name, template=config.template, settings=config.endpoint)

    def prompt_text(self, prompt: PromptInput) -> str:
        """The text that the server continues.

        Raises:
            ModelError: the prompt is a conversation: a completions endpoint has no chat template.
        """
        if isinstance(prompt, list) or self.template == CHAT:
            raise ModelError(
                f"{self.name} is behind a completions endpoint, which continues text and has no chat template: give "
                "prompts as strings, and write the turns of a chat into a template with {prompt} in it"
            )
        return fill(self.template, prompt=prompt)

    def complete(
        self, questions: Sequence[Question], sampling: SamplingConfig, stop: Sequence[str] = ()
    ) -> list[list[Choice]]:
        """The continuations of each question; as many requests at once as the settings allow.

        Raises:
            EndpointError: the server does not answer, refuses, or breaks OpenAI's protocol.
        """
        return self._concurrently(lambda question: self._choices(question, sampling, stop), questions)

    def _concurrently(self, ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """Call `ask` on all items, as many at a time as the settings allow; the answers in the order of the items.

        The first call that fails raises its error here, and the others are given up.
        """
        self._stopping.clear()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = [pool.submit(ask, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
                return [future.result() for future in futures]
            finally:  # after an error or Ctrl-C, requests that wait for another attempt stop waiting
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def log_probabilities(self, texts: Sequence[tuple[PromptInput, str]]) -> list[tuple[float, int]]:
        """`log_probability` of each (prompt, response); NaN and no tokens where the server refuses it as too long."""

        def ask(text: tuple[PromptInput, str]) -> tuple[float, int]:
            try:
                return self.log_probability(*text)
            except TooLongError:
                return math.nan, 0

        return self._concurrently(ask, texts)

    def log_probability(self, prompt: PromptInput, response: str) -> tuple[float, int]:
        """log p(response | prompt) in nats and the number of the response's tokens.

        The server splits prompt and response together; a token with characters of both belongs to the prompt.

        Raises:
            EndpointError: the server gives no log-probabilities of the tokens that it reads.
        """
        text = self.prompt_text(prompt)
        body = {"model": self.name, "prompt": text + response, "max_tokens": 1, "echo": True, "logprobs": 1}
        answer = self._post(body)
        try:
            logs = answer["choices"][0]["logprobs"]
            end = len(text) + len(response)
            entries = list(zip(logs["text_offset"], logs["token_logprobs"], strict=True))
            if entries[0][1] is None:  # the first token has no probability, since nothing stands before it
                entries = entries[1:]
            inside = [_number(log) for offset, log in entries if len(text) <= offset < end]
        except (KeyError, IndexError, TypeError, ValueError):
            raise EndpointError(
                f"{self._endpoint.url} gives no log-probabilities of a prompt (echo with logprobs): leave out "
                "endpoint.log_probabilities"
            ) from None
        return sum(inside), len(inside)

    def _pause(self, seconds: float) -> None:
        """Wait before another attempt; raise EndpointError at once where another request has failed for good."""
        if self._stopping.wait(seconds):
            raise EndpointError(f"{self._endpoint.url} does not answer: start it, and the same command goes on")

    def _choices(self, question: Question, sampling: SamplingConfig, stop: Sequence[str]) -> list[Choice]:
        """All continuations of one question; a server that gives fewer at a time is asked again."""
        greedy = sampling.temperature == 0  # all choices would be equal, and servers refuse to return several
        count = 1 if greedy else question.count
        choices: list[Choice] = []
        try:
            while len(choices) < count:
                seed = (question.seed + SEED_STRIDE * len(choices)) % 2**31
                rest = dataclasses.replace(question, count=count - len(choices), seed=seed)
                choices += self._ask(rest, sampling, stop)
        except TooLongError:
            return [Choice("", 0, "too_long")] * question.count
        return choices * question.count if greedy else choices

    def _ask(self, question: Question, sampling: SamplingConfig, stop: Sequence[str]) -> list[Choice]:
        penalty = sampling.repetition_penalty
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": question.text,
            "max_tokens": question.tokens,
            "n": question.count,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": question.seed,
            "stop": list(stop) or None,
            "top_k": sampling.top_k or None,
            "min_p": sampling.min_p or None,
            "repetition_penalty": None if penalty == 1 else penalty,
        }
        answer = self._post({name: value for name, value in body.items() if value is not None})
        return choices_in(answer, question.tokens, stop, self._endpoint.url)[: question.count]

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._endpoint.post(body)
        used = answer.get("usage")
        counts = [used.get(name) if isinstance(used, Mapping) else 0 for name in ("prompt_tokens", "completion_tokens")]
        counted = Usage(1, *(count if isinstance(count, int) else 0 for count in counts))
        with self._counting:
            self.usage += counted
        return answer


def _number(log: Any) -> float:
    if not isinstance(log, int | float) or isinstance(log, bool) or log != log:
        raise ValueError(f"{log!r} is no log-probability")
    return float(log)
