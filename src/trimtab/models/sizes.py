"""How large a model is, read from the headers of its files without loading any weights."""

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.hardware import default_device, pick_dtype

QUANTIZED_BYTES = {"4bit": 0.53, "8bit": 1.02}  # of a weight, with its share of the scales


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        weights: how many it has.
        weight_bytes: of one weight that is not quantised.
        token_bytes: of the keys and values of one token.
        tables: weights of the embeddings and the head, which are never quantised and never offloaded.
        config: how the other weights are stored, and where.
    """

    weights: int
    weight_bytes: int
    token_bytes: int
    vocabulary: int
    layers: int
    width: int
    tables: int
    config: ModelConfig

    @property
    def bytes(self) -> float:
        """What the weights take on the device that the model runs on."""
        gpu = default_device().type == "cuda"
        if self.config.device_map == "disk" or (self.config.device_map == "cpu" and gpu):
            return self.tables * self.weight_bytes
        return self.stored(self.config.quantization)

    @property
    def host_bytes(self) -> float:
        """What weights that are offloaded to the host's memory take there."""
        return self.stored(self.config.quantization) if self.config.device_map == "cpu" else 0.0

    def stored(self, quantization: str | None) -> float:
        """Bytes of all weights under a quantisation."""
        quantized = self.weight_bytes if quantization is None else QUANTIZED_BYTES[quantization]
        return self.tables * self.weight_bytes + (self.weights - self.tables) * quantized


def model_sizes(model: ModelConfig, assets: Assets) -> Sizes:
    """The sizes of a model, all 0 for one behind an endpoint, which takes no memory here."""
    if model.endpoint is not None:
        return Sizes(0, 0, 0, 0, 0, 0, 0, model)
    folder = assets.model(model.name, allow_pickle=model.allow_pickle)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    settings = config.to_dict()
    heads = config.num_attention_heads
    key_heads = settings.get("num_key_value_heads") or heads
    dimension = settings.get("head_dim") or config.hidden_size // heads
    weight_bytes = pick_dtype(model.dtype, default_device()).itemsize
    tables = config.vocab_size * config.hidden_size * (1 if settings.get("tie_word_embeddings", True) else 2)
    weights = _count_weights(folder)
    return Sizes(
        weights=weights,
        weight_bytes=weight_bytes,
        token_bytes=2 * config.num_hidden_layers * key_heads * dimension * weight_bytes,
        vocabulary=config.vocab_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        tables=min(tables, weights),
        config=model,
    )


def _count_weights(folder: Path) -> int:
    """The weights in the files of a folder; pickles, which are not opened, count one for every two bytes."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count or sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
