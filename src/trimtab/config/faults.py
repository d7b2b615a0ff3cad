"""Words the faults that pydantic finds in a file of the user's: which field, what is wrong, and what to do.

>>> import pydantic
>>> from trimtab.config.models import ModelConfig
>>> try:
...     ModelConfig.model_validate({"nmae": "me/tiny"})
... except pydantic.ValidationError as error:
...     print("; ".join(faults_in(error, ModelConfig, "small")))
small.name: it is missing: give it; small.nmae is unknown: did you mean name?
"""

import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from trimtab.config.yaml_values import text_wanted
from trimtab.errors import shown, suggestion

if TYPE_CHECKING:
    from trimtab.config.models import Config

MAX_VALUE_CHARACTERS = 80  # characters of a value that a message repeats
_WORDS = {
    "missing": "it is missing: give it",
    "model_type": "give its fields, one `field: value` a line",
    "invalid_key": "write it in quotation marks",
    "tuple_type": "give a list",
    "string_unicode": "it holds half of a character (a lone surrogate): mend the text",
}
"""What replaces pydantic's own words, by the kind of the fault."""


def faults_in(error: pydantic.ValidationError, model: "type[Config]", *prefix: str) -> list[str]:
    """All faults of a validation of `model`, each once; `prefix` comes before each field's path."""
    # each branch of a union such as `int | str` reports the same fault
    # and a default that follows from other fields waits for them
    entries = [entry for entry in error.errors() if entry["type"] != "default_factory_not_called"]
    return list(dict.fromkeys(_fault(entry, model, prefix) for entry in entries))


def _fault(entry: Any, model: "type[Config]", prefix: Sequence[str]) -> str:
    kind, location = entry["type"], entry["loc"]
    if kind == "extra_forbidden":
        part = _follow(location[:-1], model)[1]
        path = ".".join(str(step) or "''" for step in (*prefix, *location))
        return f"{path} is unknown: {_instead(path, part)}"
    path = ".".join(map(str, (*prefix, *_follow(location, model)[0])))
    message = entry["msg"].removeprefix("Value error, ")
    if kind == "string_type":
        message = text_wanted(entry["input"])
    elif kind != "value_error":
        message = _WORDS.get(kind) or f"{message[0].lower()}{message[1:]}"
    if kind in ("value_error", "missing", "invalid_key"):
        return f"{path}: {message}" if path else message
    return f"{path} is {shown(entry['input'], MAX_VALUE_CHARACTERS)}: {message}"


def _instead(path: str, part: "type[Config]") -> str:
    """What to write for an unknown field of `part`: a field of one of its parts that has just this name, or a close
    one of its own."""
    name = path.rpartition(".")[2]
    inner = {key: part_in(field.annotation) for key, field in part.model_fields.items()}
    homes = [f"{path.removesuffix(name)}{key}.{name}" for key, sub in inner.items() if sub and name in sub.model_fields]
    return f"did you mean {' or '.join(homes)}?" if homes else suggestion(name, part.model_fields)


def _follow(location: Sequence[int | str], model: "type[Config]") -> tuple[list[int | str], Any]:
    """A fault's path without the branches of unions that pydantic adds to it, and the part of `model` that it ends in:
    None at a field that is no part."""
    path: list[int | str] = []
    part: Any = model
    for step in location:
        if isinstance(step, str):
            if part is None:
                continue
            field = part.model_fields.get(step)
            part = part_in(field.annotation) if field else None
        path.append(step)
    return path, part


def part_at(path: Sequence[str], model: "type[Config]") -> "type[Config] | None":
    """The part of a configuration at a dotted path, whose numbers are indices of lists; None at other fields."""
    part: type[Config] | None = model
    for step in path:
        if not step.isdecimal():
            field = None if part is None else part.model_fields.get(step)
            part = None if field is None else part_in(field.annotation)
    return part


def part_in(annotation: Any) -> Any:
    """The Config class inside an annotation such as `X | None` or `tuple[X, ...]`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next(filter(None, map(part_in, typing.get_args(annotation))), None)
