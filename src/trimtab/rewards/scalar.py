"""Reward models with a scalar head: any sequence classifier of one label, UltraRM and Starling-RM.

>>> reward = load_reward(RewardConfig(model="me/reward", definition="scalar"), assets, None)      # doctest: +SKIP
>>> reward.score(["Name a colour."], ["Blue."])                                                   # doctest: +SKIP
[3.1]
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from trimtab.records import PromptInput
from trimtab.rewards.batches import in_batches, padded
from trimtab.rewards.reward import check_pairs
from trimtab.rewards.reward_values import checked_scores
from trimtab.rewards.sequence_logits import SequenceLogits
from trimtab.rewards.token_rows import TokenRows


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
