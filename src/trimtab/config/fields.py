"""Types of fields with rules of their own: templates, ranges, temperatures, warm-ups, names in a registry.

>>> from pydantic import TypeAdapter
>>> TypeAdapter(WordRange).validate_python([2, 8])
(2, 8)
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator

from trimtab.errors import ConfigurationError
from trimtab.plugins.load import load_plugins
from trimtab.plugins.registry import registry

CHAT = "chat"
"""The template of a model that is shown conversations, by its tokenizer's own chat template."""


def fill(template: str, *, prompt: str, response: str | None = None) -> str:
    """`template` with `{prompt}` and, where a response is given, `{response}` replaced, in any order.

    One pass replaces both, so a text that itself holds `{response}`, braces, `$` or backslashes is inserted unchanged.

    >>> fill("Q: {prompt} A: {response}", prompt="what is {response}?", response="a {prompt}")
    'Q: what is {response}? A: a {prompt}'
    """
    texts = {"{prompt}": prompt} if response is None else {"{prompt}": prompt, "{response}": response}
    return re.sub("|".join(map(re.escape, texts)), lambda match: texts[match[0]], template)


def _in_order(words: tuple[int, int]) -> tuple[int, int]:
    low, high = words
    if not 1 <= low <= high:
        raise ValueError(f"[{low}, {high}] is no range: give two numbers of at least 1, the smaller first")
    return words


def check_template(template: object) -> None:
    """Check how a model is shown a prompt.

    Raises:
        ConfigurationError: it is no text that holds `{prompt}` once, nor `chat`.
    """
    if not isinstance(template, str) or (template != CHAT and template.count("{prompt}") != 1):
        raise ConfigurationError(f"the template {template!r} must hold {{prompt}} exactly once, or be {CHAT}")


def _finite_logits(temperature: float) -> float:
    if 0 < temperature < 1e-3:
        raise ValueError(f"{temperature:g} makes logits overflow: give at least 0.001, or 0 for greedy")
    return temperature


def _share_or_whole_steps(warmup: float) -> float:
    if warmup >= 1 and warmup != int(warmup):
        raise ValueError(f"{warmup:g} is neither a share nor a number of steps: give less than 1, or a whole number")
    return warmup


def _auto_or_rows(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{value!r} is no number of rows: give a whole number of at least 1, or auto")


def _checked(check: Callable[[Any], object]) -> AfterValidator:
    """A validator that refuses what `check` raises a ConfigurationError for."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


Plugin = Annotated[str, _checked(lambda location: load_plugins([location]))]
"""The location of a plug-in, `package.module` or `file.py`; it is imported when the configuration is read."""
Plugins = Annotated[tuple[Plugin, ...], _checked(lambda places: load_plugins())]
"""Plug-ins, which are imported together with the installed ones."""
Loss = Annotated[str, _checked(lambda name: registry("loss")[name])]
"""A name in the registry of losses."""
Strategy = Annotated[str, _checked(lambda name: registry("strategy")[name])]
"""A name in the registry of pair strategies."""
RewardKind = Annotated[str, _checked(lambda name: registry("reward kind")[name])]
"""A name in the registry of reward kinds."""
ColumnName = Annotated[str, _checked(lambda name: registry("column")[name])]
"""A name in the registry of the report's columns."""
WordRange = Annotated[tuple[int, int], AfterValidator(_in_order)]
"""Least and greatest number of words."""
Template = Annotated[str, _checked(check_template)]
"""A text that holds `{prompt}` once, or `chat`."""
Temperature = Annotated[float, AfterValidator(_finite_logits)]
"""Logits are divided by it; 0 is greedy."""
Warmup = Annotated[float, Field(ge=0), AfterValidator(_share_or_whole_steps)]
"""A share of all steps where below 1, from 1 on a number of steps."""
Rows = Annotated[
    int | Literal["auto"],
    PlainValidator(_auto_or_rows, json_schema_input_type=Annotated[int, Field(ge=1)] | Literal["auto"]),
]
"""Number of rows decoded together; `auto`: as many as fit the device's memory."""
