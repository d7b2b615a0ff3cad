"""Drawing tokens: filters as transformers defines them, and random numbers that do not depend on the batch.

The number that decides a draw is a function of (run seed, prompt id, slot, step): neither the batch nor the order of
prompts nor the device plays a part. Tokens are drawn by inverting the distribution function in the order of their ids,
so that a small change of the logits moves every boundary only a little.

    >>> uniforms(seed=1, keys=[prompt_key("test-0")], slots=[0], steps=[3]).shape
    (1,)
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from trimtab.config.search import SamplingConfig
from trimtab.models.device import on_device

FAILED = -1  # returned instead of a token where a row's logits are not finite numbers
GROUP = 128  # neighbouring tokens whose mass or maximum is computed first
CANDIDATES = 1024  # top-p and min-p sort only this many tokens where those are sure to suffice
Integers = Sequence[int] | np.ndarray


def prompt_key(prompt_id: str) -> int:
    """A 64-bit number for a prompt's id."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "little")


def uniforms(seed: int, keys: Integers, slots: Integers, steps: Integers) -> np.ndarray:
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


def draw(
    logits: torch.Tensor,
    rows: Sequence[int],
    numbers: np.ndarray,
    settings: SamplingConfig,
    seen: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Draw tokens: numbers[n] decides which token is drawn from the logits of row rows[n].

    Args:
        logits: [rows, vocabulary]; a row may be drawn from more than once.
        rows: the row of each draw, [draws].
        numbers: uniform in [0, 1), [draws].
        settings: transformers' processors in its order: repetition penalty, temperature, top-k, top-p, min-p.
            Temperature 0 takes the most likely token, after the penalty.
        seen: each row's tokens so far with its prompt's, which only the repetition penalty needs.

    Returns:
        The tokens; `FAILED` where a row holds NaN, or no finite number, or infinity.
    """
    if settings.repetition_penalty != 1:
        assert seen is not None, "the repetition penalty needs each row's tokens"
        logits = penalized(logits, seen, settings.repetition_penalty)
    index = on_device(rows, logits.device)
    if settings.temperature == 0:
        tokens = _likeliest(logits)[index]
    elif not settings.top_k and settings.top_p == 1 and settings.min_p == 0:
        tokens = _draw_unfiltered(logits, index, numbers, settings.temperature)
    elif settings.top_k or logits.shape[1] <= 4 * CANDIDATES:
        tokens = _draw_filtered(logits, index, numbers, settings)
    else:
        tokens = _draw_of_few(logits, np.array(rows, dtype=np.int64), numbers, settings)
    drawn: list[int] = tokens.tolist()
    return drawn


def penalized(logits: torch.Tensor, seen: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    """A copy in which tokens that a row has seen are less likely for a penalty above 1 (Keskar et al. 2019): positive
    logits are divided by the penalty and negative ones multiplied by it, once however often a token was seen."""
    changed = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    tokens = np.fromiter(itertools.chain.from_iterable(seen), dtype=np.int64)
    rows = np.repeat(np.arange(len(seen)), [len(row) for row in seen])
    in_vocabulary = tokens < logits.shape[1]
    indices = on_device(rows[in_vocabulary], logits.device), on_device(tokens[in_vocabulary], logits.device)
    values = changed[indices]
    changed[indices] = torch.where(values < 0, values * penalty, values / penalty)
    return changed


def _draw_filtered(
    logits: torch.Tensor, index: torch.Tensor, numbers: np.ndarray, settings: SamplingConfig
) -> torch.Tensor:
    """Draw from the tokens that the filters leave of the whole vocabulary."""
    ids, probabilities = filtered(logits, settings)
    return _inverted_by_id(ids, probabilities, index, numbers)


def _draw_of_few(logits: torch.Tensor, rows: np.ndarray, numbers: np.ndarray, settings: SamplingConfig) -> torch.Tensor:
    """`_draw_filtered` without top-k, faster where the filters leave fewer than `CANDIDATES` tokens of most rows.

    Only the most likely `CANDIDATES` tokens are sorted; a row whose filters leave more is drawn from the whole
    vocabulary. Which way a row is drawn depends on this row alone.
    """
    ids = top(logits, CANDIDATES).sort(-1).values
    largest = logits.gather(1, ids)
    probabilities = torch.exp(largest.double() / settings.temperature - _log_mass(logits, settings.temperature))
    least, most = probabilities.amin(-1), probabilities.amax(-1)
    # 1e-6: the error of a vocabulary's mass that is summed in float32
    enough = (probabilities.sum(-1) >= settings.top_p + 1e-6) | (least < settings.min_p * most)
    few = np.array(enough.tolist(), dtype=bool)[rows]
    device = logits.device
    tokens = torch.empty(len(rows), dtype=torch.long, device=device)
    if few.any():
        kept = _kept(probabilities, settings)
        drawn = _inverted_by_id(ids, kept, on_device(rows[few], device), numbers[few])
        tokens[on_device(np.flatnonzero(few), device)] = drawn
    if not few.all():
        rest, where = np.unique(rows[~few], return_inverse=True)
        drawn = _draw_filtered(logits[on_device(rest, device)], on_device(where, device), numbers[~few], settings)
        tokens[on_device(np.flatnonzero(~few), device)] = drawn
    return tokens


def _log_mass(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """log of the sum of exp(logits / temperature) over the whole vocabulary, float64 [rows, 1]."""
    largest = logits.amax(-1, keepdim=True)
    masses = _masses(logits, largest, temperature)
    return largest.double() / temperature + _by_group(masses, torch.sum).double().sum(-1, keepdim=True).log()


def _masses(logits: torch.Tensor, largest: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp((logits - largest) / temperature), padded with 0 to whole groups; float32, float64 where the logits are."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    masses = ((wide - largest) / temperature).exp_()
    return torch.nn.functional.pad(masses, (0, -masses.shape[1] % GROUP)) if masses.shape[1] % GROUP else masses


def _inverted_by_id(
    ids: torch.Tensor | None, probabilities: torch.Tensor, index: torch.Tensor, numbers: np.ndarray
) -> torch.Tensor:
    """One token for each number, by inverting its row's probabilities in the order of ids (None: the columns')."""
    cumulative = probabilities.cumsum(-1)[index]
    targets = on_device(numbers, cumulative.device)[:, None] * cumulative[:, -1:]
    column = _inverted(cumulative, targets).squeeze(1)
    tokens = column if ids is None else ids[index, column]
    # NaN counts as one of the largest logits, and spoils the sum of probabilities
    return tokens.where(cumulative[:, -1].isfinite(), FAILED)


def filtered(logits: torch.Tensor, settings: SamplingConfig) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The candidates of each row in the order of their ids, [rows, candidates] (None: all), and their probabilities.

    Probabilities are float64 and 0 where a filter has dropped the token.
    """
    ids: torch.Tensor | None = None
    if settings.top_k and settings.top_k < logits.shape[1]:
        ids = top(logits, settings.top_k).sort(-1).values
        logits = logits.gather(1, ids)
    return ids, _kept(torch.softmax(logits.double() / settings.temperature, dim=-1), settings)


def _kept(probabilities: torch.Tensor, settings: SamplingConfig) -> torch.Tensor:
    """The probabilities with top-p and min-p applied: 0 for dropped tokens, the rest with a sum of 1."""
    if settings.top_p < 1:
        probabilities = _nucleus(probabilities, settings.top_p)
    if settings.min_p > 0:
        least = settings.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p (Holtzman et al. 2020)."""
    ordered, columns = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter_(1, columns, ordered)
    return kept / kept.sum(-1, keepdim=True)


def top(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The ids of the `count` largest logits of each row, in no order.

    They lie in the `count` groups with the largest maxima, so only the values of those groups are compared.
    """
    rows, size = logits.shape
    groups = size // GROUP
    if groups < 2 * count:
        return logits.topk(count, dim=-1, sorted=False).indices
    best = _by_group(logits[:, : groups * GROUP], torch.amax).topk(count, dim=-1, sorted=False).indices
    columns = (best[:, :, None] * GROUP + torch.arange(GROUP, device=logits.device)).flatten(1)
    rest = torch.arange(groups * GROUP, size, device=logits.device).expand(rows, -1)
    columns = torch.cat([columns, rest], dim=1)
    return columns.gather(1, logits.gather(1, columns).topk(count, dim=-1, sorted=False).indices)


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each row; of up to 8 equally likely ones the one with the lowest id."""
    ids = top(logits, min(8, logits.shape[1])).sort(-1).values
    best, column = logits.gather(1, ids).max(-1)
    return ids.gather(1, column[:, None]).squeeze(1).where(best.isfinite(), FAILED)


def _draw_unfiltered(
    logits: torch.Tensor, index: torch.Tensor, numbers: np.ndarray, temperature: float
) -> torch.Tensor:
    """One token for each number, drawn from the whole distribution by inversion: first a group of tokens, then a token.

    `index` and `numbers` are `rows` and `numbers` of `draw`.
    """
    largest = logits.amax(-1, keepdim=True)
    masses = _masses(logits, largest, temperature)
    groups = _by_group(masses, torch.sum).double().cumsum(-1)[index]
    targets = on_device(numbers, groups.device)[:, None] * groups[:, -1:]
    group = _inverted(groups, targets)
    before = torch.where(group > 0, groups.gather(1, (group - 1).clamp(min=0)), 0.0)
    columns = group * GROUP + torch.arange(GROUP, device=groups.device)
    inside = masses[index[:, None], columns].double().cumsum(-1)
    tokens = (group * GROUP + _inverted(inside, targets - before)).squeeze(1)
    return tokens.where(largest[index].squeeze(1).isfinite(), FAILED)


def _inverted(cumulative: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The first column of each row whose cumulative mass is above the target, [rows, 1]; never one without mass."""
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return torch.searchsorted(cumulative, targets, right=True).minimum(last)


def _by_group(values: torch.Tensor, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Each group of `GROUP` columns as one number, [rows, groups]."""
    if values.stride(1) == 1:
        return reduce(values.unflatten(1, (-1, GROUP)), dim=-1)
    return reduce(values.t().unflatten(0, (-1, GROUP)), dim=1).t()  # stored by token: the same, in the faster order
