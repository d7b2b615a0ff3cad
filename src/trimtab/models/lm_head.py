"""The output matrix of a language model, multiplied in slices of the vocabulary.

The logits of many rows over a large vocabulary are the largest tensor of a step. They are stored by token, the rows of
one token side by side: with so many more tokens than rows, CPU libraries multiply faster that way round. For
log-probabilities they are computed slice by slice, so that a slice stays in the processor's cache while it is reduced,
and [rows, vocabulary] never exists at once.

    >>> head = LMHead(torch.eye(2), bias=None)
    >>> head.log_normalizer(torch.zeros(1, 2))
    tensor([0.6931])
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import align_module_device
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.agreement import LogitDifference, dtype_name, unit_of
from trimtab.models.device import on_device
from trimtab.models.placement import input_device, offloaded

SLICE = 4096  # tokens of the vocabulary at a time: logits of 256 rows in float32 are 4 MB
MAX_ROWS = 512  # hidden states at a time
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Fields of configurations by which a family multiplies or divides its logits (Cohere, Granite, Falcon-H1)."""
FORWARD_ERRORS = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError)
"""What a model raises that cannot be called with token ids alone, or gives no logits."""
WEIGHT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Element types that `LMHead` multiplies with; others are codes of a quantisation."""


class LMHead:
    """Logits of hidden states [rows, width] under a weight [vocabulary, width] and an optional bias [vocabulary].

    They are multiplied by `scale`, and then kept within +-`cap` as cap * tanh(logit / cap) (Gemma 2).
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, scale: float = 1.0, cap: float | None = None
    ) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.scale, self.cap = scale, cap
        self.size = weight.shape[0]
        self._buffer = weight.new_empty(0)
        # on an accelerator one large product is faster than many small ones
        self._slice = SLICE if weight.device.type == "cpu" else self.size

    def narrowed(self, size: int) -> "LMHead":
        """The head of the first `size` tokens alone; it shares the weights."""
        other = copy.copy(self)
        other.size = size
        other._buffer = self.weight.new_empty(0)  # not shared: the logits of both may be in use at the same time
        return other

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

        The logits are float32 or wider, and may be a view of a buffer that the next ones overwrite.
        """
        for first in range(0, len(hidden), MAX_ROWS):
            rows = slice(first, min(first + MAX_ROWS, len(hidden)))
            columns = hidden[rows].t().contiguous()
            for start in range(0, self.size, self._slice):
                yield rows, start, _widen(self._by_token(columns, start, min(start + self._slice, self.size)))

    def logit_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logit of one token per row, [rows]; rounded as in `_by_token`, or a probability could exceed 1."""
        logit = (_widen(hidden) * _widen(self.weight[tokens])).sum(-1).to(self.weight.dtype)
        return _widen(self.scaled(logit if self.bias is None else logit + self.bias[tokens]))

    def log_probabilities(
        self, hidden: torch.Tensor, sources: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """log softmax of the logits of hidden[sources[n]] at the n-th of all tokens, given back row by row."""
        if not sources:
            return [[] for _ in tokens]
        index = on_device(sources, hidden.device)
        predicted = on_device([int(token) for row in tokens for token in row], hidden.device)
        return _by_row(self.logit_of(hidden[index], predicted) - self.log_normalizer(hidden)[index], tokens)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """The derivative of scaled and capped logits by those before scaling and capping."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)

    def _by_token(self, columns: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits [end - start, rows] of hidden states [width, rows], in the buffer."""
        shape = end - start, columns.shape[1]
        if self._buffer.numel() < shape[0] * shape[1]:
            self._buffer = columns.new_empty(shape[0] * shape[1])
        logits = torch.mm(self.weight[start:end], columns, out=self._buffer[: shape[0] * shape[1]].view(shape))
        return self.scaled(logits if self.bias is None else logits.add_(self.bias[start:end, None]))

    @property
    def roundings(self) -> int:
        """How often a logit is rounded: in the product, in scaling, and in each of a cap's three steps."""
        return 1 + (self.scale != 1) + 3 * (self.cap is not None)

    def scaled(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits scaled and capped, in place."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)


class ModelLogits:
    """Stands in for an `LMHead` where a model computes its logits in another way: takes the model's own logits."""

    def __init__(self, size: int) -> None:
        self.size = size

    def narrowed(self, size: int) -> "ModelLogits":
        return ModelLogits(size)

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, : self.size]

    def log_probabilities(
        self, logits: torch.Tensor, sources: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        logs = self.logits(logits).log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return _by_row(logs[list(sources), [int(token) for row in tokens for token in row]], tokens)


def _by_row(flat: torch.Tensor, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    """One number per token, cut into rows as the tokens are."""
    numbers = iter(flat.tolist())
    return [[next(numbers) for _ in row] for row in tokens]


@dataclass(frozen=True)
class FoundHead:
    """How a model computes logits from its body's output.

    Attributes:
        head: the head that computes the same logits; None where no `LMHead` does.
        reason: why there is no head, with the numbers that were compared; else empty.
        logits: the model's logits for `probe_ids`, computed in one pass without a cache, [tokens, vocabulary].
    """

    head: LMHead | None
    reason: str
    logits: torch.Tensor


def probe_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that a model is tested with: several, since the logits of a padding token may all be zero."""
    return list(range(min(8, model.get_input_embeddings().weight.shape[0])))


def head_of(model: PreTrainedModel) -> LMHead | None:
    """`find_head`'s head alone."""
    return find_head(model).head


@torch.inference_mode()
def find_head(model: PreTrainedModel) -> FoundHead:
    """Compare the model's logits of a few tokens with those that its output embedding gives for its body's output.

    The product is computed as the model does, in a call of the same shape. Calls of other shapes would round
    differently in 16 bits, and that difference would have to be allowed for.

    No head is returned for a class that overrides its family's `forward`: a few tokens do not show all that it does.

    Raises:
        ModelError: it has no output embedding, cannot be called with token ids alone, or its logits are not numbers.
    """
    output = model.get_output_embeddings()
    name = model.config._name_or_path or "the model"
    if not isinstance(output, torch.nn.Linear):
        raise ModelError(f"{name} is no causal language model: it has no output embedding")
    try:
        logits, hidden = _one_pass(model)
    except torch.OutOfMemoryError:
        raise
    except FORWARD_ERRORS as error:
        message = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{name} cannot be run as a causal language model ({type(error).__name__}: {message}): give one that takes "
            "input_ids and use_cache, and gives logits"
        ) from None
    if len(logits) != hidden.shape[1]:
        raise ModelError(
            f"{name} gives logits of {len(logits)} of {hidden.shape[1]} tokens: have its forward give those of all "
            "(logits_to_keep=0)"
        )
    if not logits.isfinite().any():
        raise ModelError(f"{name}'s logits are not numbers: set its dtype to float32 or bfloat16, or mend its weights")
    with align_module_device(output):  # it may have been offloaded
        weight, bias = output.weight.detach(), None if output.bias is None else output.bias.detach()
        if offloaded(output):
            weight, bias = weight.clone(), None if bias is None else bias.clone()
    if weight.dtype not in WEIGHT_TYPES:
        return FoundHead(None, f"the weights of its output embedding are stored as {dtype_name(weight.dtype)}", logits)
    hidden = hidden.to(weight.device, weight.dtype)
    raw = functional.linear(hidden, weight, bias)[0].double()
    coarsest = max((weight.dtype, logits.dtype), key=unit_of)
    expected, faults = logits.to(raw.device).double(), []
    for head in _candidate_heads(weight, bias, model.config.get_text_config()):
        difference = LogitDifference(head.scaled(raw.clone()), expected)
        fault = difference.fault(coarsest, head.roundings)
        if fault is None:
            fault = LogitDifference(head.logits(hidden[0]).double(), expected).product_fault(coarsest)
        if fault is None:
            fault = _overridden(model)
            return FoundHead(None if fault else head, fault, logits)
        faults.append((difference.norm, fault))
    return FoundHead(None, min(faults)[1], logits)


def _one_pass(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [tokens, vocabulary] of `probe_ids`, and the body's output [1, tokens, width] that they come from."""
    ids = torch.tensor([probe_ids(model)], device=input_device(model))
    outputs: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda body, _, output: outputs.append(output.last_hidden_state))
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        hook.remove()
    if not outputs:  # some call only a part of the body (OPT)
        outputs.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return logits, outputs[-1]


def _overridden(model: PreTrainedModel) -> str:
    """Why a model's class may change its logits: it is derived from a family's class and overrides `forward`."""
    classes = [kind for kind in type(model).__mro__ if issubclass(kind, PreTrainedModel) and "forward" in vars(kind)]
    if len(classes) > 1 and not classes[0].__module__.startswith("transformers."):
        return f"its class {classes[0].__name__} overrides forward and may change its logits"
    return ""


def _candidate_heads(weight: torch.Tensor, bias: torch.Tensor | None, config: PretrainedConfig) -> Iterator[LMHead]:
    """The heads that a model may have: one without a scale; then, for each scale in its configuration, one that
    multiplies by it and one that divides by it. All cap their logits where the configuration says so."""
    settings = config.to_dict()
    cap = settings.get("final_logit_softcapping")
    yield LMHead(weight, bias, cap=cap)
    for name in SCALES:
        if settings.get(name):
            yield LMHead(weight, bias, float(settings[name]), cap)
            yield LMHead(weight, bias, 1 / float(settings[name]), cap)


def _widen(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
