"""What steps cost in FLOPs: estimates from the sizes of models and the configured numbers, before anything is loaded.

A forward pass takes 2 FLOPs a weight and token (Kaplan et al. 2020, arXiv 2001.08361), a backward pass twice as many;
with LoRA no gradients of frozen weights are computed, which saves half of the latter.
"""

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.config.training import TrainingConfig
from trimtab.models.sizes import ModelSize, Sizes, model_sizes
from trimtab.pipeline.memory import prompt_tokens
from trimtab.search.flops_budget import Workload, search_flops

TOKENS_A_WORD = 1.4  # of English text, about


def of_reward(experiment: Experiment, assets: Assets) -> float:
    """Training of the gold reward's classifier on snippets of reviews."""
    training = experiment.reward.training
    assert training is not None
    snippets = experiment.data.reward_reviews * training.epochs
    return 6 * _reward_weights(experiment, assets) * snippets * TOKENS_A_WORD * training.snippet_words[1]


def of_sft(experiment: Experiment, assets: Assets) -> float:
    """Training of the small model on reviews."""
    assert experiment.sft is not None
    tokens = experiment.data.sft_reviews * experiment.sft.epochs * experiment.sft.max_length
    return _training(experiment.sft, model_sizes(experiment.small, assets), tokens)


def of_synthesis(experiment: Experiment, split: str, assets: Assets) -> float:
    """Samples of the untuned model, and their rewards."""
    config, data = experiment.synthesize, experiment.data
    prompts = data.tuning_prompts if split == "tuning" else data.validation_prompts
    work = Workload((_size(experiment.small, assets),), prompt_tokens(experiment), config.max_new_tokens)
    return prompts * (search_flops(work, 1, config.samples, None) + config.samples * _scored(experiment, assets))


def of_tuning(experiment: Experiment, assets: Assets) -> float:
    """Tuning on pairs, with the reference's pass over them."""
    small, config = model_sizes(experiment.small, assets), experiment.tune
    pairs = experiment.pairs.total or experiment.data.tuning_prompts * experiment.pairs.per_prompt
    tokens = 2 * pairs * (prompt_tokens(experiment) + experiment.synthesize.max_new_tokens)
    return 2 * small.weights * tokens + _training(config, small, tokens * config.epochs)


def of_decoding(experiment: Experiment, decoder: DecoderConfig, assets: Assets) -> float:
    """The search of a decoder on all test prompts; with a budget, the budget."""
    guide, prompts = experiment.guide, _test_prompts(experiment)
    if decoder.budget is not None:
        return prompts * decoder.budget
    small, base = _size(experiment.small, assets), experiment.large if decoder.model == "large" else experiment.small
    assert base is not None
    pairs = decoder.guided_by_pair + len(decoder.terms)
    work = Workload((_size(base, assets), *[small] * 2 * pairs), prompt_tokens(experiment), guide.max_new_tokens)
    return prompts * search_flops(work, decoder.width, decoder.successors, decoder.chunk)


def of_scoring(experiment: Experiment, assets: Assets) -> float:
    """Reward and fluency of one answer to each test prompt."""
    base = _size(experiment.base, assets)
    tokens = prompt_tokens(experiment) + experiment.guide.max_new_tokens
    return _test_prompts(experiment) * (2 * (base.body + base.head) * tokens + _scored(experiment, assets))


def _test_prompts(experiment: Experiment) -> int:
    return experiment.guide.unprompted or experiment.data.test_prompts


def _size(model: ModelConfig, assets: Assets) -> ModelSize:
    sizes = model_sizes(model, assets)
    return ModelSize(body=sizes.weights - sizes.tables, head=sizes.vocabulary * sizes.width)


def _training(config: TrainingConfig, small: Sizes, tokens: float) -> float:
    return (6 if config.lora is None else 4) * small.weights * tokens


def _scored(experiment: Experiment, assets: Assets) -> float:
    """The reward of one response; nothing for a function or a service, whose cost is not known."""
    tokens = prompt_tokens(experiment) + experiment.guide.max_new_tokens
    return 2 * _reward_weights(experiment, assets) * tokens


def _reward_weights(experiment: Experiment, assets: Assets) -> int:
    """Weights of the gold reward's model without its embeddings."""
    reward = experiment.reward
    if reward.by is not None:
        return 0
    sizes = model_sizes(ModelConfig(name=reward.model, allow_pickle=reward.allow_pickle), assets)
    return sizes.weights - sizes.tables
