"""A language model as its files describe it, without its weights: enough to find out what it cannot do.

>>> outline(ModelConfig(name="google/gemma-3-270m"), Assets()).context                         # doctest: +SKIP
32768
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.errors import ModelError
from trimtab.models.context import context_in
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.tokenizer import TOKENIZER_ERRORS, first_line, load_tokenizer
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput


@dataclass(frozen=True)
class Outline:
    """What is known of a model before it is loaded. `name` is what messages call it, `context` is in tokens."""

    name: str
    vocabulary: Vocabulary
    vocab_size: int
    context: int
    template: str

    def prompt_ids(self, prompt: PromptInput) -> list[int]:
        """The ids that the model reads before it answers.

        Raises:
            ModelError: its chat template refuses the prompt, or an empty one has no start token.
        """
        return self.vocabulary.encode_prompt(prompt, self.template)


def outline(config: ModelConfig, assets: Assets) -> Outline:
    """The outline of a model that lies on this machine.

    Raises:
        AssetError: the name or the adapter cannot be found or trusted.
        ModelError: the folder holds no whole causal language model with a tokenizer, or it cannot be loaded as asked.
    """
    folder = assets.model(config.name, allow_pickle=config.allow_pickle)
    if config.adapter is not None:
        assets.adapter(config.adapter)
    values = read_config(folder, "causal language model")
    if values.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"{folder} holds a {values.model_type}, which is no causal language model: name one")
    check_weights(folder)
    if config.quantization or config.device_map or config.attention or "quantization_config" in values.to_dict():
        _check_options(config, folder, assets)
    rows, tokenizer = int(values.get_text_config().vocab_size), load_tokenizer(folder)
    check_rows(tokenizer, rows)
    vocabulary = Vocabulary(
        tokenizer,
        end_ids(_generation(folder, values), config.name),
        config.start_token,
        chat=config.chat,
        system=config.system,
        rows=rows,
    )
    if config.chat:
        vocabulary.turn([{"role": "user", "content": "Hello"}])  # refuses where there is no chat template
    return Outline(config.name, vocabulary, rows, context_in(values), config.template)


def read_config(folder: Path, kind: str) -> PreTrainedConfig:
    """The configuration of a model folder; ModelError where it holds none of a known model. `kind` is for messages."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except TOKENIZER_ERRORS as error:
        raise ModelError(f"{folder} holds no {kind} ({first_line(error)}): name one") from None


def check_weights(folder: Path) -> None:
    """Raise ModelError where a file of safetensors is cut off, or one that the index names is missing."""
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        whole = max(_ends(file), default=None)
        if whole is None or size < whole:
            raise ModelError(f"{file} is cut off ({size} bytes): copy or download it again")
    for index in folder.glob("*.safetensors.index.json"):
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if missing := [shard for shard in shards if not (folder / shard).is_file()]:
            raise ModelError(f"{folder} lacks {missing[0]}, which its index names: copy or download it again")


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise ModelError where a tokenizer has more tokens of its own than the model has embeddings."""
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"{tokenizer.name_or_path or 'the model'} has a tokenizer of {tokenizer.vocab_size} tokens and a model of "
            f"{rows}: save the model's own tokenizer beside it"
        )


def _ends(file: Path) -> Iterator[int]:
    """Where each tensor of a file of safetensors ends, in bytes from its beginning; nothing for a broken header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(length)) if length <= file.stat().st_size else {}
        except ValueError:
            return
    for name, tensor in header.items():
        if name != "__metadata__":
            yield 8 + length + tensor["data_offsets"][1]


def _check_options(config: ModelConfig, folder: Path, assets: Assets) -> None:
    # imported here: they import the code of models, which takes seconds and which few need
    from trimtab.models.load_options import check_flash_attention, load_options

    device = default_device()
    load_options(config, folder, device, pick_dtype(config.dtype, device), assets.cache / "offloaded")
    if config.attention == "flash_attention_2":
        check_flash_attention(device)


def _generation(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def end_ids(generation: GenerationConfig | None, name: str) -> list[int]:
    """The ids that a generation configuration says end a text; `name` is the model's, for messages."""
    ends = generation.eos_token_id if generation is not None else None
    if isinstance(ends, torch.Tensor):
        ends = ends.tolist()
    ids = [end for end in (ends if isinstance(ends, list | tuple) else [ends]) if end is not None]
    if wrong := [end for end in ids if not isinstance(end, int) or isinstance(end, bool)]:
        raise ModelError(
            f"the generation configuration of {name} says that {wrong[0]!r} ends a text: eos_token_id is an id, or a "
            "list of ids"
        )
    return ids
