"""Guides by name: pairs of a tuned model and its untuned self, those that come with trimtab and those of the user.

>>> guide_pairs()["zephyr"].untuned.name
'HuggingFaceH4/mistral-7b-sft-beta'
"""

import difflib
import os
from pathlib import Path
from typing import Any

import platformdirs
import pydantic

from trimtab.config.models import Config, ModelConfig
from trimtab.config.named_values import read_named_values
from trimtab.config.yaml_values import text_wanted
from trimtab.errors import ConfigurationError, shown

SHIPPED = Path(__file__).parent / "guides.yaml"
# What pydantic says in words of its own is said in words of a file of guides.
_SAYINGS = {
    "model_type": "give its fields, one `field: value` a line",
    "missing": "it is missing: give it",
    "extra_forbidden": "it is unknown: drop it",
}


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
    def _shown_alike(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("untuned"), dict):
            return {**values, "tuned": tuned_like(values.get("tuned"), values["untuned"])}
        return values


def tuned_like(tuned: Any, untuned: dict[str, Any]) -> Any:
    """A tuned model's settings where they stand beside its untuned self's: what they leave out is as there.

    >>> tuned_like({"adapter": "runs/demo/adapter"}, {"name": "me/tiny", "template": "chat"})
    {'name': 'me/tiny', 'template': 'chat', 'adapter': 'runs/demo/adapter'}
    >>> tuned_like({"name": "me/tuned"}, {"name": "me/tiny", "template": "chat", "quantization": "4bit"})
    {'template': 'chat', 'name': 'me/tuned'}
    """
    if not isinstance(tuned, dict):
        return tuned
    shown = {name: untuned[name] for name in ("template", "system", "start_token") if name in untuned}
    return {**(shown if "name" in tuned else untuned), **tuned}


def guides_file(named: Path | None = None) -> Path | None:
    """The user's own file: `named`, that of TRIMTAB_GUIDES, or guides.yaml in the configuration directory if there."""
    variable = os.environ.get("TRIMTAB_GUIDES")
    chosen = named or (Path(variable).expanduser() if variable else None)
    own = platformdirs.user_config_path("trimtab") / "guides.yaml"
    return chosen or (own if own.is_file() else None)


def guide_pairs(named: Path | None = None) -> dict[str, GuidePair]:
    """All pairs by their names; a user's own comes before one of the same name that comes with trimtab.

    Raises:
        ConfigurationError: the user's file cannot be read, or a pair in it is wrong.
    """
    own = guides_file(named)
    return {**_read(SHIPPED), **({} if own is None else _read(own))}


def guide_pair(name: str, named: Path | None = None) -> GuidePair:
    """The pair of this name.

    Raises:
        ConfigurationError: there is none, or the user's file is wrong.
    """
    pairs = guide_pairs(named)
    if name not in pairs:
        close = difflib.get_close_matches(name, pairs, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(pairs)}"
        raise ConfigurationError(f"guide.pair is {name!r}, which no file of guides names: {hint}")
    return pairs[name]


def _read(file: Path) -> dict[str, GuidePair]:
    example = "name: {tuned: ..., untuned: ...}"
    pairs = {}
    for name, each in read_named_values(file, "guides file", "mend --guides", example, ConfigurationError).items():
        try:
            pair = GuidePair.model_validate({**each, "source": file} if isinstance(each, dict) else each)
        except pydantic.ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, (name, *fault["loc"])))
            said = _SAYINGS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "string_type":
                said = f"it is {shown(fault['input'], 80)}: {text_wanted(fault['input'])}"
            raise ConfigurationError(f"the guides file {file}: {place}: {said}") from None
        pairs[name] = pair
    return pairs
