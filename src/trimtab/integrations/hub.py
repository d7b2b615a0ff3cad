"""Saves a tuned guide as an ordinary folder of transformers or PEFT, with a model card, and uploads it to the hub."""

import json
import shutil
import tempfile
from pathlib import Path

from trimtab.errors import AssetError, RunError
from trimtab.integrations.model_card import card, tuned_guide
from trimtab.models.prompting import write_prompting


def save_guide(run: Path, folder: Path, *, adapter: bool = False, name: str | None = None) -> Path:
    """Write the tuned guide of a run to a new folder, with its prompt template and its card as README.md.

    With `adapter` the LoRA adapter alone, for PEFT; else the whole model with the adapter merged, for transformers.
    `name` is what the card's example calls it (default: the folder).

    The folder is written whole or not at all. A warning says where the run's report measures another guide; the card
    then has no table.

    Raises:
        RunError: the run has no tuned guide, or no adapter; the folder exists, or cannot be written.
    """
    guide = tuned_guide(run)
    if adapter and guide.part("sft") is not None:
        raise RunError(f"{run} tuned a model that it made itself (sft), which its adapter needs: leave out --adapter")
    source = guide.folder / ("adapter" if adapter else "model")
    if not source.is_dir():
        raise RunError(f"{run} tuned all weights and has no adapter: leave out --adapter")
    if folder.exists():
        raise RunError(f"{folder} is there already: give a new folder")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        shutil.copytree(source, partial)
        if adapter:
            _name_base(partial / "adapter_config.json", guide.base)
        write_prompting(partial, guide.prompting)
        text = card(run, guide, adapter=adapter, name=name or str(folder))
        (partial / "README.md").write_text(text, encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}; give another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _name_base(file: Path, base: str) -> None:
    """Have an adapter's configuration name its base model, and not the folder that the model was in."""
    values = {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": base}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def push_guide(run: Path, name: str, *, adapter: bool = False, public: bool = False) -> str:
    """Save the tuned guide and upload it to the model hub as `name`; its address there. Private unless `public`.

    Raises:
        AssetError: there is no token, or the hub refuses or cannot be reached.
        RunError: as `save_guide`.
    """
    # Imported here: it takes half a second, and saving does without.
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.errors import HTTPError as BrokenConnection  # type: ignore[attr-defined]

    if get_token() is None:
        raise AssetError("the model hub wants a token: set HF_TOKEN, or run `hf auth login`")
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_guide(run, Path(temporary) / "guide", adapter=adapter, name=name)
        try:
            api = HfApi()
            created = api.create_repo(name, private=not public, exist_ok=True)
            text = card(run, tuned_guide(run), adapter=adapter, name=created.repo_id)  # with the owner's name
            (folder / "README.md").write_text(text, encoding="utf-8")
            api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Tuned with trimtab")
        except (HFValidationError, BrokenConnection, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise AssetError(
                f"{name} cannot be pushed to the model hub ({reason}): check name, token and network"
            ) from None
    return str(created)
