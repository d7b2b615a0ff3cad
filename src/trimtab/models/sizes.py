"""How large a model is, read from the headers of its files without loading any weights."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.hardware import device_type, dtype_bytes

QUANTIZED_BYTES = {"4bit": 0.53, "8bit": 1.02}  # of a weight, with its share of the scales


@dataclass(frozen=True)
class ModelSize:
    """Weights that each token read is multiplied with, and those of the head, which each prediction needs besides."""

    body: float
    head: float


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
        gpu = device_type() == "cuda"
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
    settings = _settings(folder)
    heads, width, layers, vocabulary = (_setting(settings, name, folder) for name in _ALIASES)
    key_heads = settings.get("num_key_value_heads") or heads
    dimension = settings.get("head_dim") or width // heads
    shapes = dict(_shapes(folder))
    untied = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in shapes)
    weights = sum(map(math.prod, shapes.values())) or _count_pickled(folder)
    weight_bytes = dtype_bytes(model.dtype)
    return Sizes(
        weights=weights,
        weight_bytes=weight_bytes,
        token_bytes=2 * layers * key_heads * dimension * weight_bytes,
        vocabulary=vocabulary,
        layers=layers,
        width=width,
        tables=min(vocabulary * width * (2 if untied else 1), weights),
        config=model,
    )


_ALIASES = {
    "num_attention_heads": ("num_heads", "n_head", "n_heads"),
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "vocab_size": (),
}
"""Names in transformers' configurations, and other names that families give the same."""


def _settings(folder: Path) -> Mapping[str, Any]:
    """The configuration of a model of texts; of one that also reads images the part for texts."""
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings.get("text_config") or settings


def _setting(settings: Mapping[str, Any], name: str, folder: Path) -> int:
    """A setting, by whatever name it has; what is not written is the default of the model's class."""
    for alias in (name, *_ALIASES[name]):
        if settings.get(alias) is not None:
            return int(settings[alias])
    from transformers import AutoConfig  # late: it takes seconds

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    return int(getattr(config, name))


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of the tensors in a folder's safetensors files, whose headers are JSON behind their length."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _count_pickled(folder: Path) -> int:
    """The weights in pickles, which are not opened: one for every two bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
