"""How large a model is, read from the heads of its files without any weights.

>>> model_sizes(ModelConfig(name="google/gemma-3-270m"), Assets()).vocabulary        # doctest: +SKIP
262144
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.hardware import default_device, pick_dtype

STORED = {"4bit": 0.53, "8bit": 1.02}  # bytes of a quantised weight, with its share of the scales


@dataclass(frozen=True)
class Sizes:
    """A model: weights, bytes of one of them, and of the keys and values of one token; vocabulary, layers, width.

    `tables` of the weights are embeddings and head, which are never quantised and never wait. `config` says how the
    others are stored, and where.
    """

    weights: int
    element: int
    token: int
    vocabulary: int
    layers: int
    width: int
    tables: int
    config: ModelConfig

    @property
    def bytes(self) -> float:
        """What it takes of the memory of the device that it runs on."""
        waits = self.config.device_map == "disk" or (
            self.config.device_map == "cpu" and default_device().type == "cuda"
        )
        return self.tables * self.element if waits else self.stored(self.config.quantization)

    @property
    def waiting(self) -> float:
        """What it takes of the host's memory besides, until it runs."""
        return self.stored(self.config.quantization) if self.config.device_map == "cpu" else 0.0

    def stored(self, quantization: str | None) -> float:
        """Bytes of all weights, in so many bits."""
        each = self.element if quantization is None else STORED[quantization]
        return self.tables * self.element + (self.weights - self.tables) * each


ELSEWHERE = Sizes(0, 0, 0, 0, 0, 0, 0, ModelConfig(name="elsewhere"))
"""A model behind an endpoint takes nothing here."""


def model_sizes(model: ModelConfig, assets: Assets) -> Sizes:
    """The sizes of a model, from the heads of its files; none of one behind an endpoint."""
    if model.endpoint is not None:
        return ELSEWHERE
    folder = assets.model(model.name, allow_pickle=model.allow_pickle)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    heads = config.num_attention_heads
    written = config.to_dict()
    key_heads = written.get("num_key_value_heads") or heads
    dimension = written.get("head_dim") or config.hidden_size // heads
    element = pick_dtype(model.dtype, default_device()).itemsize
    layers = config.num_hidden_layers
    token = 2 * layers * key_heads * dimension * element
    tables = config.vocab_size * config.hidden_size * (1 if written.get("tie_word_embeddings", True) else 2)
    weights = _weights(folder)
    return Sizes(
        weights, element, token, config.vocab_size, layers, config.hidden_size, min(tables, weights), config=model
    )


def _weights(folder: Path) -> int:
    """How many weights the files of a folder hold; pickles, which are not opened, at two bytes each."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                count += size
    return count or sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
