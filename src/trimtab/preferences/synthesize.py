"""Samples of the untuned small model, scored by the gold reward: what pairs are made of.

Sampling is best-of-N search without a value, of which all N are kept.
"""

import dataclasses
import math
from collections.abc import Sequence

from trimtab.config.pairs import SynthesizeConfig
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import Roles
from trimtab.records import SET_ASIDE, Prompt
from trimtab.rewards.reward import Reward
from trimtab.rewards.reward_values import warn_if_none_is_scored
from trimtab.search.chunk_beam import Search
from trimtab.search.decoders import BlockDecoder
from trimtab.search.proposer import LanguageModelProposer
from trimtab.store.blocks import Block


def synthesis_prompts(config: SynthesizeConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts to sample from; `unprompted`: as many empty ones with the same ids."""
    return [dataclasses.replace(prompt, text="") for prompt in prompts] if config.unprompted else list(prompts)


def check_some_fit(prompts: Sequence[Prompt], config: SynthesizeConfig, model: LanguageModel) -> None:
    """Raise ModelError where every prompt is too long, so that nothing is left to sample from."""
    _search(config).check_some_fit(prompts, LanguageModelProposer(model, config.sampling, 0), None)


def sampler(config: SynthesizeConfig, roles: Roles, seed: int) -> BlockDecoder:
    """Samples `config.samples` generations for each prompt, in the order of their slots."""
    proposer = LanguageModelProposer(roles["untuned"], config.sampling, seed)
    return BlockDecoder(_search(config), proposer, None, roles)


def scored(block: Block, config: SynthesizeConfig, reward: Reward) -> Block:
    """The generations with their rewards, whose FLOPs are counted.

    Unprompted samples all answer one prompt, whose id is `unprompted`. A prompt that was set aside has the reward NaN.
    """
    before = reward.flops
    rewards = reward.score([record.prompt for record in block.records], [record.text for record in block.records])
    answered = [index for index, record in enumerate(block.records) if record.finish not in SET_ASIDE]
    texts = [block.records[index].text for index in answered]
    warn_if_none_is_scored(reward, texts, [rewards[index] for index in answered])
    records = [
        dataclasses.replace(
            record,
            reward=math.nan if record.finish in SET_ASIDE else value,
            prompt_id="unprompted" if config.unprompted else record.prompt_id,
        )
        for record, value in zip(block.records, rewards, strict=True)
    ]
    return dataclasses.replace(block, records=records, flops={**block.flops, "reward": reward.flops - before})


def _search(config: SynthesizeConfig) -> Search:
    return Search(successors=config.samples, max_new_tokens=config.max_new_tokens, keep=config.samples)
