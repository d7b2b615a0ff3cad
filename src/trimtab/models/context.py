"""How many tokens a transformers model can read.

>>> context_of(GPT2LMHeadModel(GPT2Config(n_positions=1024)))                       # doctest: +SKIP
1024
"""

import sys

from transformers import PreTrainedModel

CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Fields of configurations that say it."""


def context_of(model: PreTrainedModel) -> int:
    """Tokens that the model can read; `sys.maxsize` where it counts none (ALiBi)."""
    written = model.config.get_text_config().to_dict()
    return next((int(written[name]) for name in CONTEXTS if written.get(name)), sys.maxsize)
