"""The forward pass of preference tuning (and of fine-tuning without packing), which computes only what the loss needs.

It replaces the forward pass with TRL's fused head: it is called in the same way and returns the same output. Logits are
computed only at the response's positions, in tiles that stay in the processor's cache. Where the lowest layers are not
trained, their output for a batch is computed once and kept.
"""

from collections import deque
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from trimtab.models.lm_head import LMHead
from trimtab.models.shared_layers import recalling_body, recording_body

MAX_KEPT_BYTES = 1 << 30  # of the lowest layers' outputs; batches beyond this are computed each time


class PairForward:
    """The forward pass of one model.

    Args:
        frozen_layers: how many of the lowest layers are not trained. If any, the embeddings are not trained either.
        scale: factor of the logits, as in `LMHead`.
        cap: largest absolute logit, as in `LMHead`; None where logits are not capped.
    """

    def __init__(
        self, model: PreTrainedModel, frozen_layers: int, scale: float = 1.0, cap: float | None = None
    ) -> None:
        self._model = model
        self._scale, self._cap = scale, cap
        self._plain = model.forward
        self._kept: dict[tuple[bytes, bytes], torch.Tensor] = {}
        self._room = MAX_KEPT_BYTES
        self._lower_output: deque[torch.Tensor] = deque()
        self._whole = self._upper = model.base_model
        if frozen_layers:
            self._whole = recording_body(model, frozen_layers, self._lower_output)
            self._upper = recalling_body(model, frozen_layers, self._lower_output)

    def install(self) -> None:
        """Make this the model's forward pass wherever it is called with `fused_lm_head=True`."""
        self._model.forward = self

    def forget(self) -> None:
        """Free the lower layers' outputs, which are not needed once training has ended."""
        self._kept.clear()
        self._room = MAX_KEPT_BYTES

    def __call__(
        self, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """As TRL's `add_fused_lm_head`: per-token fields [rows, tokens - 1], 0 where the next label is -100."""
        if not fused_lm_head or labels is None:
            return self._plain(*args, labels=labels, **kwargs)
        mask = labels[:, 1:] != -100
        head = self._model.get_output_embeddings()
        # under autocast the last norm may return float32; the head multiplies in the type of its weights
        hidden = self._hidden(**kwargs)[:, :-1][mask].to(head.weight.dtype)
        statistics = HeadStatistics.apply(hidden, head.weight, head.bias, labels[:, 1:][mask], self._scale, self._cap)
        fields = [values.new_zeros(mask.shape).masked_scatter(mask, values) for values in statistics]
        names = ("log_probs", "entropy", "mean_logits", "is_top1")
        loss = -fields[0].sum() / mask.sum().clamp(min=1)
        return FusedCausalLMOutput(loss=loss, label_mask=mask, **dict(zip(names, fields, strict=True)))

    def _hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The body's output, [rows, tokens, width]; from the kept output of the frozen layers where there is one."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        if self._whole is self._upper:
            return self._whole(**batch).last_hidden_state
        self._lower_output.clear()  # an error may have left the output of an earlier pass
        key = (input_ids.cpu().numpy().tobytes(), attention_mask.cpu().numpy().tobytes())
        if key in self._kept:
            self._lower_output.append(self._kept[key])
            return self._upper(**batch).last_hidden_state
        hidden = self._whole(**batch).last_hidden_state
        lower = self._lower_output.popleft().detach()
        if lower.nbytes <= self._room:
            self._kept[key], self._room = lower, self._room - lower.nbytes
        return hidden


class HeadStatistics(torch.autograd.Function):
    """Statistics of the logits hidden @ weight.T: the target's log-probability, the entropy, the mean, and whether the
    target's logit is the largest.

    All [tokens], float32 or wider, entropy in nats; only the log-probability has a gradient:
    d log p_t / d z_j = [j = t] - p_j, for which tiles of the logits are computed again rather than kept. Logits are
    scaled and capped as `LMHead` says.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float = 1.0,
        cap: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        largest = torch.full((len(hidden),), torch.finfo(wide).min, dtype=wide, device=hidden.device)
        mass, moment, total, target = (torch.zeros_like(largest) for _ in range(4))
        for rows, start, logits in LMHead(weight, bias, scale, cap).slices(hidden):
            token, column = _inside(targets[rows], start, len(logits))
            target[rows] = target[rows].index_put((column,), logits[token, column])
            total[rows] += logits.sum(0)
            before, now = largest[rows], torch.maximum(largest[rows], logits.amax(0))
            shrink = (before - now).exp()
            powers = (logits - now).exp_()
            mass[rows] = mass[rows] * shrink + powers.sum(0)
            moment[rows] = moment[rows] * shrink + powers.mul_(logits).sum(0)
            largest[rows] = now
        normalizer = mass.log() + largest
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.shape = scale, cap
        entropy, mean, is_top1 = normalizer - moment / mass, total / len(weight), target >= largest
        ctx.mark_non_differentiable(entropy, mean, is_top1)
        return target - normalizer, entropy, mean, is_top1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(tensor, dtype=normalizer.dtype) if needed else None
            for tensor, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        head = LMHead(weight, bias, *ctx.shape)
        for rows, start, logits in head.slices(hidden):
            slope = head.slope(logits)
            of_logits = logits.sub_(normalizer[rows]).exp_().mul_(-gradient[rows])
            token, column = _inside(targets[rows], start, len(of_logits))
            of_logits[token, column] += gradient[rows][column]
            of_logits *= slope
            if of_bias is not None:
                of_bias[start : start + len(of_logits)] += of_logits.sum(1)
            narrow = of_logits.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[rows] += narrow.t() @ weight[start : start + len(of_logits)]
            if of_weight is not None:
                of_weight[start : start + len(of_logits)] += narrow @ hidden[rows]
        gradients = zip((of_hidden, of_weight, of_bias), (hidden, weight, bias), strict=True)
        narrowed = [None if wide is None else wide.to(tensor.dtype) for wide, tensor in gradients]
        return *narrowed, None, None, None


def _inside(targets: torch.Tensor, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets among the `size` tokens from `start` on: their tokens, counted from `start`, and their indices."""
    index = ((targets >= start) & (targets < start + size)).nonzero().squeeze(1)
    return targets[index] - start, index
