"""What rewards give, read as numbers: lists, iterators, arrays and tensors of one number for each text."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import numpy as np
import pandas as pd
import torch

from trimtab.errors import ModelError, TrimtabError, shown
from trimtab.records import PromptInput
from trimtab.rewards.reward import Scorer, name_of

_log = logging.getLogger(__name__)


def checked_scores(
    values: Any, texts: Sequence[str], origin: str, error: type[TrimtabError] = ModelError
) -> list[float]:
    """`values` as floats, one for each of `texts`; they need not be finite.

    Values may be lists, tuples and other sequences, iterators, NumPy arrays, pandas columns, and PyTorch tensors on any
    device, of shape [texts] or [texts, 1]. Their members are numbers, booleans (1 or 0), or None (pandas' NA, NumPy's
    masked), which means no reward and becomes NaN.

    Raises:
        TrimtabError: an `error` that names `origin`: `values` is something else, holds more or fewer members than
            there are texts, or a member is no number.

    >>> checked_scores([True, None], ["a", "bc"], "the reward function f")
    [1.0, nan]
    """
    members = _members(values)
    if members is None:
        raise error(
            f"{origin} gave {shown(values)} for {len(texts)} texts: it must give a list of numbers, one for each text"
        )
    if len(members) != len(texts):
        raise error(f"{origin} gave {len(members)} rewards for {len(texts)} texts: it must give one for each text")
    scores = []
    for member, text in zip(members, texts, strict=True):
        score = _number(member)
        if score is None:
            raise error(f"{origin} gave {shown(member)} for {text[:60]!r}: a reward must be a number")
        scores.append(score)
    return scores


def scores_of(reward: Scorer, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
    """The scores of a reward, which may be of a user's own class, as floats, one for each response.

    Raises:
        ModelError: it gives something else.
    """
    return checked_scores(reward.score(prompts, responses), responses, name_of(reward))


def warn_of_unscored(reward: Scorer, texts: Sequence[str], scores: Sequence[float]) -> bool:
    """Warn where a reward gave some response no finite number, and say whether it did: that is no model's fault."""
    worst = next((index for index, score in enumerate(scores) if not math.isfinite(score)), None)
    if worst is not None:
        name = name_of(reward)
        _log.warning("%s gave %g for %r: its prompt is set aside", name, scores[worst], texts[worst][:60])
    return worst is not None


def warn_if_none_is_scored(reward: Scorer, texts: Sequence[str], scores: Sequence[float]) -> None:
    """Warn where a reward gave no response a finite number: that is its fault, and no model's."""
    if texts and not any(map(math.isfinite, scores)):
        _log.warning(
            "%s gave none of %d responses a finite number (%g for %r): mend it",
            name_of(reward), len(texts), scores[0], texts[0][:60],
        )  # fmt: skip


def _members(values: Any) -> list[Any] | None:
    """The members of a sequence; None where there is no order among them."""
    if isinstance(values, str | bytes | bytearray | Mapping | Set):
        return None
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values if values.layout == torch.strided else values.to_dense()
        values = values.numpy() if values.is_complex() else values.double().numpy()
    if isinstance(values, Sequence | Iterator | ValuesView):
        return list(values)
    if not isinstance(values, np.ndarray):
        values = np.asarray(values, dtype=object)  # pandas' columns and tables; anything else has no dimension then
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return list(values) if values.ndim else None


def _number(value: Any) -> float | None:
    """A member as a float; None where it is no number."""
    if value is None or value is pd.NA or value is np.ma.masked:
        return math.nan
    if isinstance(value, str | bytes | bytearray | np.complexfloating):
        return None  # float() would read them
    if isinstance(value, torch.Tensor | np.ndarray):
        return _number(value.item()) if math.prod(value.shape) == 1 else None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
