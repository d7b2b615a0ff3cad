"""Drawing tokens: filters as transformers defines them, and random numbers that depend on nothing but their place.

The number that decides a draw is a function of (run seed, prompt id, slot, step): neither the batch nor the order of
prompts nor the device plays a part. Tokens are drawn by inverting the distribution function in the order of their ids,
so that a small change of the logits moves every boundary only a little.

    >>> uniforms(seed=1, keys=[prompt_key("test-0")], slots=[0], steps=[3]).shape
    (1,)
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from trimtab.errors import ModelError
from trimtab.experiment import SamplingConfig

GROUP = 512  # columns whose maximum stands for them in the first pass of `top`


def prompt_key(prompt_id: str) -> int:
    """A 64-bit number for a prompt's id."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "little")


def uniforms(seed: int, keys: Sequence[int], slots: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """One float64 in [0, 1) for each (key, slot, step): SplitMix64's finalizer (Steele et al. 2014), chained."""
    state = _mix(np.full(len(keys), seed, dtype=np.uint64))
    for part in (keys, slots, steps):
        state = _mix(state ^ _mix(np.asarray(part, dtype=np.uint64)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw(logits: torch.Tensor, rows: Sequence[int], numbers: np.ndarray, settings: SamplingConfig) -> list[int]:
    """One token for each number: number n decides among the logits of row rows[n].

    Args:
        logits: [rows, vocabulary]; a row may be drawn from more than once.
        rows: the row of each draw, [draws].
        numbers: uniform in [0, 1), [draws].
        settings: filters in transformers' order: temperature, top-k, top-p. Temperature 0 takes the most likely token.
    """
    index = torch.tensor(list(rows), dtype=torch.long, device=logits.device)
    if not torch.isfinite(logits).any(-1).all() or torch.isnan(logits).any():
        raise ModelError("the model's logits are not numbers: set its dtype to float32 or bfloat16")
    if settings.temperature == 0:
        return [int(token) for token in logits.argmax(-1)[index].tolist()]
    ids, probabilities = filtered(logits, settings)
    cumulative = probabilities.cumsum(-1)[index]
    targets = torch.from_numpy(numbers).to(cumulative.device)[:, None] * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=cumulative.shape[1] - 1)
    if ids is None:
        return [int(token) for token in column.tolist()]
    return [int(token) for token in ids[index, column].tolist()]


def filtered(logits: torch.Tensor, settings: SamplingConfig) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The candidates of each row in the order of their ids, [rows, candidates] (None: all), and their probabilities.

    Probabilities are float64 and 0 where a filter has dropped the token.
    """
    ids: torch.Tensor | None = None
    if settings.top_k and settings.top_k < logits.shape[1]:
        ids = top(logits, settings.top_k).sort(-1).values
        logits = logits.gather(1, ids)
    probabilities = torch.softmax(logits.double() / settings.temperature, dim=-1)
    if settings.top_p < 1:
        probabilities = _nucleus(probabilities, settings.top_p)
    return ids, probabilities


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p (Holtzman et al. 2020)."""
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter_(1, places, ordered)
    return kept / kept.sum(-1, keepdim=True)


def top(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The ids of the `count` largest logits of each row, in no order.

    The largest `count` values lie in the `count` groups of columns with the largest maxima, so all but those groups
    are left out before the values themselves are compared.
    """
    rows, size = logits.shape
    groups = size // GROUP
    if groups < 2 * count:
        return logits.topk(count, dim=-1, sorted=False).indices
    body, tail = logits[:, : groups * GROUP].view(rows, groups, GROUP), logits[:, groups * GROUP :]
    best = body.amax(-1).topk(count, dim=-1, sorted=False).indices
    columns = (best[:, :, None] * GROUP + torch.arange(GROUP, device=logits.device)).flatten(1)
    values = body.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    if tail.shape[1]:
        rest = torch.arange(groups * GROUP, size, device=logits.device).expand(rows, -1)
        columns, values = torch.cat([columns, rest], dim=1), torch.cat([values, tail], dim=1)
    return columns.gather(1, values.topk(count, dim=-1, sorted=False).indices)
