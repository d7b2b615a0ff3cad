"""Decoders as settings of the one search: base, best-of-N, CBS and EFT.

Turns a decoder's configuration into a model, a search and a value, and a block of prompts into generations. Knows
nothing of files.

    >>> decoder = Decoder(experiment, experiment.guide.decoder("bon-16"), roles)        # doctest: +SKIP
    >>> block = decoder.decode(prompts[:16])                                            # doctest: +SKIP
    >>> block.records[0].text                                                           # doctest: +SKIP
    ' liked this film from the first minute to the last'
"""

import logging
import time
from collections.abc import Sequence

from trimtab.blocks import Block
from trimtab.experiment import DecoderConfig, Experiment
from trimtab.models.emulated import emulate
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import Roles
from trimtab.records import Generation, Prompt
from trimtab.search.chunk_beam import Hypothesis, Search
from trimtab.search.proposer import LanguageModelProposer, Proposer
from trimtab.search.value import ImplicitValue, Value

_log = logging.getLogger(__name__)


class Decoder:
    """One decoder of an experiment, ready to decode blocks of prompts.

    Raises:
        VocabularyError: it adds logits of models with unlike vocabularies.
    """

    def __init__(self, experiment: Experiment, config: DecoderConfig, roles: Roles) -> None:
        guide = experiment.guide
        self.roles = roles
        self.model = self._model(config)
        self.proposer = LanguageModelProposer(self.model, guide.sampling, experiment.seed, stop=guide.stop)
        self.value = self._value() if config.guided else None
        self.search = Search(
            width=config.width,
            successors=config.successors,
            chunk=config.chunk,
            max_new_tokens=guide.max_new_tokens,
            # all samples of best-of-N are kept: another decoder may pick from them by the gold reward
            keep=config.width * config.successors if config.chunk is None else config.width,
        )

    def decode(self, prompts: Sequence[Prompt]) -> Block:
        """The generations of a block, each prompt's in the order of their values, and what they cost."""
        return decode_block(prompts, self.search, self.proposer, self.value, self.roles)

    def _model(self, config: DecoderConfig) -> LanguageModel:
        base = self.roles[config.model]
        if config.beta is None:
            return base
        return emulate(base, [(self.roles["tuned"], self.roles["untuned"], config.beta)])

    def _value(self) -> Value:
        return ImplicitValue(self.roles["tuned"], self.roles["untuned"], self.model)


def decode_block(
    prompts: Sequence[Prompt], search: Search, proposer: Proposer, value: Value | None, roles: Roles
) -> Block:
    """Search all prompts together; FLOPs are those that the models of `roles` spent on it.

    A prompt that is set aside is named in a warning, and has one generation, which says `failed`.
    """
    started, before = time.monotonic(), roles.flops()
    records = [
        _generation(prompts[hypothesis.prompt], index, hypothesis, valued=value is not None)
        for hypotheses in search.run(prompts, proposer, value)
        for index, hypothesis in enumerate(hypotheses)
    ]
    for each in records:
        if each.finish == "failed":
            _log.warning("prompt %s is set aside: a model's logits for it are not finite numbers", each.prompt_id)
    flops = {role: spent - before.get(role, 0.0) for role, spent in roles.flops().items()}
    return Block(records, {role: spent for role, spent in flops.items() if spent}, time.monotonic() - started)


def _generation(prompt: Prompt, index: int, hypothesis: Hypothesis, *, valued: bool) -> Generation:
    assert hypothesis.finish is not None
    return Generation(
        prompt_id=prompt.id,
        prompt=prompt.text,
        index=index,
        prompt_ids=hypothesis.prompt_ids,
        token_ids=hypothesis.token_ids,
        text=hypothesis.text,
        finish=hypothesis.finish,
        value=hypothesis.value if valued and hypothesis.finish != "failed" else None,
    )
