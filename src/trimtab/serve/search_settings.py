"""The field `trimtab` of a request: settings of the search, checked as a configuration file is.

A client can change what the search does with the models that are loaded, and can name nothing else: no file, no
function and no module. So fields that name models, and values by a function, are not among them. Nor is `vote`, since
matching a client's pattern can take any time.

>>> changed(DecoderConfig(), {"width": 2, "successors": 4, "chunk": 5}).name
'cbs-2-4-5'
"""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from trimtab.config.faults import faults_in
from trimtab.config.guide import DecoderConfig
from trimtab.config.search import one_or_several
from trimtab.errors import shown, suggestion
from trimtab.plugins.registry import registry
from trimtab.serve.api_errors import ApiError

CLIENT_SETTINGS = (
    "width", "successors", "chunk", "beta", "value", "duplicates", "groups", "pool", "reject", "chunk_ends",
)  # fmt: skip
"""The fields of a decoder's configuration that a client may set."""
FLAGS = {
    "steps": "Stream every step of the search.",
    "reward": "Score the choices by the gold reward of what is served.",
}
"""Fields that change nothing in the search: they ask for more to be shown."""


def _schema() -> dict[str, Any]:
    """The JSON schema of the field, from that of a decoder's configuration."""
    whole = DecoderConfig.model_json_schema()

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(whole["$defs"][value["$ref"].rpartition("/")[2]])
            return {name: inlined(part) for name, part in value.items()}
        return [inlined(part) for part in value] if isinstance(value, list) else value

    properties = {name: inlined(whole["properties"][name]) for name in CLIENT_SETTINGS}
    for name, description in FLAGS.items():
        properties[name] = {"type": "boolean", "default": False, "description": description}
    return {"properties": properties, "additionalProperties": False}


SETTINGS_SCHEMA = _schema()


def wants(settings: Mapping[str, Any], flag: Literal["steps", "reward"]) -> bool:
    """Whether the request asks for one of `FLAGS`.

    Raises:
        ApiError: the field is neither true nor false.
    """
    wanted = settings.get(flag, False)
    if not isinstance(wanted, bool):
        raise ApiError(400, f"trimtab.{flag} is {shown(wanted)}: give true or false", param=f"trimtab.{flag}")
    return wanted


def changed(decoder: DecoderConfig, settings: Mapping[str, Any]) -> DecoderConfig:
    """The decoder with a client's settings; it is named by what it has become.

    Raises:
        ApiError: a setting is unknown, or wrong, or names code.
    """
    settings = {name: value for name, value in settings.items() if name not in FLAGS}
    if not settings:
        return decoder
    for name in settings:
        if name not in CLIENT_SETTINGS:
            remedy = suggestion(name, [*CLIENT_SETTINGS, *FLAGS])
            raise ApiError(400, f"trimtab.{name} is no setting of a search: {remedy}", param=f"trimtab.{name}")
    if "value" in settings:
        _refuse_code(settings["value"])
    own = decoder.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    try:
        return DecoderConfig.model_validate({**own, **settings})
    except pydantic.ValidationError as error:
        faults = faults_in(error, DecoderConfig, "trimtab")
        field = next((str(entry["loc"][0]) for entry in error.errors() if entry["loc"]), None)
        param = "trimtab" if field is None else f"trimtab.{field}"
        raise ApiError(400, "; ".join(faults), param=param) from None


def _refuse_code(value: Any) -> None:
    """Refuse a value by a function, of which the configuration of a run may name one."""
    for part in one_or_several(value):
        by = part.get("by", "") if isinstance(part, dict) else part
        if isinstance(by, str) and ":" in by:
            known = ", ".join(registry("value"))
            raise ApiError(
                400, f"trimtab.value is {shown(by)}: clients name no code; give {known}", param="trimtab.value"
            )
