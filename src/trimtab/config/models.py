"""The base of all parts of a configuration, and the part that names a model.

>>> ModelConfig(name="google/gemma-3-270m").template
'{prompt}'
"""

import typing
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from trimtab.config.faults import faults_in
from trimtab.config.fields import CHAT, Template
from trimtab.errors import ConfigurationError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
DeviceMap = Literal["auto", "balanced", "sequential", "cpu", "disk"]
Quantization = Literal["4bit", "8bit"]


class _OneLineFaults(type(pydantic.BaseModel)):  # type: ignore[misc]  # pydantic names its metaclass nowhere
    """A part that is made in Python refuses as one in a file does: all its faults, on one line."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigurationError(f"{cls.__name__}: {'; '.join(faults_in(error, cls))}") from None


class Config(pydantic.BaseModel, metaclass=_OneLineFaults):
    """Base of all parts: frozen, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    execution: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change a result, and so take no part in hashes: where, how fast, under what name."""

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """In Python a boolean is an integer, so `successors: yes` would be 1."""
        assert info.field_name is not None
        types = types_in(cls.model_fields[info.field_name].annotation)
        booleans = [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, bool)]
        if booleans and {int, float} & types and not {bool, Any} & types:
            remedy = "put a text in quotation marks, or give a number" if str in types else "give a number"
            raise ValueError(f"{booleans[0]} is no number, YAML takes yes, no, on and off for true or false: {remedy}")
        return value

    def __repr_args__(self) -> Any:
        """Only the fields that were set: all of them fill a screen."""
        return [(name, vars(self)[name]) for name in type(self).model_fields if name in self.model_fields_set]

    def hashed(self) -> dict[str, Any]:
        """The plain values that an artifact's hash is made of: all fields but `execution`, in nested parts too."""
        values = self.model_dump(mode="json", exclude=set(self.execution))
        return {name: _hashed(vars(self)[name], value) for name, value in values.items()}


def _hashed(value: Any, dumped: Any) -> Any:
    if isinstance(value, Config):
        return value.hashed()
    if isinstance(value, tuple):
        return [_hashed(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def types_in(annotation: Any) -> set[Any]:
    """The plain types in an annotation such as `int | None` or `tuple[int, ...]`."""
    if typing.get_origin(annotation) is Literal:
        return set()
    arguments = typing.get_args(annotation)
    return set().union(*map(types_in, arguments)) if arguments else {annotation}


class EndpointConfig(Config):
    """A server that holds a model which this machine does not, reached by OpenAI's completions protocol.

    `url` is the one that OpenAI's clients are given, such as http://host:8000/v1. `key_variable` is the environment
    variable that holds the key. `timeout` is in seconds; prices are per million tokens. `log_probabilities` says that
    the server returns those of the text it reads (`echo`), which fluency needs. None of these fields changes what the
    model writes, so none takes part in the hashes of texts: a server may move.
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


def _from_url(endpoint: Any) -> Any:
    return {"url": endpoint} if isinstance(endpoint, str) else endpoint


class ModelConfig(Config):
    """A causal language model and how prompts are shown to it.

    `name` is a folder, a name in the path map, a hub name or a name in the catalogue (`trimtab assets`).
    `template` holds `{prompt}` once, or is `chat`: then prompts are conversations (a string is one message of the
    user), rendered by the tokenizer's chat template, and `system` is the system message where they have none.
    `adapter` is a PEFT folder. `start_token` is the text of the token that begins a text without a prompt.
    With an `endpoint` (its address, or an `EndpointConfig`) the model runs on that server under `name`, and gives texts
    alone.

    Large models: `quantization` stores weights in 4 or 8 bits (bitsandbytes). `device_map` spreads the layers over all
    GPUs and then the host's memory and disk (`auto`, `balanced`, `sequential`), or keeps them in memory or on disk
    until they run (`cpu`, `disk`); `gpu_memory` limits the GB taken of each GPU. `attention` is the implementation of
    attention. docs/models.md explains each.
    """

    execution = frozenset({"device_map", "gpu_memory"})

    name: str = Field(min_length=1)
    template: Template = "{prompt}"
    system: str | None = None
    adapter: str | None = None
    start_token: str | None = None
    dtype: Dtype = "auto"
    allow_pickle: bool = False
    endpoint: Annotated[EndpointConfig | None, BeforeValidator(_from_url)] = None
    quantization: Quantization | None = None
    device_map: DeviceMap | None = None
    gpu_memory: float | None = Field(None, gt=0, validate_default=True)
    attention: Attention | None = None

    @field_validator("gpu_memory")
    @classmethod
    def _gpu_memory_needs_a_device_map(cls, memory: float | None, info: ValidationInfo) -> float | None:
        if memory is not None and info.data.get("device_map") in (None, "cpu", "disk"):
            raise ValueError(f"{memory:g} limits what device_map takes of a GPU: add device_map: auto, or drop it")
        return memory

    @model_validator(mode="after")
    def _fields_fit_template_and_endpoint(self) -> Self:
        if self.system is not None and not self.chat:
            raise ValueError(f"system is a message of a conversation and template is a text: write template: {CHAT}")
        servers = {"system", "adapter", "start_token", "dtype", "allow_pickle"} & self.model_fields_set
        if self.endpoint is not None and servers:
            raise ValueError(f"the server decides on these, not its client: drop {', '.join(sorted(servers))}")
        if self.endpoint is not None and self.chat:
            raise ValueError("an endpoint continues text and has no chat template: write the turns into template")
        return self

    @property
    def chat(self) -> bool:
        """Whether the model is shown conversations."""
        return self.template == CHAT


def tuned_like(tuned: Any, untuned: dict[str, Any]) -> Any:
    """A tuned model's settings, completed by those of its untuned self: all of them where only an adapter is added,
    else those that say how prompts are shown.

    >>> tuned_like({"adapter": "runs/demo/adapter"}, {"name": "me/tiny", "template": "chat"})
    {'name': 'me/tiny', 'template': 'chat', 'adapter': 'runs/demo/adapter'}
    >>> tuned_like({"name": "me/tuned"}, {"name": "me/tiny", "template": "chat", "quantization": "4bit"})
    {'template': 'chat', 'name': 'me/tuned'}
    """
    if not isinstance(tuned, dict):
        return tuned
    prompting = {name: untuned[name] for name in ("template", "system", "start_token") if name in untuned}
    return {**(prompting if "name" in tuned else untuned), **tuned}
