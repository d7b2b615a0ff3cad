"""The gold reward that a configuration names, ready to score.

>>> load_reward(RewardConfig(by="rewards.py:brief"), Assets(), None)                # doctest: +SKIP
<trimtab.rewards.function.FunctionReward object at ...>
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.fields import CHAT
from trimtab.config.reward import CLASSIFIED, RewardConfig
from trimtab.errors import ModelError, one_line
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.chat import ChatTemplate
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.http_client import Endpoint
from trimtab.models.load import load_classifier, load_tokenizer, quiet_libraries
from trimtab.plugins.user_functions import named_function
from trimtab.records import Message, PromptInput
from trimtab.rewards.classifier import (
    load_classifier_reward,
    non_embedding_parameters,
    readable_length,
    reading,
)
from trimtab.rewards.conversations import conversation, starling_text, template_text, ultrarm_text
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.http_reward import EndpointReward
from trimtab.rewards.reward import Reward, judged_text
from trimtab.rewards.scalar import ScalarReward, SequenceClassifierHead, ValueHead
from trimtab.rewards.token_rows import TokenRows

Encode = Callable[[PromptInput, str], list[int]]
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, UnpicklingError)


@dataclass(frozen=True)
class Layout:
    """How a published reward model is laid out: its head's weight, what its body's weights begin with, its prompt."""

    head: str
    body: str
    text: Callable[[PromptInput, str], str]


LAYOUTS = {
    "ultrarm": Layout("regression_head.weight", "model.", ultrarm_text),
    "starling": Layout("v_head.weight", "transformer.", starling_text),
}


def load_reward(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    """The reward of `config`; `folder` holds the classifier that was trained for it, where it asks for training.

    Raises:
        ConfigurationError: a function is not there, or training is asked for and nothing was trained.
        AssetError, ModelError: the model cannot be found or cannot play the role.
    """
    if config.function is not None:
        return FunctionReward(named_function(config.function), config.function)
    if config.address is not None:
        service = Endpoint(
            config.address, timeout=config.timeout, attempts=config.attempts, key_variable=config.key_variable
        )
        return EndpointReward(service, config.batch_size)
    if config.definition in CLASSIFIED:
        return load_classifier_reward(config, assets, folder)
    if config.definition in LAYOUTS:
        return _published(config, LAYOUTS[config.definition], assets)
    model, tokenizer = load_classifier(config.model, assets, allow_pickle=config.allow_pickle, dtype=config.dtype)
    if model.config.num_labels != 1:
        raise ModelError(
            f"the reward model {config.model} has {model.config.num_labels} labels and definition scalar needs 1: give "
            "a model with a scalar head, or set reward.definition to margin"
        )
    tokenizer = tokenizer if config.tokenizer is None else load_tokenizer(assets.tokenizer(config.tokenizer))
    limit, logits = reading(model, tokenizer, readable_length(config, model))
    head = SequenceClassifierHead(logits, non_embedding_parameters(model))
    return ScalarReward(head, _encoder(config, tokenizer), limit=limit, batch_size=config.batch_size)


def _encoder(config: RewardConfig, tokenizer: PreTrainedTokenizerBase) -> Encode:
    """By the template that is named; else by the tokenizer's own; else the prompt directly followed by the response."""
    template = config.template
    if template == CHAT or (template is None and tokenizer.chat_template is not None):
        chat = ChatTemplate(tokenizer)
        return lambda prompt, response: chat.conversation_ids(answered(chat, prompt, response))
    if template is not None:
        return _plain(tokenizer, lambda prompt, response: template_text(template, prompt, response))
    return _plain(tokenizer, judged_text)


def answered(chat: ChatTemplate, prompt: PromptInput, response: str) -> list[Message]:
    """The conversation, without what the template itself writes before an answer, which a response may begin with."""
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return conversation(prompt, chat.turn(turns).words(response))


def _plain(tokenizer: PreTrainedTokenizerBase, text: Callable[[PromptInput, str], str]) -> Encode:
    return lambda prompt, response: [int(token) for token in tokenizer.encode(text(prompt, response))]


@quiet_libraries()
def _published(config: RewardConfig, layout: Layout, assets: Assets) -> ScalarReward:
    """A Llama body with a head of its own name.

    Raises:
        ModelError: the folder holds no such model.
    """
    folder = assets.model(config.model, allow_pickle=config.allow_pickle)
    tokenizer = load_tokenizer(folder if config.tokenizer is None else assets.tokenizer(config.tokenizer))
    keep_freed_memory()
    device = default_device()
    try:
        body, info = AutoModel.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
            key_mapping={f"^{layout.body}": ""},
            dtype=pick_dtype(config.dtype, device),
            use_safetensors=None if config.allow_pickle else True,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        lacking = sorted(info["missing_keys"])[:1]
        weight = _weight(folder, layout.head)
    except _UNREADABLE as error:
        raise ModelError(f"{folder} holds no {config.definition} reward model ({one_line(str(error))[:160]})") from None
    if weight is None or lacking:
        name = layout.head if weight is None else lacking[0]
        raise ModelError(f"{folder} holds no {config.definition} reward model, its weights lack {name}: name one")
    parameters = non_embedding_parameters(body) + weight.numel()
    head = ValueHead(body.to(device).eval(), weight, parameters)
    vocabulary = body.get_input_embeddings().weight.shape[0]
    limit = TokenRows(tokenizer, max_length=readable_length(config, body), vocabulary=vocabulary)
    return ScalarReward(head, _plain(tokenizer, layout.text), limit=limit, batch_size=config.batch_size)


def _weight(folder: Path, name: str) -> torch.Tensor | None:
    """A tensor of this name among the folder's weights, of which no other is read; None where there is none."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 (no mapping)
                return torch.as_tensor(tensors.get_tensor(name))
    for file in sorted(folder.glob("*.bin")):
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if name in tensors:
            return torch.as_tensor(tensors[name])
    return None
