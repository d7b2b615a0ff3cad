"""How many tokens a transformers model can read."""

import sys

from transformers import PreTrainedModel

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")  # of configurations


def context_of(model: PreTrainedModel) -> int:
    """The number of tokens that the model can read; `sys.maxsize` where its positions have no limit (ALiBi)."""
    config = model.config.get_text_config().to_dict()
    return next((int(config[name]) for name in CONTEXT_FIELDS if config.get(name)), sys.maxsize)
