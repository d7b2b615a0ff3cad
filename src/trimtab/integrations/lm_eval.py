"""A guided model for the tasks of lm-evaluation-harness (the extra `lm-eval`)."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.language_model import LanguageModel
from trimtab.models.likelihood import likelihoods, rolling_likelihoods
from trimtab.models.served_model import CompletionsModel
from trimtab.records import Message, PromptInput
from trimtab.search.guided_model import GuidedModel

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
except ModuleNotFoundError:
    raise ConfigurationError('lm-evaluation-harness is not installed: pip install "trimtab[lm-eval]"') from None

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

CONVERSATION = "\x1etrimtab conversation "
"""The beginning of a text that carries a conversation; a digest of the messages' JSON, and this JSON, follow."""


class HarnessModel(LM):
    """Answers `generate_until` requests and, where the search has a single candidate, requests for likelihoods.

    With a single candidate (base, tuned, EFT) each text has a probability, before temperature and filters. A search
    among several candidates chooses texts, and refuses requests for likelihoods.

    A task's `until`, `max_gen_toks` and, where it samples, its temperature and filters apply. A task that wants the
    greedy answer gets it from a search with one candidate. Greedy decoding would make several candidates equal, so
    they are drawn by the guided model's own `sampling`.

    Args:
        guided: the result of `Guide.steer`.
    """

    def __init__(self, guided: GuidedModel) -> None:
        super().__init__()
        self.guided = guided

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness caches requests.

        Requests for other models hold rendered templates, those made here conversations, which fit any model.
        """
        return "trimtab-conversations"

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """A text that carries the conversation: guide and base each render it in their own template.

        Where a task has `gen_prefix`, the conversation ends in a message of the assistant, which is continued.

        Raises:
            ConfigurationError: there is no generation prompt, and no such message to continue.
        """
        if not add_generation_prompt and (not chat_history or chat_history[-1]["role"] != "assistant"):
            raise ConfigurationError(
                "a task with gen_prefix begins the answer itself, and its conversation has no message of the assistant"
            )
        text = json.dumps(chat_history)
        return f"{CONVERSATION}{_digest(text)} {text}"

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The best response to each request's context.

        Raises:
            ConfigurationError: a task asks for something that the search does not have.
        """
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts = [""] * len(requests)
        for indices in groups.values():
            guided = self._with_settings(requests[indices[0]].args[1])
            prompts: list[PromptInput] = [_prompt(requests[index].args[0]) for index in indices]
            for index, text in zip(indices, guided.generate(prompts, progress=not disable_tqdm), strict=True):
                texts[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats of each request, and whether greedy decoding writes it.

        Raises:
            ModelError: the guided model chooses among several candidates, or shows no probabilities.
        """
        model = self._language_model()
        results = likelihoods(model, [(_prompt(request.args[0]), request.args[1]) for request in requests])
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each request's whole text in nats.

        Raises:
            ModelError: as `loglikelihood`.
        """
        model = self._language_model()
        results = rolling_likelihoods(model, [request.args[0] for request in requests])
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return results

    def _language_model(self) -> LanguageModel:
        base = self.guided.base
        if self.guided.search.candidates > 1 or isinstance(base, CompletionsModel):
            raise ModelError(
                "a guided model gives texts and no likelihoods: take tasks whose output_type is generate_until, or a "
                "search with one candidate over a model that runs here"
            )
        return base

    def _with_settings(self, settings: dict[str, Any]) -> GuidedModel:
        """The guided model with the `generation_kwargs` of a task."""
        search = self.guided.search
        settings = dict(normalize_gen_kwargs(settings, search.max_new_tokens))
        until, length, samples = settings.pop("until"), settings.pop("max_gen_toks"), settings.pop("do_sample")
        sampling = {name: settings.pop(name) for name in SAMPLING if name in settings}
        if settings:
            raise ConfigurationError(
                f"the search has no {', '.join(sorted(settings))}: drop it from the task's generation_kwargs"
            )
        own = self.guided.sampling
        return dataclasses.replace(
            self.guided,
            search=dataclasses.replace(search, max_new_tokens=length),
            sampling=SamplingConfig.model_validate({**own.model_dump(), **sampling})
            if samples or search.candidates == 1
            else own,
            stop=tuple(dict.fromkeys([*self.guided.stop, *filter(None, until)])),
        )


def _prompt(context: str) -> PromptInput:
    """The messages that a request's context carries, or the context itself."""
    if not context.startswith(CONVERSATION):
        return context
    digest, _, text = context.removeprefix(CONVERSATION).partition(" ")
    if digest != _digest(text):
        raise ConfigurationError(
            "a request's conversation was cut or extended, so that no chat template fits it: drop what changes the "
            "prompts after apply_chat_template"
        )
    conversation: PromptInput = json.loads(text)
    return conversation


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
