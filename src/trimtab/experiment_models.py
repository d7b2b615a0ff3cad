"""The base of all parts of a configuration, and the part that names a model.

Types only: reads no file, no network, no models.

    >>> ModelConfig(name="google/gemma-3-270m").template
    '{prompt}'
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, StringConstraints, model_validator

from trimtab.fields import CHAT, Template

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]


class Config(pydantic.BaseModel):
    """Base of all parts: frozen, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def equals(default: Any) -> Callable[[Any], bool]:
    """For `exclude_if`: an option that is not used is not written, so what was made before it existed stays valid."""
    return lambda value: bool(value == default)


class ModelConfig(Config):
    """A causal language model and how it is shown a prompt.

    `name` is a folder, a name in the path map, a hub name or a name of the catalogue (`trimtab assets`).
    `template` must hold `{prompt}` once, or is `chat`: then prompts are conversations, a string one message of the
    user, rendered by the tokenizer's own chat template, with the message `system` where they bring none.
    `adapter` is a PEFT folder put on top of the model.
    `start_token` is the text of the token that begins a text where there is no prompt.
    """

    name: str = Field(min_length=1)
    template: Template = "{prompt}"
    system: str | None = Field(None, exclude_if=equals(None))
    adapter: str | None = None
    start_token: str | None = None
    dtype: Dtype = "auto"
    allow_pickle: bool = False

    @model_validator(mode="after")
    def _system_has_a_place(self) -> Self:
        if self.system is not None and self.template != CHAT:
            raise ValueError(f"system is a message of a conversation and template is a text: write template: {CHAT}")
        return self

    @property
    def chat(self) -> bool:
        """Whether the model is shown conversations."""
        return self.template == CHAT
