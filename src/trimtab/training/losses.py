"""The losses of preference tuning: trimtab's own, and those that plug-ins add.

A loss is a function of log-ratios, log p(response) - log p_ref(response) in nats, where p is the model in training and
p_ref the untuned one. It gives one number for each pair, and the mean over the pairs is minimised.

    >>> import torch
    >>> hinge(torch.tensor([2.0]), torch.tensor([0.0]), beta=0.25)
    tensor([0.5000])
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.errors import ModelError, TrimtabError
from trimtab.plugins.registry import Entry, Registry
from trimtab.plugins.user_errors import fault_in

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Loss(Entry):
    """`function(chosen_logratios, rejected_logratios, beta) -> losses`, tensors [pairs] of the batch; a pair's loss may
    depend on this pair alone. `with_likelihood` adds `tune.sft_weight` times the mean of -log p(token) over the tokens
    of the chosen responses, in nats. `tag` marks the tuned model on the hub."""

    with_likelihood: bool = False
    tag: str = ""

    def of_pairs(self, chosen_logratios: "Tensor", rejected_logratios: "Tensor", beta: float) -> "Tensor":
        """The loss of each pair, [pairs].

        Raises:
            ModelError: a plug-in's function fails, or returns anything but such a tensor with a gradient.
        """
        import torch

        if self.own:
            losses: Tensor = self.function(chosen_logratios, rejected_logratios, beta)
            return losses
        try:
            losses = self.function(chosen_logratios, rejected_logratios, beta)
        except (TrimtabError, MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            raise ModelError(f"the loss {self.origin} failed {fault_in(error)}: mend it") from error
        expected = chosen_logratios.shape
        if not isinstance(losses, torch.Tensor) or losses.shape != expected or not losses.is_floating_point():
            what = f"{losses.dtype} {list(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise ModelError(
                f"the loss {self.origin} returned {what} for {len(chosen_logratios)} pairs: "
                f"return a float tensor {list(expected)}, one loss for each pair"
            )
        if chosen_logratios.requires_grad and not losses.requires_grad:
            raise ModelError(f"the loss {self.origin} has no gradient: compute it from the log-ratios by torch alone")
        return losses


def sigmoid(chosen_logratios: "Tensor", rejected_logratios: "Tensor", beta: float) -> "Tensor":
    """-log sigmoid(beta (chosen - rejected)): DPO, Rafailov et al. 2023, equation 7."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen_logratios - rejected_logratios))


def hinge(chosen_logratios: "Tensor", rejected_logratios: "Tensor", beta: float) -> "Tensor":
    """max(0, 1 - beta (chosen - rejected)): the calibration term of SLiC-HF, Zhao et al. 2023, equation 1.

    The paper compares log-probabilities, not log-ratios, and its margin delta is 1 / beta here.
    """
    return (1 - beta * (chosen_logratios - rejected_logratios)).relu()


LOSSES: Registry[Loss] = Registry("loss", arguments=("chosen_logratios", "rejected_logratios", "beta"))
LOSSES.add(
    Loss(
        name="sigmoid",
        function=sigmoid,
        words="DPO",
        paper="Rafailov et al. 2023, arXiv 2305.18290",
        limits="Its gradient never vanishes: likelihoods of both responses may fall as long as the margin grows.",
        tag="dpo",
        also=("dpo",),
    )
)
LOSSES.add(
    Loss(
        name="hinge",
        function=hinge,
        words="SLiC-HF's hinge loss",
        paper="Zhao et al. 2023, arXiv 2305.10425",
        limits="A pair whose margin has reached 1 / beta nats is learned from no more.",
        tag="slic-hf",
        also=("slic", "slic-hf"),
    )
)
LOSSES.add(
    Loss(
        name="hinge_sft",
        function=hinge,
        words="SLiC-HF's hinge loss with its likelihood term",
        paper="Zhao et al. 2023, arXiv 2305.10425",
        limits="The likelihood term raises the chosen responses themselves, however good; `sft_weight` weighs it.",
        tag="slic-hf",
        with_likelihood=True,
    )
)
