"""How a model is shown prompts, in a file beside its weights: what a guide was tuned with, it must be read with.

>>> carried({"template": "chat", "start_token": "<s>"}, {"template"})
{'start_token': '<s>'}
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from trimtab.config.fields import CHAT
from trimtab.config.models import ModelConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.store.files import write_json

FILE = "trimtab.json"
FIELDS = ("template", "system", "start_token")
Prompting = Mapping[str, str]
"""Those of `FIELDS` that are set, by name."""


def write_prompting(folder: Path, prompting: Prompting) -> None:
    """Write the prompt template, system message and start token of a model into its folder."""
    write_json(folder / FILE, dict(prompting))


def read_prompting(folder: Path) -> Prompting:
    """What `write_prompting` wrote into a folder; empty where there is no such file.

    Raises:
        ModelError: the file holds something else.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        ModelConfig(**{**values, "name": "model"})
        return {name: values[name] for name in FIELDS if values.get(name) is not None}
    except (OSError, ValueError, TypeError, ConfigurationError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{file} holds no prompt template ({reason}): mend it, or delete it and give template"
        ) from None


def prompting_of(config: ModelConfig) -> Prompting:
    """How a configuration shows prompts to its model."""
    return {name: value for name in FIELDS if (value := vars(config)[name]) is not None}


def carried(prompting: Prompting, given: Collection[str]) -> Prompting:
    """What of a file applies beside the fields that a user has `given`: a system message belongs to its template."""
    left_out = {*given, *(("system",) if "template" in given else ())}
    return {name: value for name, value in prompting.items() if name not in left_out}


def is_chat(prompting: Prompting) -> bool:
    """Whether the model is shown conversations."""
    return prompting.get("template") == CHAT
