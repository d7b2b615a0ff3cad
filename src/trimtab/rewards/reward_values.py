"""What rewards give, read as numbers: lists, iterators, arrays and tensors of one number for each text.

>>> checked_scores((len(text) for text in ["a", "bc"]), ["a", "bc"], "the reward function f")
[1.0, 2.0]
>>> checked_scores([True, None], ["a", "bc"], "the reward function f")
[1.0, nan]
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import numpy as np
import pandas as pd
import torch

from trimtab.errors import ModelError, TrimtabError, shown
from trimtab.records import PromptInput
from trimtab.rewards.reward import Reward


def checked_scores(
    given: Any, texts: Sequence[str], origin: str, error: type[TrimtabError] = ModelError
) -> list[float]:
    """`given` as floats, one for each of `texts`; those that are not finite are left to whoever takes means.

    Read are lists, tuples and other sequences, iterators, NumPy arrays, pandas columns, and PyTorch tensors on any
    device, of shape [texts] or [texts, 1]. Their members are numbers, booleans (1 or 0), or None (pandas' NA, NumPy's
    masked), which says that there is no reward and becomes NaN.

    Raises:
        TrimtabError: an `error` that names `origin`: `given` is something else, holds more or fewer numbers than
            texts, or something that is no number.
    """
    values = _members(given)
    if values is None:
        raise error(
            f"{origin} gave {shown(given)} for {len(texts)} texts: it must give a list of numbers, one for each text"
        )
    if len(values) != len(texts):
        raise error(f"{origin} gave {len(values)} rewards for {len(texts)} texts: it must give one for each text")
    scores = []
    for value, text in zip(values, texts, strict=True):
        score = _number(value)
        if score is None:
            raise error(f"{origin} gave {shown(value)} for {text[:60]!r}: a reward must be a number")
        scores.append(score)
    return scores


def scores_of(reward: Reward, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
    """What a reward gives, also one of a class of the user's own, as floats, one for each response.

    Raises:
        ModelError: it gives something else.
    """
    return checked_scores(reward.score(prompts, responses), responses, f"the reward {type(reward).__name__}")


def _members(given: Any) -> list[Any] | None:
    """What is given, one member for each text; None where it has no members in an order."""
    if isinstance(given, str | bytes | bytearray | Mapping | Set):
        return None
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given if given.layout == torch.strided else given.to_dense()
        given = given.numpy() if given.is_complex() else given.double().numpy()
    if isinstance(given, Sequence | Iterator | ValuesView):
        return list(given)
    if not isinstance(given, np.ndarray):
        given = np.asarray(given, dtype=object)  # pandas' columns and tables; of anything else it has no dimension
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    return list(given) if given.ndim else None


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
