"""The last matrix of a language model, applied in slices of the vocabulary.

The logits of many rows over a large vocabulary are the largest tensor of a step. Taken slice by slice, a slice stays in
the processor's cache while it is reduced, and log-probabilities never need rows x vocabulary at once.

    >>> head = Head(weight, bias=None)                                                  # doctest: +SKIP
    >>> head.log_normalizer(hidden)                                                     # doctest: +SKIP
"""

import torch
from torch.nn import functional

SLICE = 4096  # columns of the vocabulary at a time: 256 rows of them in float32 are 4 MB
ROWS = 512


class Head:
    """Logits of hidden states [rows, width] under a weight [vocabulary, width] and an optional bias [vocabulary]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.size = weight.shape[0]
        self._buffer = weight.new_empty(0)
        # on an accelerator one large product is faster than many small ones
        self._slice = SLICE if weight.device.type == "cpu" else self.size

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary], in a buffer that the next call overwrites."""
        if self._buffer.numel() < hidden.shape[0] * self.size:
            self._buffer = hidden.new_empty(hidden.shape[0] * self.size)
        logits = self._buffer[: hidden.shape[0] * self.size].view(hidden.shape[0], self.size)
        for start in range(0, self.size, self._slice):
            logits[:, start : start + self._slice] = self._linear(hidden, start)
        return logits

    def log_normalizer(self, hidden: torch.Tensor) -> torch.Tensor:
        """log sum exp of each row's logits, [rows], accumulated in float32 or wider."""
        if hidden.shape[0] > ROWS:
            return torch.cat([self.log_normalizer(part) for part in hidden.split(ROWS)])
        total: torch.Tensor | None = None
        for start in range(0, self.size, self._slice):
            part = torch.logsumexp(_widen(self._linear(hidden, start)), dim=-1)
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None
        return total

    def logit_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logit of one token a row, [rows]."""
        logit = (_widen(hidden) * _widen(self.weight[tokens])).sum(-1)
        return logit if self.bias is None else logit + _widen(self.bias[tokens])

    def _linear(self, hidden: torch.Tensor, start: int) -> torch.Tensor:
        bias = None if self.bias is None else self.bias[start : start + self._slice]
        return functional.linear(hidden, self.weight[start : start + self._slice], bias)


def _widen(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
