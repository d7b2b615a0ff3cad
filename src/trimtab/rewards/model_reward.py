"""A model as reward: rows of token ids are read in batches of like length, and a head gives a number for each."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from trimtab.records import PromptInput
from trimtab.rewards.reward import check_pairs
from trimtab.rewards.reward_values import checked_scores
from trimtab.rewards.token_rows import TokenRows, padded

Head = Callable[[list[list[int]]], torch.Tensor]
"""Gives rewards [rows] for rows of token ids of any lengths."""
Encode = Callable[[Sequence[PromptInput], Sequence[str]], list[list[int]]]
"""The token ids of prompts and their responses, as the model was trained to read them."""


class ModelReward:
    """The Reward that a model's head gives, in the model's own unit.

    Args:
        limit: cuts rows that are too long.
        parameters: the model's non-embedding parameters.
        batch_size: number of rows that are read together.
    """

    def __init__(self, head: Head, encode: Encode, limit: TokenRows, *, parameters: int, batch_size: int) -> None:
        self._head = head
        self._encode = encode
        self._limit = limit
        self._parameters = parameters
        self._batch_size = batch_size
        self._tokens = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order.

        Padding and neighbours move a score by rounding only (below 1e-4 in float32). A text without tokens scores NaN,
        as does one for which the head gives no number.

        Raises:
            ModelError: a text has a token for which the model has no embedding.
        """
        check_pairs(prompts, responses)
        if not responses:
            return []
        rows = self._limit.fitted(self._encode(prompts, responses))
        self._tokens += sum(map(len, rows))
        order = sorted((index for index, row in enumerate(rows) if row), key=lambda index: len(rows[index]))
        scores = [math.nan] * len(rows)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            with torch.inference_mode():
                rewards = self._head([rows[index] for index in batch]).float().tolist()
            for index, reward in zip(batch, rewards, strict=True):
                scores[index] = reward
        return checked_scores(scores, responses, "the reward model")

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 x non-embedding parameters x tokens read.

        Leaves out attention's products of queries, keys and values (small for short texts), and padding.
        """
        return 2.0 * self._parameters * self._tokens


class ValueHead:
    """A language model's body with a linear head (weight [1, width], no bias), read at each row's last token."""

    def __init__(self, body: PreTrainedModel, weight: torch.Tensor) -> None:
        self._body = body
        self._weight = weight.to(body.device, body.dtype)

    def __call__(self, rows: list[list[int]]) -> torch.Tensor:
        device = self._body.device
        ids, mask = padded(rows, 0)  # any id: the mask says where a row ends
        hidden = self._body(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ids), device=device), mask.sum(dim=1).to(device) - 1]
        return (last @ self._weight.T)[:, 0]


def non_embedding_parameters(model: nn.Module) -> int:
    """Number of parameters outside of embedding tables: those that multiply in a forward pass."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
