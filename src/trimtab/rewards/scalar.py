"""Reward models with a scalar head: any sequence classifier of one label, UltraRM and Starling-RM.

Knows nothing of where their files lie (`rewards.load`).

    >>> reward = load_reward(RewardConfig(model="me/reward", definition="scalar"), assets, None)      # doctest: +SKIP
    >>> reward.score(["Name a colour."], ["Blue."])                                                   # doctest: +SKIP
    [3.1]
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from trimtab.records import PromptInput
from trimtab.rewards.batches import in_batches
from trimtab.rewards.reward import checked_scores, judged_texts


class Head(Protocol):
    """What gives rewards [rows] for token ids [rows, tokens] and their mask; `pad` is an id that rows may end in."""

    parameters: int

    def pad(self, rows: Sequence[Sequence[int]]) -> int: ...

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...


class ScalarReward:
    """The Reward that a model's scalar head gives, in the model's own unit.

    Args:
        head: the model.
        encode: the ids of a prompt and its response, as the model was trained to read them.
        max_length: a longer row loses its beginning, so that the response, which stands at the end, is always judged.
        batch_size: rows that are read together, of like length.
    """

    def __init__(
        self, head: Head, encode: Callable[[PromptInput, str], list[int]], *, max_length: int, batch_size: int
    ) -> None:
        self._head = head
        self._encode = encode
        self._max_length = max_length
        self._batch_size = batch_size
        self._tokens = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order; neighbours move it by rounding only."""
        pairs = zip(prompts, responses, strict=True)
        rows = [self._encode(prompt, response)[-self._max_length :] for prompt, response in pairs]
        self._tokens += sum(map(len, rows))
        scores = in_batches(rows, self._batch_size, self._forward)
        return checked_scores(scores, judged_texts(prompts, responses), "the reward model")

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 x non-embedding parameters x tokens read, padding and attention's products apart."""
        return 2.0 * self._head.parameters * self._tokens

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        longest, pad = max(map(len, rows)), self._head.pad(rows)
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        rewards: list[float] = self._head(ids, mask).float().tolist()
        return rewards


class SequenceClassifierHead:
    """A sequence classifier of one label. Rows are padded on the right."""

    def __init__(self, model: PreTrainedModel, parameters: int) -> None:
        self._model = model
        self._pad_is_ours = model.config.get_text_config().pad_token_id is None
        self.parameters = parameters

    def pad(self, rows: Sequence[Sequence[int]]) -> int:
        """The id by which the model knows where a row ends. Where it names none, one that no row has, which it is told.

        A decoder's reward stands at the last token that is not this one.
        """
        config = self._model.config.get_text_config()
        if self._pad_is_ours:
            used = {token for row in rows for token in row}
            config.pad_token_id = next(token for token in range(len(used) + 1) if token not in used)
        return int(config.pad_token_id)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        device = self._model.device
        logits: torch.Tensor = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0]


class ValueHead:
    """A language model's body with a linear head (weight [1, width], no bias), read at each row's last token."""

    def __init__(self, body: PreTrainedModel, weight: torch.Tensor, parameters: int) -> None:
        self._body = body
        self._weight = weight.to(body.device, body.dtype)
        self.parameters = parameters

    def pad(self, rows: Sequence[Sequence[int]]) -> int:
        return 0  # any id: the mask says where a row ends

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        device = self._body.device
        hidden = self._body(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ids), device=device), mask.sum(dim=1).to(device) - 1]
        return (last @ self._weight.T)[:, 0]
