"""Decoders as settings of the one search: base, best-of-N, CBS and EFT.

Turns a decoder's configuration into a model, a search and a value, and a block of prompts into generations. Knows
nothing of files.

    >>> decoder = Decoder(guide.decoder("bon-16"), guide, 0, roles)                     # doctest: +SKIP
    >>> block = decoder.decode(prompts[:16])                                            # doctest: +SKIP
    >>> block.records[0].text                                                           # doctest: +SKIP
    ' liked this film from the first minute to the last'
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.search import ValueConfig
from trimtab.models.emulated import EmulatedModel, emulate
from trimtab.models.families import CausalModel
from trimtab.models.language_model import LanguageModel, sequence_log_probabilities
from trimtab.models.roles import Roles
from trimtab.models.served_model import Usage
from trimtab.plugins.user_functions import named_function
from trimtab.records import SET_ASIDE, Generation, Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.search.chunk_beam import Search
from trimtab.search.combined_value import PerToken, StepValue, WeightedValue
from trimtab.search.completions_proposer import CompletionsProposer
from trimtab.search.flops_budget import SearchShape, Workload, within_budget
from trimtab.search.hypothesis import Hypothesis, Step
from trimtab.search.proposer import LanguageModelProposer, Proposer
from trimtab.search.value import RewardValue, Value
from trimtab.search.values import ValueContext
from trimtab.store.blocks import Block

Observe = Callable[[Sequence[Prompt], Step], None]
"""Told of a block's prompts and of each step of its search."""
_TOO_LONG = Hypothesis(prompt=0, prompt_ids=[], token_ids=[], text="", finish="too_long", value=0.0)
_log = logging.getLogger(__name__)


def within_its_budget(
    config: DecoderConfig, max_new_tokens: int, roles: Roles, prompts: Sequence[Prompt]
) -> DecoderConfig:
    """The decoder with the search that its budget pays for at the mean length of these prompts; others as they are.

    What a gold reward or a function costs is not known before, and is not counted.

    Raises:
        ConfigurationError: the budget does not pay for two candidates.
    """
    if config.budget is None:
        return config
    model = emulated_model(config, roles)
    sizes = [part.size for part in models_of(model)]
    if config.guided_by_pair:
        sizes += [roles["tuned"].size, roles["untuned"].size]
    template = roles[config.model].template
    fitting = [prompt for prompt in prompts if model.too_long(prompt.text, max_new_tokens) is None] or prompts
    lengths = [len(model.vocabulary.encode_prompt(prompt.text, template)) for prompt in fitting]
    work = Workload(tuple(sizes), round(sum(lengths) / len(lengths)), max_new_tokens)
    given = {name: vars(config)[name] for name in ("width", "successors", "chunk") if name in config.model_fields_set}
    shape = within_budget(config.budget, work, SearchShape(**given))
    chosen = f"{shape.width} beams, {shape.successors} successors, chunks of {shape.chunk}"
    _log.info("%s: %s within %g FLOPs a prompt", config.name, chosen, config.budget)
    return config.model_copy(update=vars(shape))


def emulated_model(config: DecoderConfig, roles: Roles) -> LanguageModel:
    """The model that a decoder samples, with the terms of emulated fine-tuning that it asks for.

    Raises:
        VocabularyError: it adds logits of models with unlike vocabularies.
    """
    base = roles[config.model]
    if not config.terms:
        return base
    pairs = [
        (
            roles["tuned"] if term.tuned is None else roles.model(term.tuned),
            roles["untuned"] if term.untuned is None else roles.model(term.untuned),
            term.weight,
        )
        for term in config.terms
    ]
    return emulate(base, pairs)


def models_of(model: LanguageModel) -> list[CausalModel]:
    """The models that a language model of this run is a sum of, or itself."""
    if isinstance(model, EmulatedModel):
        return [each for part in model.models for each in models_of(part)]
    assert isinstance(model, CausalModel)
    return [model]


def decoder_value(config: DecoderConfig, model: LanguageModel | None, roles: Roles, gold: Reward | None) -> Value:
    """What judges the candidates that `model` writes: the one value, or the weighted mean of several.

    Raises:
        ConfigurationError: a value names a function that does not exist.
    """
    parts = []
    for part in config.value or (ValueConfig(),):
        value: Value
        if part.kind is None:
            value = RewardValue(FunctionReward(named_function(part.by), part.by))
        else:
            value = part.kind.function(ValueContext(part, model, roles, gold if part.uses_gold else None))
        value = value if part.steps is None else StepValue(value, part.steps)
        parts.append((PerToken(value) if part.per_token else value, part.weight))
    return parts[0][0] if len(parts) == 1 else WeightedValue(parts)


class Decoder:
    """One decoder of an experiment, ready to decode blocks of prompts.

    `gold` gives the gold reward to decoders that are guided by it, and `observe` is told of every step.

    Raises:
        VocabularyError: it adds logits of models with unlike vocabularies.
        ConfigurationError: a value names a function that is not there.
    """

    def __init__(
        self,
        config: DecoderConfig,
        guide: GuideConfig,
        seed: int,
        roles: Roles,
        gold: Callable[[], Reward] | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.roles = roles
        self.observe = observe
        self.served = roles.served if config.model == "large" else None
        self.model = emulated_model(config, roles) if self.served is None else None
        self.proposer: Proposer
        if self.served is not None:
            self.proposer = CompletionsProposer(self.served, guide.sampling, seed, stop=guide.stop)
        elif self.model is not None:
            self.proposer = LanguageModelProposer(
                self.model, guide.sampling, seed, stop=guide.stop, chunk_ends=config.chunk_ends
            )
        self.gold = gold() if config.guided_by_gold and gold is not None else None
        self.value = decoder_value(config, self.model, roles, self.gold) if config.guided else None
        # all samples of best-of-N are kept: another decoder may pick from them by the gold reward
        everything = config.width * config.successors if config.chunk is None else config.width
        self.likelihoods = config.n_best is not None
        self.search = Search(
            width=config.width,
            successors=config.successors,
            chunk=config.chunk,
            max_new_tokens=guide.max_new_tokens,
            keep=everything if config.n_best is None else config.n_best,
            duplicates=config.duplicates,
            groups=config.groups,
            pool=config.pool,
            reject=config.reject,
            vote=config.vote,
        )

    def check_some_fit(self, prompts: Sequence[Prompt]) -> None:
        """Raise ModelError where every prompt is too long, so that nothing is left to decode."""
        self.search.check_some_fit(prompts, self.proposer, self.value)

    def decode(self, prompts: Sequence[Prompt]) -> Block:
        """The generations of a block, each prompt's in the order of their values, and what they cost."""
        before, used = 0.0 if self.gold is None else self.gold.flops, self._usage()
        block = decode_block(prompts, self.search, self.proposer, self.value, self.roles, self.observe)
        if self.gold is not None and self.gold.flops > before:
            block = replace(block, flops={**block.flops, "reward": self.gold.flops - before})
        if self.served is not None:
            block = replace(block, usage=asdict(self._usage() - used))
        return replace(block, records=self._with_likelihoods(block.records)) if self.likelihoods else block

    def _usage(self) -> Usage:
        return Usage() if self.served is None else self.served.usage

    def _with_likelihoods(self, records: Sequence[Generation]) -> list[Generation]:
        """The records with their log-probabilities; not counted as a cost of the search, which does not need them."""
        assert self.model is not None, "a configuration of a served model has no n_best"
        answered = [each for each in records if each.finish not in SET_ASIDE]
        logs = sequence_log_probabilities(
            self.model, [each.prompt for each in answered], [each.token_ids for each in answered]
        )
        found = dict(zip(map(id, answered), logs, strict=True))
        return [replace(each, log_probability=found.get(id(each))) for each in records]


def decode_block(
    prompts: Sequence[Prompt],
    search: Search,
    proposer: Proposer,
    value: Value | None,
    roles: Roles,
    observe: Observe | None = None,
) -> Block:
    """Search all prompts together; FLOPs are those that the models of `roles` spent on it.

    A prompt that is set aside is named in a warning, and has one generation, which says why.
    `observe` is told of the prompts that are searched, without those that are too long, and of each step.
    """
    started, before = time.monotonic(), roles.flops()
    reasons = [search.too_long(prompt, proposer, value) for prompt in prompts]
    fitting = [prompt for prompt, reason in zip(prompts, reasons, strict=True) if reason is None]
    told = None if observe is None else functools.partial(observe, fitting)
    found = iter(search.run(fitting, proposer, value, told) if fitting else [])
    records = []
    for prompt, reason in zip(prompts, reasons, strict=True):
        hypotheses = next(found) if reason is None else [_TOO_LONG]
        records += [
            _generation(prompt, index, each, valued=value is not None, ids=proposer.tokens)
            for index, each in enumerate(hypotheses)
        ]
        if records[-1].finish in SET_ASIDE:
            _log.warning("prompt %s is set aside: %s", prompt.id, reason or SET_ASIDE[records[-1].finish])
    flops = {role: spent - before.get(role, 0.0) for role, spent in roles.flops().items()}
    return Block(records, {role: spent for role, spent in flops.items() if spent}, time.monotonic() - started)


def _generation(prompt: Prompt, index: int, hypothesis: Hypothesis, *, valued: bool, ids: bool) -> Generation:
    assert hypothesis.finish is not None
    return Generation(
        prompt_id=prompt.id,
        prompt=prompt.text,
        index=index,
        prompt_ids=hypothesis.prompt_ids,
        token_ids=hypothesis.token_ids if ids else [],
        text=hypothesis.text,
        finish=hypothesis.finish,
        value=hypothesis.value if valued and hypothesis.finish not in SET_ASIDE else None,
        tokens=None if ids else len(hypothesis.token_ids),
    )
