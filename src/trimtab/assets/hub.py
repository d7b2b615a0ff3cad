"""What the model hub, or its cache on this machine, has under a name.

The cache comes first, so that a cached repository costs no request.
"""

import functools
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

from trimtab.assets.catalog import Kind

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a tokenizer has at least one."""
NOT_DOWNLOADED = "the hub has it, and it is not downloaded"
_ANSWER_SECONDS = 2.0  # to wait for the hub's first answer
_INFO_SECONDS = 5.0  # to wait for what it knows about a repository
_PATTERNS: dict[Kind, list[str]] = {
    "model": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
    "dataset": ["*.csv", "*.json", "*.jsonl", "*.parquet", "*.arrow"],
    "tokenizer": ["tokenizer*", "vocab*", "merges.txt", "*.model", "*.jinja", "special_tokens_map.json", "config.json"],
}
_LACKING: dict[Kind, str] = {
    "model": "it holds no safetensors weights",
    "dataset": "it holds no CSV, JSON or Parquet file",
    "tokenizer": "it holds no tokenizer",
}


def from_hub(name: str, kind: Kind, *, allow_pickle: bool, download: bool = True) -> tuple[Path | None, str]:
    """The folder of a repository's files, from the cache or downloaded now; or None and the reason in a few words.

    Without `download` the reason is NOT_DOWNLOADED where the hub has the repository and the cache has not.
    """
    # Imported here: it takes half a second, and names in the path map do without.
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    # The hub's client raises its HTTP library's own errors where a connection breaks; which library differs by version.
    from huggingface_hub.errors import HTTPError as BrokenConnection  # type: ignore[attr-defined]

    repository = "dataset" if kind == "dataset" else "model"  # a tokenizer lies in a model's
    with_pickles = (False, True) if allow_pickle and kind == "model" else (False,)
    for cached, pickles in [(cached, pickles) for cached in (True, False) for pickles in with_pickles]:
        if not cached and constants.HF_HUB_OFFLINE:
            return None, "not in its cache, and HF_HUB_OFFLINE is set"
        if not cached and not hub_answers(constants.ENDPOINT):
            return None, "not in its cache, and it cannot be reached"
        patterns = _PATTERNS[kind] + (["*.bin"] if pickles else [])
        try:
            if not cached and not download:
                HfApi().repo_info(name, repo_type=repository, timeout=_INFO_SECONDS)
                return None, NOT_DOWNLOADED
            folder = Path(
                snapshot_download(name, repo_type=repository, allow_patterns=patterns, local_files_only=cached)
            )
        except HFValidationError:
            return None, "no name that it could know"
        except LocalEntryNotFoundError:
            continue
        except (BrokenConnection, OSError) as error:
            return None, " ".join(str(error).split())[:120]
        if is_complete(folder, kind, pickles=pickles):
            return folder, ""
    hint = "; allow_pickle: true would read pickled ones" if kind == "model" and not allow_pickle else ""
    return None, _LACKING[kind] + hint


def is_complete(folder: Path, kind: Kind, *, pickles: bool) -> bool:
    """Whether a snapshot has what its kind needs: all weights that its index names, a data file, or a tokenizer."""
    if kind == "dataset":
        return any(path.is_file() for pattern in _PATTERNS["dataset"] for path in folder.rglob(pattern))
    if kind == "tokenizer":
        return any((folder / name).is_file() for name in TOKENIZERS)
    names = ["model.safetensors", "adapter_model.safetensors"] + (["pytorch_model.bin"] if pickles else [])
    if any((folder / name).is_file() for name in names):
        return True
    index = next((path for name in names if (path := folder / f"{name}.index.json").is_file()), None)
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index else set()
    except (ValueError, KeyError, AttributeError, TypeError):
        return False
    return bool(shards) and all((folder / shard).is_file() for shard in shards)


@functools.cache
def hub_answers(endpoint: str) -> bool:
    """Whether anything answers there within two seconds; asked once in a process."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_ANSWER_SECONDS).close()
        except urllib.error.HTTPError:  # an answer, if not a friendly one
            pass
        except (OSError, ValueError):
            return
        answers.append(True)

    # In a thread of its own: no timeout of a request bounds the look-up of a host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return bool(answers)
