"""Turns a GGUF model, which takes up to a minute to parse, into a folder of safetensors that loads in a second."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gguf
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from trimtab.errors import AssetError

# Tokens that end a text or a turn, as llama.cpp lists them: GGUF keeps only one of them as its eos token.
_END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<eos>", "<end_of_turn>", "<|eot_id|>", "<|end_of_text|>")


@contextlib.contextmanager
def _bars_on_terminals_alone() -> Iterator[None]:
    """Inside, transformers shows progress bars on a terminal only. The one for GGUF files has no switch."""
    logs, reader = transformers.utils.logging, vars(modeling_gguf_pytorch_utils)
    bar, shown = reader.get("tqdm"), logs.is_progress_bar_enabled()
    if sys.stderr.isatty() or bar is None:
        yield
        return
    logs.disable_progress_bar()
    reader["tqdm"] = partial(bar, disable=True)
    try:
        yield
    finally:
        reader["tqdm"] = bar
        if shown:
            logs.enable_progress_bar()


@_bars_on_terminals_alone()
def convert_gguf(source: Path, target: Path) -> None:
    """Write the model of `source` to the folder `target`, which must exist.

    Weights are kept in bfloat16 where the file holds quantised ones, or none that bfloat16 would round; else in
    float32. The generation configuration lists every token that ends a text, the tokenizer's own eos token first.

    Raises:
        AssetError: transformers cannot read the file as a causal language model.
    """
    folder, name = str(source.parent), source.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        quantized = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, local_files_only=True
        )
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise AssetError(f"{source} cannot be read as a GGUF language model ({reason}): use safetensors") from None
    config = quantized.config
    # transformers refuses to save a model that it takes for quantized: the weights move to one that is not.
    del config.quantization_config
    config.dtype = torch.float32 if _rounded_by_bfloat16(source, quantized) else torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_ids(tokenizer) or None,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _rounded_by_bfloat16(source: Path, model: PreTrainedModel) -> bool:
    """Whether the file holds whole weights that bfloat16 does not hold exactly."""
    whole = {gguf.GGMLQuantizationType[name] for name in ("F64", "F32", "F16", "BF16")}
    if any(tensor.tensor_type not in whole for tensor in gguf.GGUFReader(source).tensors):
        return False
    return any(not torch.equal(weight, weight.bfloat16().to(weight.dtype)) for weight in model.parameters())


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of all tokens that end a text, the tokenizer's eos token first where it has one."""
    vocabulary = tokenizer.get_vocab()
    ids = [tokenizer.eos_token_id, *(vocabulary[text] for text in _END_TEXTS if text in vocabulary)]
    return [token for token in dict.fromkeys(ids) if token is not None]
