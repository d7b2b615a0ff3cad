"""The parts of a sequence classifier: which layers can be frozen, what is the head, and calibrating the head."""

import torch
from torch import nn
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.training.calibration import Calibration


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Keep the embeddings and the lowest `layers` layers from training.

    Raises:
        ModelError: `layers` is not 0 and the encoder is not built like BERT, or has no more than `layers` layers.
    """
    model.get_input_embeddings().requires_grad_(False)
    if layers == 0:
        return
    try:
        embeddings = model.base_model.get_submodule("embeddings")
        stack = list(model.base_model.get_submodule("encoder.layer").children())
    except AttributeError:
        raise ModelError(
            f"a {model.config.model_type} model has no encoder.layer to freeze: set reward.training.frozen_layers to 0"
        ) from None
    if layers >= len(stack):
        raise ModelError(f"reward.training.frozen_layers is {layers} of {len(stack)} layers: leave at least 1 to train")
    for module in (embeddings, *stack[:layers]):
        module.requires_grad_(False)


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is above the encoder's layers: these start almost untrained and have their own learning rate."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the two logits.

    Raises:
        ModelError: the model ends in something else, or in a layer without bias.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    if last.out_features != 2 or last.bias is None:
        raise ModelError(
            f"the classification head of a {model.config.model_type} model has no bias to calibrate: give reward.model "
            "an encoder such as BERT"
        )
    return last


@torch.no_grad()
def calibrate_head(model: PreTrainedModel, calibration: Calibration) -> None:
    """Fold a calibration into the head: half of the bias goes to the positive logit, minus half to the negative."""
    head = head_of(model)
    head.weight.div_(calibration.temperature)
    head.bias.div_(calibration.temperature)
    head.bias.add_(torch.tensor([-0.5, 0.5]).to(head.bias), alpha=calibration.bias)
