"""What a model has done: tokens read, and the FLOPs of the weights that each was multiplied with.

>>> work = Work()
>>> work.tokens, work.flops
(0, 0.0)
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass
class Work:
    """What a model has done so far: tokens read and forward FLOPs."""

    tokens: int = 0
    flops: float = 0.0


def body_weights(model: PreTrainedModel) -> int:
    """How many weights a token is multiplied with: all but those that only look tokens up, and the head's."""
    tables = {
        id(module.weight): module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    head = model.get_output_embeddings()
    return model.num_parameters() - sum({**tables, id(head.weight): head.weight.numel()}.values())
