"""The last matrix of a language model, applied in slices of the vocabulary.

The logits of many rows over a large vocabulary are the largest tensor of a step. They are stored by token, the rows of
one token side by side: with so many more tokens than rows, CPU libraries multiply faster that way round. For
log-probabilities they are taken slice by slice, so that a slice stays in the processor's cache while it is reduced, and
rows x vocabulary never stands at once.

    >>> head = Head(weight, bias=None)                                                  # doctest: +SKIP
    >>> head.log_normalizer(hidden)                                                     # doctest: +SKIP
"""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

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
        """[rows, vocabulary], a view of a buffer that the next call overwrites."""
        return self._by_token(hidden.t().contiguous(), 0, self.size).t()

    def log_normalizer(self, hidden: torch.Tensor) -> torch.Tensor:
        """log sum exp of each row's logits, [rows], accumulated in float32 or wider."""
        total = _widen(hidden.new_zeros(len(hidden)))
        # GPT-2's logits lie about -100: from 0 on, the first slice would shrink nothing by exp(100), which is infinite
        largest = torch.full_like(total, torch.finfo(total.dtype).min)
        for rows, _, logits in self.slices(hidden):
            now = torch.maximum(largest[rows], logits.amax(0))
            total[rows] = total[rows] * (largest[rows] - now).exp() + logits.sub_(now).exp_().sum(0)
            largest[rows] = now
        return total.log() + largest

    def slices(self, hidden: torch.Tensor) -> Iterator[tuple[slice, int, torch.Tensor]]:
        """Some rows of `hidden`, the first token of a slice of the vocabulary, and their logits [slice, rows].

        The logits are float32 or wider, and may stand in a buffer that the next ones overwrite.
        """
        for first in range(0, len(hidden), ROWS):
            rows = slice(first, min(first + ROWS, len(hidden)))
            columns = hidden[rows].t().contiguous()
            for start in range(0, self.size, self._slice):
                yield rows, start, _widen(self._by_token(columns, start, min(start + self._slice, self.size)))

    def logit_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logit of one token a row, [rows]; rounded as `_by_token` rounds, lest a probability exceed 1."""
        logit = (_widen(hidden) * _widen(self.weight[tokens])).sum(-1).to(self.weight.dtype)
        return _widen(logit if self.bias is None else logit + self.bias[tokens])

    def _by_token(self, columns: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits [end - start, rows] of hidden states [width, rows], in the buffer."""
        shape = end - start, columns.shape[1]
        if self._buffer.numel() < shape[0] * shape[1]:
            self._buffer = columns.new_empty(shape[0] * shape[1])
        logits = torch.mm(self.weight[start:end], columns, out=self._buffer[: shape[0] * shape[1]].view(shape))
        return logits if self.bias is None else logits.add_(self.bias[start:end, None])


@torch.inference_mode()
def plain_head(model: PreTrainedModel) -> torch.nn.Linear | None:
    """The output embedding of a model whose logits are this applied to its body's output, found by trying.

    None where there is none, or where the model scales or caps its logits behind it.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return None
    # several tokens: a padding token alone is all zeros, and so would be its logits, however they are scaled
    probe = torch.arange(min(8, head.weight.shape[0]), device=model.device)[None]
    expected = model(input_ids=probe, use_cache=False).logits
    found = head(model.base_model(input_ids=probe, use_cache=False).last_hidden_state)
    close = 1e-3 * float(expected.abs().max().nan_to_num(0.0))  # of whatever size they are
    return head if torch.allclose(expected.float(), found.float(), rtol=1e-3, atol=close) else None


def _widen(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
