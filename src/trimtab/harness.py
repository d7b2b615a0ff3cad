"""A guided model for the generation tasks of lm-evaluation-harness (the extra `lm-eval`).

Knows nothing of tasks.

    >>> import lm_eval                                                                  # doctest: +SKIP
    >>> lm_eval.simple_evaluate(HarnessModel(guided), tasks=["gsm8k"])                  # doctest: +SKIP
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from trimtab.errors import ConfigurationError, ModelError
from trimtab.experiment import SamplingConfig
from trimtab.records import Message, PromptInput
from trimtab.search.guided_model import GuidedModel

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
except ModuleNotFoundError:
    raise ConfigurationError('lm-evaluation-harness is not installed: pip install "trimtab[lm-eval]"') from None

DRAWING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class HarnessModel(LM):
    """Answers `generate_until` requests; tasks that ask for likelihoods are refused.

    A task's `until`, `max_gen_toks` and, where it samples, its temperature and filters hold. A task that wants the
    greedy answer gets it from a search with one candidate; where there are several, which greedy decoding would make
    equal, they are drawn as the guided model's own `sampling` says.

    Args:
        guided: what `Guide.steer` made.
    """

    def __init__(self, guided: GuidedModel) -> None:
        super().__init__()
        self.guided = guided
        self._conversations: dict[str, list[Message]] = {}

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its caches apart by."""
        return self.guided.base.name

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """A text that stands for the conversation: guide and base each render it in their own template."""
        if not add_generation_prompt:
            raise ConfigurationError(
                "a task with gen_prefix begins the answer itself, which chat templates do not allow"
            )
        text = json.dumps(chat_history, ensure_ascii=False)
        self._conversations[text] = chat_history
        return text

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
            prompts: list[PromptInput] = [self._prompt(requests[place].args[0]) for place in places]
            for place, text in zip(places, guided.generate(prompts, progress=not disable_tqdm), strict=True):
                texts[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: a guided model chooses texts, and has no probability of one of its own."""
        raise ModelError(
            "a guided model gives texts and no likelihoods: take tasks whose output_type is generate_until"
        )

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse, as `loglikelihood` does."""
        self.loglikelihood(requests)

    def _prompt(self, context: str) -> PromptInput:
        return self._conversations.get(context, context)

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
