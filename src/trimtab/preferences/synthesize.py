"""Samples of the untuned small model, scored by the gold reward: what pairs are made of.

Sampling is the search's: best-of-N without a value, all N kept. Knows nothing of pairs or files.

    >>> prompts = synthesis_prompts(config, tuning, validation)                         # doctest: +SKIP
    >>> block = synthesize(prompts[:32], config, roles, reward, seed=0)                 # doctest: +SKIP
    >>> block.records[0].reward                                                         # doctest: +SKIP
    -1.73
"""

import dataclasses
import math
from collections.abc import Sequence

from trimtab.config.pairs import SynthesizeConfig
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import Roles
from trimtab.records import SET_ASIDE, Prompt
from trimtab.rewards.reward import Reward
from trimtab.search.chunk_beam import Search
from trimtab.search.decoders import BlockDecoder
from trimtab.search.proposer import LanguageModelProposer
from trimtab.store.blocks import Block


def synthesis_prompts(config: SynthesizeConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts to sample from; unprompted, as many empty ones under the same ids."""
    return [dataclasses.replace(prompt, text="") for prompt in prompts] if config.unprompted else list(prompts)


def check_some_fit(prompts: Sequence[Prompt], config: SynthesizeConfig, model: LanguageModel) -> None:
    """Raise ModelError where every prompt is too long, so that nothing is left to sample from."""
    _search(config).check_some_fit(prompts, LanguageModelProposer(model, config.sampling, 0), None)


def synthesize(prompts: Sequence[Prompt], config: SynthesizeConfig, roles: Roles, reward: Reward, seed: int) -> Block:
    """`config.samples` generations a prompt, in the order of their slots, each with its reward.

    The reward reads the prompt and the response together. FLOPs cover the small model and the reward. Unprompted
    samples all answer one prompt, whose id is `unprompted`. The reward of a prompt that was set aside is NaN.
    """
    proposer = LanguageModelProposer(roles["untuned"], config.sampling, seed)
    before = reward.flops
    block = BlockDecoder(_search(config), proposer, None, roles).decode(prompts)
    rewards = reward.score([each.prompt for each in block.records], [each.text for each in block.records])
    records = [
        dataclasses.replace(each, reward=math.nan if each.finish in SET_ASIDE else worth)
        for each, worth in zip(block.records, rewards, strict=True)
    ]
    if config.unprompted:
        records = [dataclasses.replace(each, prompt_id="unprompted") for each in records]
    return dataclasses.replace(block, records=records, flops={**block.flops, "reward": reward.flops - before})


def _search(config: SynthesizeConfig) -> Search:
    return Search(successors=config.samples, max_new_tokens=config.max_new_tokens, keep=config.samples)
