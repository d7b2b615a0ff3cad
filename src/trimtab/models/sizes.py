"""How large a model is, read from the headers of its files without loading any weights."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.hardware import device_type, dtype_bytes

QUANTIZED_BYTES = {"4bit": 0.53, "8bit": 1.02}  # bytes of one weight, its share of the scales included


@dataclass(frozen=True)
class ModelSize:
    """Weights that take part in a forward pass: `body` for each token read, `head` for each token predicted."""

    body: float
    head: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        weights: number of weights.
        weight_bytes: bytes of one weight that is not quantised.
        token_bytes: bytes of one token's keys and values in the cache.
        tables: number of weights in the embeddings and the head, which are never quantised and never offloaded.
        config: names the quantisation and the device map of the other weights.
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
        """Bytes of the weights on the device that the model runs on."""
        gpu = device_type() == "cuda"
        if self.config.device_map == "disk" or (self.config.device_map == "cpu" and gpu):
            return self.tables * self.weight_bytes
        return self.stored(self.config.quantization)

    @property
    def host_bytes(self) -> float:
        """Bytes of the weights that are offloaded to the host's memory."""
        return self.stored(self.config.quantization) if self.config.device_map == "cpu" else 0.0

    def stored(self, quantization: str | None) -> float:
        """Bytes of all weights under a quantisation (None: not quantised)."""
        quantized = self.weight_bytes if quantization is None else QUANTIZED_BYTES[quantization]
        return self.tables * self.weight_bytes + (self.weights - self.tables) * quantized


def model_sizes(model: ModelConfig, assets: Assets) -> Sizes:
    """The sizes of a model; all 0 for a model behind an endpoint, which takes no memory here."""
    if model.endpoint is not None:
        return Sizes(0, 0, 0, 0, 0, 0, 0, model)
    folder = assets.model(model.name, allow_pickle=model.allow_pickle)
    settings = _settings(folder)
    heads, width, layers, vocabulary = (_setting(settings, name, folder) for name in _SETTINGS)
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


_SETTINGS: dict[str, tuple[tuple[str, ...], Callable[[Any], int]]] = {
    "num_attention_heads": (("num_heads", "n_head", "n_heads"), lambda config: config.num_attention_heads),
    "hidden_size": (("n_embd", "d_model"), lambda config: config.hidden_size),
    "num_hidden_layers": (("num_layers", "n_layer", "n_layers"), lambda config: config.num_hidden_layers),
    "vocab_size": ((), lambda config: config.vocab_size),
}
"""Names in transformers' configurations: the other names that families use in `config.json`, and how to read the
setting from a configuration object."""


def _settings(folder: Path) -> Mapping[str, Any]:
    """The settings of `config.json`; for a model that also reads images, those of its text part."""
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings.get("text_config") or settings


def _setting(settings: Mapping[str, Any], name: str, folder: Path) -> int:
    """A setting of `config.json` under any of its names; the default of the model's class where the file has none."""
    aliases, default = _SETTINGS[name]
    for alias in (name, *aliases):
        if settings.get(alias) is not None:
            return int(settings[alias])
    from transformers import AutoConfig  # late: it takes seconds

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    return int(default(config))


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of the tensors in a folder's safetensors files, read from their JSON headers."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:  # 8 bytes hold the header's length
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _count_pickled(folder: Path) -> int:
    """The number of weights in pickle files, estimated at two bytes each; the files are not opened."""
    return sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
