"""Reward models with a scalar head: any sequence classifier of one label, UltraRM and Starling-RM."""

from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.fields import CHAT
from trimtab.config.reward import RewardConfig
from trimtab.errors import ModelError, one_line
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.chat import ChatTemplate
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load import load_classifier, load_tokenizer, quiet_libraries
from trimtab.records import Message, PromptInput
from trimtab.rewards.batches import in_batches, padded
from trimtab.rewards.classifier import non_embedding_parameters, readable_length, reading
from trimtab.rewards.conversations import conversation, template_text
from trimtab.rewards.reward import check_pairs, judged_text
from trimtab.rewards.reward_values import checked_scores
from trimtab.rewards.sequence_logits import SequenceLogits
from trimtab.rewards.token_rows import TokenRows

Encode = Callable[[PromptInput, str], list[int]]
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, UnpicklingError)


class Head(Protocol):
    """What gives rewards [rows] for rows of token ids of any lengths."""

    parameters: int

    def __call__(self, rows: Sequence[list[int]]) -> torch.Tensor: ...


class ScalarReward:
    """The Reward that a model's scalar head gives, in the model's own unit.

    Args:
        head: the model.
        encode: the ids of a prompt and its response, as the model was trained to read them.
        limit: what cuts rows that are too long.
        batch_size: rows that are read together, of like length.
    """

    def __init__(
        self, head: Head, encode: Callable[[PromptInput, str], list[int]], *, limit: TokenRows, batch_size: int
    ) -> None:
        self._head = head
        self._encode = encode
        self._limit = limit
        self._batch_size = batch_size
        self._tokens = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order; neighbours move it by rounding only."""
        check_pairs(prompts, responses)
        pairs = zip(prompts, responses, strict=True)
        rows = self._limit.fitted([self._encode(prompt, response) for prompt, response in pairs])
        self._tokens += sum(map(len, rows))
        scores = in_batches(rows, self._batch_size, self._forward)
        return checked_scores(scores, responses, "the reward model")

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 x non-embedding parameters x tokens read, padding and attention's products apart."""
        return 2.0 * self._head.parameters * self._tokens

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        rewards: list[float] = self._head(rows).float().tolist()
        return rewards


class SequenceClassifierHead:
    """A sequence classifier of one label."""

    def __init__(self, logits: SequenceLogits, parameters: int) -> None:
        self._logits = logits
        self.parameters = parameters

    def __call__(self, rows: Sequence[list[int]]) -> torch.Tensor:
        return self._logits(rows)[:, 0]


class ValueHead:
    """A language model's body with a linear head (weight [1, width], no bias), read at each row's last token."""

    def __init__(self, body: PreTrainedModel, weight: torch.Tensor, parameters: int) -> None:
        self._body = body
        self._weight = weight.to(body.device, body.dtype)
        self.parameters = parameters

    def __call__(self, rows: Sequence[list[int]]) -> torch.Tensor:
        device = self._body.device
        ids, mask = padded(rows, 0)  # any id: the mask says where a row ends
        hidden = self._body(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ids), device=device), mask.sum(dim=1).to(device) - 1]
        return (last @ self._weight.T)[:, 0]


def load_scalar_reward(config: RewardConfig, assets: Assets) -> ScalarReward:
    """A sequence classifier of one label.

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
def load_published_reward(
    config: RewardConfig, assets: Assets, head_name: str, body_prefix: str, text: Callable[[PromptInput, str], str]
) -> ScalarReward:
    """A published reward model: a Llama body, whose weights' names begin with `body_prefix`, and a linear head.

    Args:
        head_name: name of the head's weight.
        text: the prompt and the response as the model was trained to read them.

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
            key_mapping={f"^{body_prefix}": ""},
            dtype=pick_dtype(config.dtype, device),
            use_safetensors=None if config.allow_pickle else True,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        lacking = sorted(info["missing_keys"])[:1]
        weight = _weight(folder, head_name)
    except _UNREADABLE as error:
        raise ModelError(f"{folder} holds no {config.definition} reward model ({one_line(str(error))[:160]})") from None
    if weight is None or lacking:
        name = head_name if weight is None else lacking[0]
        raise ModelError(f"{folder} holds no {config.definition} reward model, its weights lack {name}: name one")
    parameters = non_embedding_parameters(body) + weight.numel()
    head = ValueHead(body.to(device).eval(), weight, parameters)
    vocabulary = body.get_input_embeddings().weight.shape[0]
    limit = TokenRows(tokenizer, max_length=readable_length(config, body), vocabulary=vocabulary)
    return ScalarReward(head, _plain(tokenizer, text), limit=limit, batch_size=config.batch_size)


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
