"""Where the parts of a model lie: on one device, spread over several, or left in memory or on a disk until they run.

Knows nothing of what is computed.

    >>> input_device(model)                                                             # doctest: +SKIP
    device(type='cpu')
"""

import torch
from accelerate.utils.modeling import has_offloaded_params
from transformers import PreTrainedModel


def input_device(model: PreTrainedModel) -> torch.device:
    """The device that a model's token ids are wanted on."""
    embedding = model.get_input_embeddings()
    return torch.device(embedding._hf_hook.execution_device) if offloaded(embedding) else embedding.weight.device


def offloaded(module: torch.nn.Module) -> bool:
    """Whether a module's own weights come to its device only while it runs."""
    return bool(has_offloaded_params(module))
