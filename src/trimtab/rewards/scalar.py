"""Reward models with a scalar head: any sequence classifier of one label, and published models with their own heads."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.fields import CHAT
from trimtab.config.reward import RewardConfig
from trimtab.errors import ModelError
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.chat import ChatTemplate
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load import SAFE_LOADING, load_classifier, quiet_libraries, reading_checkpoint
from trimtab.models.tokenizer import load_tokenizer
from trimtab.records import Message, PromptInput
from trimtab.rewards.conversations import conversation, template_text
from trimtab.rewards.model_reward import Encode, ModelReward, ValueHead, non_embedding_parameters
from trimtab.rewards.reward import judged_text
from trimtab.rewards.sequence_logits import positions_of, reading
from trimtab.rewards.token_rows import TokenRows


def load_scalar_reward(config: RewardConfig, assets: Assets) -> ModelReward:
    """The reward of a sequence classifier of one label.

    Raises:
        AssetError, ModelError: the model cannot be found or has not exactly one label.
    """
    model, tokenizer = load_classifier(config.model, assets, allow_pickle=config.allow_pickle, dtype=config.dtype)
    if model.config.num_labels != 1:
        raise ModelError(
            f"the reward model {config.model} has {model.config.num_labels} labels and definition scalar needs 1: give "
            "a model with a scalar head, or set reward.definition to margin"
        )
    tokenizer = tokenizer if config.tokenizer is None else load_tokenizer(assets.tokenizer(config.tokenizer))
    limit, logits = reading(model, tokenizer, min(config.max_length, positions_of(model)))
    return ModelReward(
        lambda rows: logits(rows)[:, 0],
        _encoder(config.template, tokenizer),
        limit,
        parameters=non_embedding_parameters(model),
        batch_size=config.batch_size,
    )


def _encoder(template: str | None, tokenizer: PreTrainedTokenizerBase) -> Encode:
    """By `template`; without one by the tokenizer's own; else the prompt directly followed by the response."""
    if template == CHAT or (template is None and tokenizer.chat_template is not None):
        chat = ChatTemplate(tokenizer)
        return lambda prompts, responses: [
            chat.conversation_ids(answered(chat, *pair)) for pair in zip(prompts, responses, strict=True)
        ]
    if template is not None:
        return _plain(tokenizer, lambda prompt, response: template_text(template, prompt, response))
    return _plain(tokenizer, judged_text)


def answered(chat: ChatTemplate, prompt: PromptInput, response: str) -> list[Message]:
    """The conversation, without what the template itself writes before an answer, which a response may begin with."""
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return conversation(prompt, chat.turn(turns).words(response))


def _plain(tokenizer: PreTrainedTokenizerBase, text: Callable[[PromptInput, str], str]) -> Encode:
    return lambda prompts, responses: tokenizer(list(map(text, prompts, responses)))["input_ids"]


@quiet_libraries()
def load_published_reward(
    config: RewardConfig, assets: Assets, head_name: str, body_prefix: str, text: Callable[[PromptInput, str], str]
) -> ModelReward:
    """The reward of a published model: a Llama body, whose weights' names begin with `body_prefix`, and a linear head.

    Args:
        head_name: name of the head's weight.
        text: the prompt and the response as the model was trained to read them.

    Raises:
        AssetError, ModelError: the model cannot be found, or its folder holds no such model.
    """
    folder = assets.model(config.model, allow_pickle=config.allow_pickle)
    tokenizer = load_tokenizer(folder if config.tokenizer is None else assets.tokenizer(config.tokenizer))
    keep_freed_memory()
    device = default_device()
    kind = f"{config.definition} reward model"
    with reading_checkpoint(folder, kind):
        body, info = AutoModel.from_pretrained(
            folder,
            key_mapping={f"^{body_prefix}": ""},
            dtype=pick_dtype(config.dtype, device),
            use_safetensors=None if config.allow_pickle else True,
            output_loading_info=True,
            **SAFE_LOADING,
        )
        weight = _weight(folder, head_name)
    if weight is None or info["missing_keys"]:
        lacking = head_name if weight is None else min(info["missing_keys"])
        raise ModelError(f"{folder} holds no {kind}, its weights lack {lacking}: name one")
    max_length = min(config.max_length, positions_of(body))
    return ModelReward(
        ValueHead(body.to(device).eval(), weight),
        _plain(tokenizer, text),
        TokenRows(tokenizer, max_length=max_length, vocabulary=body.get_input_embeddings().weight.shape[0]),
        parameters=non_embedding_parameters(body) + weight.numel(),
        batch_size=config.batch_size,
    )


def _weight(folder: Path, name: str) -> torch.Tensor | None:
    """The tensor of this name in the folder's weights, read alone; None where there is none."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 (no mapping)
                return torch.as_tensor(tensors.get_tensor(name))
    for file in sorted(folder.glob("*.bin")):
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if name in tensors:
            return torch.as_tensor(tensors[name])
    return None
