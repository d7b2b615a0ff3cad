"""The base of all parts of a configuration, and the part that names a model.

Types only: reads no file, no network, no models.

    >>> ModelConfig(name="google/gemma-3-270m").template
    '{prompt}'
"""

import typing
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from trimtab.config.fields import CHAT, Template

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
DeviceMap = Literal["auto", "balanced", "sequential", "cpu", "disk"]
Quantization = Literal["4bit", "8bit"]


class Config(pydantic.BaseModel):
    """Base of all parts: frozen, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    execution: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where, how fast or under what name something is computed, and change nothing of its result."""

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """In Python a boolean is an integer, so `successors: yes` would be 1."""
        assert info.field_name is not None
        kinds = _kinds_in(cls.model_fields[info.field_name].annotation)
        wrong = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, bool)]
        if wrong and {int, float} & kinds and not {bool, Any} & kinds:
            wanted = "put a text in quotation marks, or give a number" if str in kinds else "give a number"
            raise ValueError(f"{wrong[0]!r} is no number, YAML takes yes, no, on and off for true or false: {wanted}")
        return value

    def hashed(self) -> dict[str, Any]:
        """The configuration as plain values without `execution`, in nested parts too: what artifacts' hashes are of."""
        values = self.model_dump(mode="json", exclude=set(self.execution))
        return {name: _hashed(vars(self)[name], value) for name, value in values.items()}


def _hashed(value: Any, written: Any) -> Any:
    if isinstance(value, Config):
        return value.hashed()
    if isinstance(value, tuple):
        return [_hashed(*each) for each in zip(value, written, strict=True)]
    return written


def _kinds_in(annotation: Any) -> set[Any]:
    """The plain types in an annotation such as `int | None` or `tuple[int, ...]`."""
    if typing.get_origin(annotation) is Literal:
        return set()
    arguments = typing.get_args(annotation)
    return {annotation} if not arguments else set().union(*map(_kinds_in, arguments))


class EndpointConfig(Config):
    """Where a model is served that this machine does not hold: a completions endpoint as OpenAI defined it.

    `url` is what OpenAI's clients are given, such as http://host:8000/v1. `key_variable` names the environment variable
    that holds the key; the key itself stands nowhere. `timeout` is in seconds, prices are for a million tokens.
    `log_probabilities`: the server gives those of what it reads (`echo`), by which fluency is measured; else it is not.
    None of it changes what the model writes, so none takes part in the hashes of texts: a server may move.
    """

    execution = frozenset(
        {"url", "key_variable", "concurrency", "timeout", "attempts"}
        | {"prompt_price", "completion_price", "log_probabilities"}
    )

    url: str = Field(pattern=r"^https?://[^\s?#]+$")
    key_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    concurrency: int = Field(8, ge=1, le=100)
    timeout: float = Field(120.0, gt=0)
    attempts: int = Field(6, ge=1)
    prompt_price: float | None = Field(None, ge=0)
    completion_price: float | None = Field(None, ge=0)
    log_probabilities: bool = False


def _url_alone(endpoint: Any) -> Any:
    return {"url": endpoint} if isinstance(endpoint, str) else endpoint


class ModelConfig(Config):
    """A causal language model and how it is shown a prompt.

    `name` is a folder, a name in the path map, a hub name or a name of the catalogue (`trimtab assets`).
    `template` must hold `{prompt}` once, or is `chat`: then prompts are conversations, a string one message of the
    user, rendered by the tokenizer's own chat template, with the message `system` where they bring none.
    `adapter` is a PEFT folder put on top of the model.
    `start_token` is the text of the token that begins a text where there is no prompt.
    With an `endpoint` (its address, or all that `EndpointConfig` has) the model runs there, and `name` is its name
    there; it gives texts alone.

    Large models: `quantization` stores weights in 4 or 8 bits (bitsandbytes). `device_map` spreads a model over all
    GPUs and, where they are full, the host's memory and disk (`auto`, `balanced`, `sequential`), or leaves its layers
    in memory or on disk until they run (`cpu`, `disk`); `gpu_memory` is how many GB of each GPU it may take.
    `attention` is how attention is computed; docs/models.md says more of each.
    """

    execution = frozenset({"device_map", "gpu_memory"})

    name: str = Field(min_length=1)
    template: Template = "{prompt}"
    system: str | None = None
    adapter: str | None = None
    start_token: str | None = None
    dtype: Dtype = "auto"
    allow_pickle: bool = False
    endpoint: Annotated[EndpointConfig | None, BeforeValidator(_url_alone)] = None
    quantization: Quantization | None = None
    device_map: DeviceMap | None = None
    gpu_memory: float | None = Field(None, gt=0, validate_default=True)
    attention: Attention | None = None

    @field_validator("gpu_memory")
    @classmethod
    def _is_shared_out(cls, memory: float | None, info: ValidationInfo) -> float | None:
        if memory is not None and info.data.get("device_map") in (None, "cpu", "disk"):
            raise ValueError(f"{memory:g} bounds what device_map shares out: add device_map: auto, or drop it")
        return memory

    @model_validator(mode="after")
    def _system_has_a_place(self) -> Self:
        if self.system is not None and self.template != CHAT:
            raise ValueError(f"system is a message of a conversation and template is a text: write template: {CHAT}")
        return self

    @property
    def chat(self) -> bool:
        """Whether the model is shown conversations."""
        return self.template == CHAT

    @model_validator(mode="after")
    def _an_endpoint_has_its_own(self) -> Self:
        own = {"system", "adapter", "start_token", "dtype", "allow_pickle"} & self.model_fields_set
        if self.endpoint is not None and own:
            raise ValueError(f"what an endpoint serves is the server's to say: drop {', '.join(sorted(own))}")
        if self.endpoint is not None and self.chat:
            raise ValueError("an endpoint continues text and has no chat template: write the turns into template")
        return self
