"""Decoders as settings of the one search: a decoder's configuration becomes a model, a search and a value."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.search import ValueConfig
from trimtab.models.emulated import EmulatedModel, emulate
from trimtab.models.families import CausalModel
from trimtab.models.language_model import LanguageModel, sequence_log_probabilities
from trimtab.models.roles import Roles
from trimtab.models.served_model import CompletionsModel, Usage
from trimtab.records import SET_ASIDE, Generation, Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import proposer_of
from trimtab.search.flops_budget import Workload, within_budget
from trimtab.search.hypothesis import Hypothesis, Step
from trimtab.search.proposer import Proposer
from trimtab.search.value import PerToken, RewardValue, StepValue, Value, WeightedValue
from trimtab.search.values import ValueContext
from trimtab.store.blocks import Block, Within, ignored

Observe = Callable[[Sequence[Prompt], Step], None]
"""Called with a block's prompts and with each step of its search."""
_SEARCH_SETTINGS = DecoderConfig.model_fields.keys() & {field.name for field in fields(Search)}
_log = logging.getLogger(__name__)


def within_its_budget(
    config: DecoderConfig, max_new_tokens: int, roles: Roles, prompts: Sequence[Prompt]
) -> DecoderConfig:
    """A decoder with a FLOPs budget gets the largest search that the budget pays for; others are returned unchanged.

    The cost of a search is estimated at the mean length of these prompts. The cost of a gold reward or a function is
    not known in advance, and is not counted.

    Raises:
        ConfigurationError: the budget does not pay for two candidates.
    """
    if config.budget is None:
        return config
    model = emulated_model(config, roles)
    readers = _models_in(model) + ([roles["tuned"], roles["untuned"]] if config.guided_by_pair else [])
    fitting = [prompt for prompt in prompts if model.too_long(prompt.text, max_new_tokens) is None] or prompts
    template = roles[config.model].template
    length = statistics.fmean(len(model.vocabulary.encode_prompt(prompt.text, template)) for prompt in fitting)
    work = Workload(tuple(reader.size for reader in readers), round(length), max_new_tokens)
    shape = ("width", "successors", "chunk")
    fixed = {name: vars(config)[name] for name in shape if name in config.model_fields_set}
    width, successors, chunk = within_budget(config.budget, work, **fixed)
    text = f"{width} beams, {successors} successors, chunks of {chunk}"
    _log.info("%s: %s within %g FLOPs a prompt", config.name, text, config.budget)
    return config.model_copy(update={"width": width, "successors": successors, "chunk": chunk})


def emulated_model(config: DecoderConfig, roles: Roles) -> LanguageModel:
    """The model that a decoder samples: the one of its role, with its terms of emulated fine-tuning added.

    Raises:
        VocabularyError: models whose logits are added have different vocabularies.
    """
    base = roles[config.model]
    if not config.terms:
        return base
    pairs = []
    for term in config.terms:
        tuned = roles["tuned"] if term.tuned is None else roles.model(term.tuned)
        untuned = roles["untuned"] if term.untuned is None else roles.model(term.untuned)
        pairs.append((tuned, untuned, term.weight))
    return emulate(base, pairs)


def _models_in(model: LanguageModel) -> list[CausalModel]:
    """The models that are read for a token of `model`: those whose logits it adds, or itself."""
    if isinstance(model, EmulatedModel):
        return [part for term in model.models for part in _models_in(term)]
    assert isinstance(model, CausalModel)
    return [model]


def search_settings(config: DecoderConfig) -> dict[str, Any]:
    """The settings that a decoder's configuration and `Search` have in common."""
    return {name: vars(config)[name] for name in _SEARCH_SETTINGS}


def decoder_value(config: DecoderConfig, model: LanguageModel | None, roles: Roles, gold: Reward | None) -> Value:
    """The value that ranks candidates of a decoder: the one of its configuration, or the weighted mean of several.

    `model` is the model that writes the candidates, `gold` the gold reward where that guides.

    Raises:
        ConfigurationError: a value names a function that does not exist.
    """
    parts = []
    for part in config.value or (ValueConfig(),):
        value: Value
        if part.kind is None:
            value = RewardValue(FunctionReward(part.by))
        else:
            value = part.kind.function(ValueContext(part, model, roles, gold if part.uses_gold else None))
        value = value if part.steps is None else StepValue(value, part.steps)
        parts.append((PerToken(value) if part.per_token else value, part.weight))
    return parts[0][0] if len(parts) == 1 else WeightedValue(parts)


@dataclass
class BlockDecoder:
    """Decodes blocks of prompts by one search, and counts what the search costs.

    Args:
        proposer: continues hypotheses.
        value: ranks candidates; None where none are compared.
        roles: the models whose FLOPs are counted.
        gold: the gold reward where it guides; its FLOPs are counted, too.
        served: the model behind an endpoint, if it is one; its requests and tokens are counted.
        likelihoods: the model that gives each response its log-probability; None: responses have none.
        observe: called with the prompts that are searched (without those that are too long) and with each step.
    """

    search: Search
    proposer: Proposer
    value: Value | None
    roles: Roles
    gold: Reward | None = None
    served: CompletionsModel | None = None
    likelihoods: LanguageModel | None = None
    observe: Observe | None = None

    def check_some_fit(self, prompts: Sequence[Prompt]) -> None:
        """Raise ModelError where every prompt is too long, so that nothing is left to decode."""
        self.search.check_some_fit(prompts, self.proposer, self.value)

    def decode(self, prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
        """The generations for a block of prompts, best value first, with the FLOPs, seconds and requests they took.

        A prompt without an answer (it is too long, or has no finite logits or values) gets one generation whose
        `finish` says why, and a warning.
        """
        started, flops_before, usage_before = time.monotonic(), self._flops(), self._usage()
        too_long = [self.search.too_long(prompt, self.proposer, self.value) for prompt in prompts]  # reason, or None
        fitting = [prompt for prompt, reason in zip(prompts, too_long, strict=True) if reason is None]
        answers: list[list[Hypothesis]] = []
        self.proposer.reached = _rising(within)
        if fitting:
            for step in self.search.steps(fitting, self.proposer, self.value):
                if self.observe is not None:
                    self.observe(fitting, step)
            answers = self.search.answers(step)
        flops = {name: spent - flops_before.get(name, 0.0) for name, spent in self._flops().items()}
        flops, seconds = {name: spent for name, spent in flops.items() if spent}, time.monotonic() - started
        if self.likelihoods is not None:  # after the cost is measured: the search does not need them
            answers = with_log_probabilities(self.likelihoods, answers)
        records, remaining = [], iter(answers)
        for prompt, reason in zip(prompts, too_long, strict=True):
            hypotheses = [Hypothesis(prompt, [], [], "", "too_long")] if reason else next(remaining)
            records += [self._generation(index, hypothesis) for index, hypothesis in enumerate(hypotheses)]
            finish = hypotheses[-1].finish
            if finish in SET_ASIDE:
                _log.warning("prompt %s is set aside: %s", prompt.id, reason or SET_ASIDE[finish])
        return Block(records, flops, seconds, {} if self.served is None else asdict(self._usage() - usage_before))

    def _flops(self) -> dict[str, float]:
        return self.roles.flops() | ({} if self.gold is None else {"reward": self.gold.flops})

    def _usage(self) -> Usage:
        return Usage() if self.served is None else self.served.usage

    def _generation(self, index: int, hypothesis: Hypothesis) -> Generation:
        assert hypothesis.finish is not None
        valued, shows_ids = self.value is not None and hypothesis.finish not in SET_ASIDE, self.proposer.tokens
        return Generation(
            prompt_id=hypothesis.prompt.id,
            prompt=hypothesis.prompt.text,
            index=index,
            prompt_ids=hypothesis.prompt_ids,
            token_ids=hypothesis.token_ids if shows_ids else [],
            text=hypothesis.text,
            finish=hypothesis.finish,
            value=hypothesis.value if valued else None,
            log_probability=hypothesis.log_probability,
            tokens=None if shows_ids else len(hypothesis.token_ids),
        )


class Decoder(BlockDecoder):
    """One decoder of a run, ready to decode blocks of prompts.

    `gold` loads the gold reward, and is called only where that guides. `observe` is called with every step.

    Raises:
        VocabularyError: models whose logits are added have different vocabularies.
        ConfigurationError: a value names a function that does not exist.
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
        served = roles.served if config.model == "large" else None
        base = emulated_model(config, roles) if served is None else served
        model = None if isinstance(base, CompletionsModel) else base
        reward = gold() if config.guided_by_gold and gold is not None else None
        # all samples of best-of-N are kept: another decoder may pick from them by the gold reward
        all_candidates = config.width * config.successors if config.chunk is None else config.width
        super().__init__(
            Search(
                **search_settings(config),
                max_new_tokens=guide.max_new_tokens,
                keep=all_candidates if config.n_best is None else config.n_best,
            ),
            proposer_of(base, guide.sampling, seed, guide.stop, config.chunk_ends),
            decoder_value(config, model, roles, reward) if config.guided else None,
            roles,
            gold=reward,
            served=served,
            likelihoods=None if config.n_best is None else model,
            observe=observe,
        )


def _rising(within: Within) -> Within:
    """Passes shares on that never fall: of beams that end their chunks early, the shortest one is behind the others."""
    highest = 0.0

    def reached(share: float) -> None:
        nonlocal highest
        highest = max(highest, share)
        within(highest)

    return reached


def with_log_probabilities(model: LanguageModel, answers: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
    """The hypotheses with their log-probabilities under `model`; those of prompts without an answer have none."""
    answered = [hypothesis for group in answers for hypothesis in group if hypothesis.finish not in SET_ASIDE]
    logs = sequence_log_probabilities(model, [one.prompt.text for one in answered], [one.token_ids for one in answered])
    log_of = dict(zip(map(id, answered), logs, strict=True))
    return [[replace(one, log_probability=log_of.get(id(one))) for one in group] for group in answers]
