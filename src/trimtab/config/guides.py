"""Guides by name: pairs of a tuned model and its untuned self, from trimtab's own file and from the user's.

>>> guide_pairs()["zephyr"].untuned.name
'HuggingFaceH4/mistral-7b-sft-beta'
"""

import os
from pathlib import Path
from typing import Any

import platformdirs
import pydantic

from trimtab.config.faults import faults_in
from trimtab.config.models import Config, ModelConfig, tuned_like
from trimtab.config.yaml_values import read_mapping
from trimtab.errors import ConfigurationError, suggestion

SHIPPED = Path(__file__).parent / "guides.yaml"


class GuidePair(Config):
    """A tuned model and the untuned one that it was made from; `source` is the file that names them.

    A `tuned` without a name is the untuned model with an `adapter`.
    """

    what: str = ""
    tuned: ModelConfig
    untuned: ModelConfig
    source: Path = pydantic.Field(SHIPPED, exclude=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _tuned_is_shown_prompts_as_untuned_is(cls, values: Any) -> Any:
        match values:
            case {"untuned": untuned, "tuned": tuned}:
                return {**values, "tuned": tuned_like(tuned, untuned)}
        return values


def guides_file(file: Path | None = None) -> Path | None:
    """The user's file of guides: `file`, else that of TRIMTAB_GUIDES, else guides.yaml in the configuration directory
    if it exists."""
    variable = os.environ.get("TRIMTAB_GUIDES")
    default = platformdirs.user_config_path("trimtab") / "guides.yaml"
    return file or (Path(variable).expanduser() if variable else None) or (default if default.is_file() else None)


def guide_pairs(file: Path | None = None) -> dict[str, GuidePair]:
    """All pairs by their names; a user's pair replaces one of trimtab's with the same name.

    Raises:
        ConfigurationError: the user's file cannot be read, or a pair in it is wrong.
    """
    users = guides_file(file)
    return {**_read(SHIPPED), **({} if users is None else _read(users))}


def guide_pair(name: str, file: Path | None = None) -> GuidePair:
    """The pair of this name.

    Raises:
        ConfigurationError: there is none, or the user's file is wrong.
    """
    pairs = guide_pairs(file)
    if name not in pairs:
        raise ConfigurationError(f"guide.pair is {name!r}, which no file of guides names: {suggestion(name, pairs)}")
    return pairs[name]


def _read(file: Path) -> dict[str, GuidePair]:
    example = "name: {tuned: ..., untuned: ...}"
    pairs = {}
    for name, value in read_mapping(file, "guides file", remedy="mend --guides", example=example).items():
        try:
            pairs[name] = GuidePair.model_validate({**value, "source": file} if isinstance(value, dict) else value)
        except pydantic.ValidationError as error:
            faults = "; ".join(faults_in(error, GuidePair, name))
            raise ConfigurationError(f"the guides file {file}: {faults}") from None
    return pairs
