"""Loads tokenizers, without the libraries that models need."""

from pathlib import Path
from pickle import UnpicklingError

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trimtab.errors import ModelError

TOKENIZER_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)
"""What transformers raises for a folder without a tokenizer that it can read."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; ModelError if it holds none that can be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        if not isinstance(error, TOKENIZER_ERRORS) and type(error) is not Exception:  # tokenizers raises plain ones
            raise
        raise ModelError(f"{folder} holds no tokenizer ({first_line(error)}): save one beside the weights") from None


def first_line(error: Exception) -> str:
    """The start of a library's message, on one line."""
    if isinstance(error, UnpicklingError):  # torch's message would advise to switch the check off
        return "its pickle holds more than tensors, and was not run"
    return " ".join(str(error).split())[:160]
