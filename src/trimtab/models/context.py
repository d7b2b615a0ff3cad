"""How many tokens a transformers model can read."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")  # of configurations


def context_of(model: "PreTrainedModel") -> int:
    """The number of tokens that the model can read; `sys.maxsize` where its positions have no limit (ALiBi)."""
    return context_in(model.config)


def context_in(config: "PreTrainedConfig") -> int:
    """`context_of` the model that has this configuration."""
    values = config.get_text_config().to_dict()
    return next((int(values[name]) for name in CONTEXT_FIELDS if values.get(name)), sys.maxsize)
