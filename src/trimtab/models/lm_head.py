"""The last matrix of a language model, applied in slices of the vocabulary.

The logits of many rows over a large vocabulary are the largest tensor of a step. They are stored by token, the rows of
one token side by side: with so many more tokens than rows, CPU libraries multiply faster that way round. For
log-probabilities they are taken slice by slice, so that a slice stays in the processor's cache while it is reduced, and
rows x vocabulary never stands at once.

    >>> head = head_of(model)                                                           # doctest: +SKIP
    >>> head.log_normalizer(hidden)                                                     # doctest: +SKIP
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import align_module_device
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.agreement import LogitsApart, dtype_name, unit_of
from trimtab.models.device import on_device
from trimtab.models.placement import input_device, offloaded

SLICE = 4096  # columns of the vocabulary at a time: 256 rows of them in float32 are 4 MB
ROWS = 512
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Fields of configurations by which logits are multiplied, or divided (Cohere, Granite, Falcon-H1)."""
UNCALLABLE = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError)
"""What a model raises that cannot be called with token ids alone, or gives no logits."""
MULTIPLIED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Element types of weights that `LMHead` multiplies with; others are codes of a quantisation."""


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
        other._buffer = self.weight.new_empty(0)  # one of its own: the logits of both may be needed at once
        return other

    @property
    def device(self) -> torch.device:
        return self.weight.device

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
        return _widen(self.shaped(logit if self.bias is None else logit + self.bias[tokens]))

    def log_probabilities(
        self, hidden: torch.Tensor, sources: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """log softmax of the logits of hidden[sources[n]] at the n-th of all tokens, given back row by row."""
        if not sources:
            return [[] for _ in tokens]
        index = on_device(sources, hidden.device)
        wanted = on_device([int(token) for row in tokens for token in row], hidden.device)
        values = iter((self.logit_of(hidden[index], wanted) - self.log_normalizer(hidden)[index]).tolist())
        return [[next(values) for _ in row] for row in tokens]

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """The derivative of these logits by what weight and bias give, whose scaled and capped selves they are."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)

    def _by_token(self, columns: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits [end - start, rows] of hidden states [width, rows], in the buffer."""
        shape = end - start, columns.shape[1]
        if self._buffer.numel() < shape[0] * shape[1]:
            self._buffer = columns.new_empty(shape[0] * shape[1])
        logits = torch.mm(self.weight[start:end], columns, out=self._buffer[: shape[0] * shape[1]].view(shape))
        return self.shaped(logits if self.bias is None else logits.add_(self.bias[start:end, None]))

    @property
    def roundings(self) -> int:
        """How often a logit is rounded: in the product, in scaling, and in each of a cap's three steps."""
        return 1 + (self.scale != 1) + 3 * (self.cap is not None)

    def shaped(self, logits: torch.Tensor) -> torch.Tensor:
        """What a model does to its logits behind the head, in place."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)


@torch.inference_mode()
def check_numbers(model: PreTrainedModel) -> None:
    """Raise ModelError where a model's logits are no numbers."""
    probe = torch.zeros(1, 2, dtype=torch.long, device=input_device(model))
    if not model(input_ids=probe, use_cache=False).logits.isfinite().any():
        name = model.config._name_or_path
        raise ModelError(f"{name}'s logits are not numbers: set its dtype to float32 or bfloat16, or mend its weights")


@dataclass(frozen=True)
class FoundHead:
    """What a model does to the output of its body.

    Attributes:
        head: its head; None where the model does something to its logits that `LMHead` does not know.
        reason: why there is none, with the numbers that were compared.
        logits: the model's own of the tokens `probe_ids`, read in one pass without a cache, [tokens, vocabulary].
    """

    head: LMHead | None
    reason: str
    logits: torch.Tensor


def probe_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that a model is tried with: several, since a padding token alone may have logits that are all zero."""
    return list(range(min(8, model.get_input_embeddings().weight.shape[0])))


def head_of(model: PreTrainedModel) -> LMHead | None:
    """The head whose logits are the model's; None where the model does something else to them.

    Raises:
        ModelError: it has no output embedding.
    """
    return find_head(model).head


@torch.inference_mode()
def find_head(model: PreTrainedModel) -> FoundHead:
    """Compare the model's logits of a few tokens with those that its output embedding gives of its body's output.

    They are multiplied as a model multiplies them, in a call of the same shape. Two calls of other shapes would round
    differently in 16 bits, and the difference would have to be allowed for.

    Where the model's class overrides its family's forward there is none: a few tokens do not show all that it does.

    Raises:
        ModelError: it has no output embedding, or cannot be called with token ids alone.
    """
    output = model.get_output_embeddings()
    name = model.config._name_or_path or "the model"
    if not isinstance(output, torch.nn.Linear):
        raise ModelError(f"{name} is no causal language model: it has no output embedding")
    try:
        logits, hidden = _one_pass(model)
    except torch.OutOfMemoryError:
        raise
    except UNCALLABLE as error:
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{name} cannot be run as a causal language model ({type(error).__name__}: {said}): give one that takes "
            "input_ids and use_cache, and gives logits"
        ) from None
    if len(logits) != hidden.shape[1]:
        raise ModelError(
            f"{name} gives logits of {len(logits)} of {hidden.shape[1]} tokens: have its forward give those of all "
            "(logits_to_keep=0)"
        )
    if not logits.isfinite().any():
        return FoundHead(None, "its logits are not numbers", logits)
    with align_module_device(output):  # it may have been left in memory or on a disk, off the device
        weight, bias = output.weight.detach(), None if output.bias is None else output.bias.detach()
        weight, bias = (weight.clone(), None if bias is None else bias.clone()) if offloaded(output) else (weight, bias)
    if weight.dtype not in MULTIPLIED:
        return FoundHead(None, f"the weights of its output embedding are stored as {dtype_name(weight.dtype)}", logits)
    hidden = hidden.to(weight.device, weight.dtype)
    raw = functional.linear(hidden, weight, bias)[0].double()
    coarsest = max((weight.dtype, logits.dtype), key=unit_of)
    expected, faults = logits.to(raw.device).double(), []
    for head in _candidates(weight, bias, model.config.get_text_config()):
        apart = LogitsApart.of(head.shaped(raw.clone()), expected)
        fault = apart.fault(coarsest, head.roundings)
        if fault is None:
            fault = LogitsApart.of(head.logits(hidden[0]).double(), expected).product_fault(coarsest)
        if fault is None:
            fault = _overridden(model)
            return FoundHead(None if fault else head, fault, logits)
        faults.append((apart.norm, fault))
    return FoundHead(None, min(faults)[1], logits)


def _one_pass(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [tokens, vocabulary] of `probe_ids`, and the body's output [1, tokens, width] that they are made of."""
    ids = torch.tensor([probe_ids(model)], device=input_device(model))
    outputs: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda body, _, output: outputs.append(output.last_hidden_state))
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        hook.remove()
    if not outputs:  # some call a part of it alone (OPT)
        outputs.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return logits, outputs[-1]


def _overridden(model: PreTrainedModel) -> str:
    """Why the class of a model may change its logits: it is derived from a family's, and overrides `forward`."""
    with_forward = [
        kind for kind in type(model).__mro__ if issubclass(kind, PreTrainedModel) and "forward" in vars(kind)
    ]
    if len(with_forward) > 1 and not with_forward[0].__module__.startswith("transformers."):
        return f"its class {with_forward[0].__name__} overrides forward and may change its logits"
    return ""


def _candidates(weight: torch.Tensor, bias: torch.Tensor | None, config: PretrainedConfig) -> Iterator[LMHead]:
    written = config.to_dict()
    cap = written.get("final_logit_softcapping")
    yield LMHead(weight, bias, cap=cap)
    for name in SCALES:
        if written.get(name):
            yield LMHead(weight, bias, float(written[name]), cap)
            yield LMHead(weight, bias, 1 / float(written[name]), cap)


def _widen(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
