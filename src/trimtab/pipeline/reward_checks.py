"""Checks of a reward that is not loaded yet: its function or service, or its model's files, labels and texts."""

from collections.abc import Callable

from trimtab.assets.resolve import Assets
from trimtab.config.fields import CHAT
from trimtab.config.reward import RewardConfig
from trimtab.errors import ModelError
from trimtab.models.chat import ChatTemplate
from trimtab.models.context import context_in
from trimtab.models.outline import check_weights, read_config
from trimtab.models.tokenizer import load_tokenizer
from trimtab.pipeline.known_prompts import KnownPrompts
from trimtab.records import PromptInput
from trimtab.rewards.conversations import starling_text, ultrarm_text
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.labels import check_default_label, positive_index
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import judged_text

_WRITERS = ("ForCausalLM", "LMHeadModel")  # ends of the names of classes that write texts
READ_PROMPTS = 256
"""Prompts that are put into the text that the reward reads."""
_TEXTS: dict[str, Callable[[PromptInput, str], str]] = {
    "margin": judged_text,
    "positive_logit": judged_text,
    "ultrarm": ultrarm_text,
    "starling": starling_text,
}


def check_reward(config: RewardConfig, assets: Assets, prompts: KnownPrompts | None) -> None:
    """Check the gold reward of a run.

    Raises:
        AssetError: its model or tokenizer cannot be found or trusted.
        ModelError: the model is cut off, has other labels, or reads fewer tokens.
        DataError: it reads plain texts, and a prompt has tool calls.
        ConfigurationError: its function is not there or takes other arguments, or the key of its service is not set.
    """
    if config.function is not None:
        check_function(config.function, prompts)
    elif config.address is not None:
        load_reward(config, assets, None)  # opens no connection
    elif "model" in config.entry.reads:
        _check_model(config, assets)
        if config.definition in _TEXTS:
            _check_texts(_TEXTS[config.definition], prompts)


def check_function(name: str | None, prompts: KnownPrompts | None) -> None:
    """Import a function of texts, count its arguments, and see that prompts can be shown to it."""
    if name is not None and not FunctionReward(name).reads_prompts:
        _check_texts(judged_text, prompts)


def _check_texts(text: Callable[[PromptInput, str], str], prompts: KnownPrompts | None) -> None:
    for prompt in () if prompts is None else (*prompts.tuning[:READ_PROMPTS], *prompts.test[:READ_PROMPTS]):
        text(prompt, "")


def _check_model(config: RewardConfig, assets: Assets) -> None:
    folder = assets.model(config.model, allow_pickle=config.allow_pickle)
    values = read_config(folder, "encoder" if config.training is not None else f"{config.definition} reward model")
    check_weights(folder)
    tokenizer = load_tokenizer(folder if config.tokenizer is None else assets.tokenizer(config.tokenizer))
    if config.definition in ("margin", "positive_logit") and config.training is None:
        writer = next((name for name in values.architectures or () if name.endswith(_WRITERS)), None)
        if writer is not None:
            raise ModelError(
                f"{folder} holds no ready classifier but a {writer}: name a fine-tuned one, or train one with "
                "reward.training"
            )
        if "positive_label" not in config.model_fields_set:
            check_default_label(values, config.model)
        positive_index(values, config.positive_label, config.definition)
    if config.definition == "scalar":
        if values.num_labels != 1:
            raise ModelError(
                f"the reward model {config.model} has {values.num_labels} labels and definition scalar needs 1: give "
                "a model with a scalar head, or set reward.definition to margin"
            )
        if config.template == CHAT:
            ChatTemplate(tokenizer)
    positions, is_set = context_in(values), "max_length" in config.model_fields_set
    if config.definition in ("margin", "positive_logit") and is_set and config.max_length > positions:
        raise ModelError(
            f"max_length {config.max_length} is more than the {positions} positions of the reward model: set reward."
            f"max_length to {positions} or less"
        )
