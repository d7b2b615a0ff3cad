"""How far two sets of logits are apart, and whether rounding explains it.

The same numbers, multiplied in another order, are the same but for rounding. Measured on GPT-2's shape with random
weights, SmolLM2-135M and Gemma-3-270M, with and without bfloat16 units of the processor:

    | a head's product in another order   | norm | largest, of the largest logit     | logits that differ |
    | bfloat16                            | 3e-5 | 5e-3 (one unit in the last place) | 0.01 %             |
    | bfloat16, a bias added afterwards   | 3e-3 | 7e-3                              | 50 %               |
    | float16                             | 1e-5 | 6e-4                              | 0.2 %              |
    | float32                             | 4e-7 | 1e-6                              | 90 %               |

So in 16 bits single logits move by a whole unit in the last place, while the norm hardly moves. But the norm overlooks
large changes of a few logits, such as suppressed tokens, and a small change that all logits share, such as a
temperature. `LogitsApart` measures all three.

    >>> exact = torch.linspace(-4, 4, 101).double()
    >>> LogitsApart(exact.bfloat16().double(), exact).fault(torch.bfloat16, 1) is None
    True
    >>> LogitsApart(1.01 * exact, exact).fault(torch.bfloat16, 1)
    "its logits differ from its output embedding's by 1 % in norm (0.391 % allowed in bfloat16)"
"""

import torch

MIN_UNIT = 1e-4
"""The smallest unit, instead of float32's own 1e-7: products of thousands of terms add up to more."""
FLOOR = 1e-4
"""The difference allowed to logits near zero, where terms cancel, relative to the logits' root mean square."""
MAX_COMMON = 0.1
"""The share of the allowed norm that all logits may have in common. Rounding goes both ways: 3e-8 was measured."""


def unit_of(dtype: torch.dtype) -> float:
    """The largest relative step between two neighbouring numbers: 2^-7 in bfloat16, 2^-10 in float16."""
    return max(torch.finfo(dtype).eps, MIN_UNIT)


def dtype_name(dtype: torch.dtype) -> str:
    """The name in configurations, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def percent(share: float) -> str:
    """A share in percent, to three digits."""
    return f"{100 * share:.3g} %"


class LogitsApart:
    """The difference between a head's logits `found` and a model's, float64, [tokens, vocabulary] or [vocabulary].

    Attributes:
        norm: the norm of the difference, relative to that of the model's logits.
    """

    def __init__(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        found, expected = torch.atleast_2d(found), torch.atleast_2d(expected)
        finite = expected.isfinite() & found.isfinite()
        same = finite | (found == expected) | (found.isnan() & expected.isnan())
        self._ruled_out = int((~same).any(0).sum())  # tokens whose logit is infinite or NaN in one of the two alone
        difference, size = torch.where(finite, found - expected, 0.0), torch.where(finite, expected, 0.0)
        square = float(size.square().sum()) or 1.0  # where all logits are zero, the difference itself counts
        self.norm = float(difference.norm()) / square**0.5
        self._common = float((difference * size).sum()) / square  # 0.01 where all logits are 1 % too large
        self._difference, self._size = difference.abs(), size.abs()

    def fault(self, dtype: torch.dtype, roundings: int) -> str | None:
        """What rounding `roundings` times to this element type does not explain; None where it explains all."""
        unit, kind, vocabulary = unit_of(dtype), dtype_name(dtype), self._size.shape[1]
        if self._ruled_out:
            return f"{self._ruled_out} of its {vocabulary} logits are ruled out behind its output embedding"
        norm = roundings * unit / 2
        if self.norm > norm:
            return _in_norm(self.norm, norm, kind)
        if abs(self._common) > MAX_COMMON * norm:
            return (
                f"its logits are {1 / (1 + self._common):.4g} times those of its output embedding "
                f"({percent(MAX_COMMON * norm)} more or less allowed in {kind})"
            )
        # a unit in the last place for each rounding: a value between two numbers may be rounded to either
        allowed = roundings * unit * self._size + FLOOR * self._size.square().mean().sqrt()
        beyond = self._difference > allowed
        if beyond.any():
            worst = int((self._difference - allowed).argmax())
            return (
                f"{int(beyond.any(0).sum())} of its {vocabulary} logits differ from its output embedding's, by up to "
                f"{self._difference.flatten()[worst]:.3g} ({allowed.flatten()[worst]:.2g} allowed in {kind})"
            )
        return None

    def product_fault(self, dtype: torch.dtype) -> str | None:
        """`fault` of a product in another order, of which only the norm is bounded; None: rounding explains it."""
        allowed = 4 * unit_of(dtype)
        return None if self.norm <= allowed and not self._ruled_out else _in_norm(self.norm, allowed, dtype_name(dtype))


def _in_norm(norm: float, allowed: float, kind: str) -> str:
    return (
        f"its logits differ from its output embedding's by {percent(norm)} in norm "
        f"({percent(allowed)} allowed in {kind})"
    )
