"""A guided model for the tasks of lm-evaluation-harness (the extra `lm-eval`).

>>> import lm_eval                                                                  # doctest: +SKIP
>>> lm_eval.simple_evaluate(HarnessModel(guided), tasks=["gsm8k"])                  # doctest: +SKIP
"""

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

DRAWING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

CONVERSATION = "\x1etrimtab conversation "
"""What a text that stands for a conversation begins with; a digest of the rest and the rest, as JSON, follow."""


class HarnessModel(LM):
    """Answers `generate_until` requests and, where the guided model is a language model, requests for likelihoods.

    It is one where the search has a single candidate: then each text has a probability (base, tuned, EFT), before
    temperature and filters. A search among several candidates chooses texts, and likelihoods are refused.

    A task's `until`, `max_gen_toks` and, where it samples, its temperature and filters hold. A task that wants the
    greedy answer gets it from a search with one candidate; where there are several, which greedy decoding would make
    equal, they are drawn as the guided model's own `sampling` says.

    Args:
        guided: what `Guide.steer` made.
    """

    def __init__(self, guided: GuidedModel) -> None:
        super().__init__()
        self.guided = guided

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its cached requests apart by.

        Those made for other models hold rendered templates, those made here conversations, which fit any model.
        """
        return "trimtab-conversations"

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """A text that carries the conversation: guide and base each render it in their own template.

        A task with `gen_prefix` begins the answer: the conversation ends in a message of the assistant, which is
        continued.

        Raises:
            ConfigurationError: there is no generation prompt, and no such message to continue.
        """
        if not add_generation_prompt and (not chat_history or chat_history[-1]["role"] != "assistant"):
            raise ConfigurationError(
                "a task with gen_prefix begins the answer itself, and its conversation has no message of the assistant"
            )
        return _carried(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The best response to each request's context.

        Raises:
            ConfigurationError: a task asks for something that the search does not have.
        """
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        texts = [""] * len(requests)
        for places in groups.values():
            guided = self._as_asked(requests[places[0]].args[1])
            prompts: list[PromptInput] = [_conversation(requests[place].args[0]) for place in places]
            for place, text in zip(places, guided.generate(prompts, progress=not disable_tqdm), strict=True):
                texts[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats of each request, and whether greedy decoding writes it.

        Raises:
            ModelError: the guided model chooses among several candidates, or shows no probabilities.
        """
        model = self._language_model()
        found = likelihoods(model, [(_conversation(each.args[0]), each.args[1]) for each in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each request's whole text in nats.

        Raises:
            ModelError: as `loglikelihood`.
        """
        model = self._language_model()
        found = rolling_likelihoods(model, [each.args[0] for each in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return found

    def _language_model(self) -> LanguageModel:
        base = self.guided.base
        if self.guided.search.candidates > 1 or isinstance(base, CompletionsModel):
            raise ModelError(
                "a guided model gives texts and no likelihoods: take tasks whose output_type is generate_until, or a "
                "search with one candidate over a model that runs here"
            )
        return base

    def _as_asked(self, asked: dict[str, Any]) -> GuidedModel:
        """The guided model with a task's settings."""
        search = self.guided.search
        wanted = dict(normalize_gen_kwargs(asked, search.max_new_tokens))
        until, length, samples = wanted.pop("until"), wanted.pop("max_gen_toks"), wanted.pop("do_sample")
        drawing = {name: wanted.pop(name) for name in DRAWING if name in wanted}
        if wanted:
            raise ConfigurationError(
                f"the search has no {', '.join(sorted(wanted))}: drop it from the task's generation_kwargs"
            )
        sampling = self.guided.sampling
        if samples or search.candidates == 1:
            sampling = SamplingConfig.model_validate({**sampling.model_dump(), **drawing})
        stop = tuple(dict.fromkeys([*self.guided.stop, *(each for each in until if each)]))
        return dataclasses.replace(
            self.guided, search=dataclasses.replace(search, max_new_tokens=length), sampling=sampling, stop=stop
        )


def _carried(conversation: Sequence[Message]) -> str:
    """A text from which `_conversation` reads the messages, in any process and after any restart."""
    text = json.dumps(conversation)
    return f"{CONVERSATION}{_digest(text)} {text}"


def _conversation(context: str) -> PromptInput:
    """The messages that a context carries, or the context itself."""
    if not context.startswith(CONVERSATION):
        return context
    digest, _, text = context.removeprefix(CONVERSATION).partition(" ")
    if digest != _digest(text):
        raise ConfigurationError(
            "a request's conversation has been cut or added to, so that no chat template fits it: drop what changes "
            "the prompts behind apply_chat_template"
        )
    conversation: PromptInput = json.loads(text)
    return conversation


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
