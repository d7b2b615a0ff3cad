"""How far two sets of logits are apart, and whether rounding explains it.

The same product, computed in another order, differs by rounding alone. Measured on GPT-2's shape with random
weights, SmolLM2-135M and Gemma-3-270M, with and without bfloat16 units of the processor:

    | a head's product in another order   | norm | largest, of the largest logit     | logits that differ |
    | bfloat16                            | 3e-5 | 5e-3 (one unit in the last place) | 0.01 %             |
    | bfloat16, a bias added afterwards   | 3e-3 | 7e-3                              | 50 %               |
    | float16                             | 1e-5 | 6e-4                              | 0.2 %              |
    | float32                             | 4e-7 | 1e-6                              | 90 %               |

So in 16 bits single logits move by a whole unit in the last place, while the norm hardly moves. But the norm overlooks
large changes of a few logits, such as suppressed tokens, and a small change that all logits share, such as a
temperature. `LogitDifference` measures all three.

    >>> exact = torch.linspace(-4, 4, 101).double()
    >>> LogitDifference(exact.bfloat16().double(), exact).fault(torch.bfloat16, 1) is None
    True
    >>> LogitDifference(1.01 * exact, exact).fault(torch.bfloat16, 1)
    "its logits differ from its output embedding's by 1 % in norm (0.391 % allowed in bfloat16)"
"""

import torch

MIN_UNIT = 1e-4
"""The smallest unit that is assumed: float32's own is 1e-7, but rounding errors of thousands of terms add up."""
NEAR_ZERO_TOLERANCE = 1e-4
"""The difference allowed to logits near zero, where terms cancel, relative to the logits' root mean square."""
MAX_SHARED_ERROR = 0.1
"""How much all logits together may be too large or too small, as a share of the allowed norm. Rounding goes both ways:
3e-8 was measured."""


def unit_of(dtype: torch.dtype) -> float:
    """The largest relative step between two neighbouring numbers: 2^-7 in bfloat16, 2^-10 in float16."""
    return max(torch.finfo(dtype).eps, MIN_UNIT)


def dtype_name(dtype: torch.dtype) -> str:
    """The name in configurations, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def percent(share: float) -> str:
    """A share in percent, to three digits."""
    return f"{100 * share:.3g} %"


class LogitDifference:
    """The difference between logits of a head and those of a model, both float64, [tokens, vocabulary] or [vocabulary].

    Args:
        logits: computed by the head.
        expected: computed by the model.

    Attributes:
        norm: the norm of the difference, relative to that of the model's logits.
    """

    def __init__(self, logits: torch.Tensor, expected: torch.Tensor) -> None:
        logits, expected = torch.atleast_2d(logits), torch.atleast_2d(expected)
        finite = expected.isfinite() & logits.isfinite()
        same = finite | (logits == expected) | (logits.isnan() & expected.isnan())
        self._one_sided = int((~same).any(0).sum())  # tokens whose logit is finite on one side only
        difference, size = torch.where(finite, logits - expected, 0.0), torch.where(finite, expected, 0.0)
        square = float(size.square().sum()) or 1.0  # all logits are zero: the difference is absolute
        self.norm = float(difference.norm()) / square**0.5
        self._shared_error = float((difference * size).sum()) / square  # 0.01: all logits are 1 % too large
        self._difference, self._size = difference.abs(), size.abs()

    def fault(self, dtype: torch.dtype, roundings: int) -> str | None:
        """What is wrong with the logits beyond `roundings` rounding errors of this element type; None if nothing is."""
        unit, kind, vocabulary = unit_of(dtype), dtype_name(dtype), self._size.shape[1]
        if self._one_sided:
            return (
                f"{self._one_sided} of its {vocabulary} logits are finite where those of its output embedding are not, "
                "or the reverse"
            )
        norm = roundings * unit / 2
        if self.norm > norm:
            return _in_norm(self.norm, norm, kind)
        if abs(self._shared_error) > MAX_SHARED_ERROR * norm:
            return (
                f"its logits are {1 / (1 + self._shared_error):.4g} times those of its output embedding "
                f"({percent(MAX_SHARED_ERROR * norm)} more or less allowed in {kind})"
            )
        # a unit in the last place for each rounding: a value between two numbers may be rounded to either
        allowed = roundings * unit * self._size + NEAR_ZERO_TOLERANCE * self._size.square().mean().sqrt()
        beyond = self._difference > allowed
        if beyond.any():
            worst = int((self._difference - allowed).argmax())
            return (
                f"{int(beyond.any(0).sum())} of its {vocabulary} logits differ from its output embedding's, by up to "
                f"{self._difference.flatten()[worst]:.3g} ({allowed.flatten()[worst]:.2g} allowed in {kind})"
            )
        return None

    def product_fault(self, dtype: torch.dtype) -> str | None:
        """`fault` for a product that was computed in another order, where only the norm can be bounded."""
        allowed = 4 * unit_of(dtype)
        return None if self.norm <= allowed and not self._one_sided else _in_norm(self.norm, allowed, dtype_name(dtype))


def _in_norm(norm: float, allowed: float, kind: str) -> str:
    return (
        f"its logits differ from its output embedding's by {percent(norm)} in norm "
        f"({percent(allowed)} allowed in {kind})"
    )
