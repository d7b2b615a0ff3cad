"""The base of all parts of a configuration, and the part that names a model.

>>> ModelConfig(name="google/gemma-3-270m").template
'{prompt}'
"""

import datetime
import typing
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trimtab.config.faults import faults_in
from trimtab.config.fields import CHAT, Template
from trimtab.config.yaml_values import text_wanted
from trimtab.errors import ConfigurationError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
DeviceMap = Literal["auto", "balanced", "sequential", "cpu", "disk"]
Quantization = Literal["4bit", "8bit"]


class Config(pydantic.BaseModel):
    """Base of all parts: frozen, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    execution: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change a result, and so take no part in hashes: where, how fast, under what name."""
    shorthand: ClassVar[str] = ""
    """The field that a text stands for, where it is given instead of all fields."""

    def __init__(self, **values: Any) -> None:
        """A part that is made in Python refuses as one in a file does: all its faults, on one line."""
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise ConfigurationError(f"{type(self).__name__}: {'; '.join(faults_in(error, type(self)))}") from None

    # so that pydantic does not call it for the parts of a file
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

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

    @model_validator(mode="wrap")
    @classmethod
    def _from_shorthand(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        return validate(cls.long_form(value))

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """The fields that a text stands for, as `{"name": "me/tiny"}`; anything else is returned unchanged.

        Raises:
            ValueError: YAML has read a text without quotation marks as a number, a boolean or a date.
        """
        if value == [None]:  # a `-`, as YAML reads it
            value = "-"
        if cls.shorthand and isinstance(value, bool | int | float | datetime.date):
            raise ValueError(f"{value} is no {cls.shorthand}: {text_wanted(value)}")
        return {cls.shorthand: value} if cls.shorthand and isinstance(value, str) else value

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

    A text stands for its `url`. No field changes what the model writes, so none takes part in the hashes of texts: a
    server may move.
    """

    execution = frozenset(
        {"url", "key_variable", "concurrency", "timeout", "attempts"}
        | {"prompt_price", "completion_price", "log_probabilities"}
    )

    shorthand = "url"

    url: str = Field(pattern=r"^https?://[^\s?#]+$", examples=["http://127.0.0.1:8000/v1"])
    """The address that OpenAI's clients are given."""
    key_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["LARGE_KEY"])
    """The environment variable that holds the key."""
    concurrency: int = Field(8, ge=1, le=100, examples=[16])
    """Requests at once."""
    timeout: float = Field(120.0, gt=0, examples=[120])
    """Seconds that a request may take."""
    attempts: int = Field(6, ge=1, examples=[6])
    """How often a request is tried, with pauses of 1, 2, 4, ... seconds."""
    prompt_price: float | None = Field(None, ge=0, examples=[0.6])
    """Price of a million tokens read, for the report."""
    completion_price: float | None = Field(None, ge=0, examples=[0.8])
    """Price of a million tokens written, for the report."""
    log_probabilities: bool = Field(False, examples=[True])
    """Whether the server returns the log-probabilities of the text that it reads (`echo`), which fluency needs."""


class ModelConfig(Config):
    """A causal language model, and how prompts are shown to it. A text stands for its `name`. See docs/models.md."""

    execution = frozenset({"device_map", "gpu_memory"})
    shorthand = "name"

    name: str = Field(min_length=1, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    """A folder, a name in the path map, a name on the model hub or one of `trimtab assets`. Behind an endpoint, its
    name there."""
    template: Template = Field("{prompt}", examples=["chat"])
    """How a prompt is shown to the model: a text that holds `{prompt}` once, or `chat`. Then prompts are conversations
    (a text is one message of the user), written by the chat template of the model's tokenizer."""
    system: str | None = Field(None, examples=["Answer in one sentence."])
    """The system message of conversations that have none."""
    adapter: str | None = Field(None, examples=["me/my-adapter"])
    """The folder or name of a PEFT adapter that is put on the model."""
    start_token: str | None = Field(None, examples=["<|endoftext|>"])
    """The text of the token that begins a text without a prompt."""
    dtype: Dtype = Field("auto", examples=["bfloat16"])
    """The type of the weights. `auto` is bfloat16 where the hardware multiplies it, else float32."""
    allow_pickle: bool = Field(False, examples=[True])
    """Whether weights may be read from pickled files, where there are no others."""
    endpoint: EndpointConfig | None = Field(None, examples=["http://127.0.0.1:8000/v1"])
    """A server that runs the model, and gives texts alone."""
    quantization: Quantization | None = Field(None, examples=["4bit"])
    """Stores the weights in 4 or 8 bits, by bitsandbytes."""
    device_map: DeviceMap | None = Field(None, examples=["auto"])
    """Where the layers lie: over all GPUs and then memory and disk (`auto`, `balanced`, `sequential`), or in memory or
    on disk until they run (`cpu`, `disk`)."""
    gpu_memory: float | None = Field(None, gt=0, validate_default=True, examples=[40.0])
    """The most GB that the model takes of each GPU."""
    attention: Attention | None = Field(None, examples=["eager"])
    """The implementation of attention; without it `sdpa` where the family has it."""

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


def tuned_like(tuned: Any, untuned: Any) -> Any:
    """A tuned model's settings, completed by those of its untuned self: all of them where only an adapter is added,
    else those that say how prompts are shown.

    >>> tuned_like({"adapter": "runs/demo/adapter"}, {"name": "me/tiny", "template": "chat"})
    {'name': 'me/tiny', 'template': 'chat', 'adapter': 'runs/demo/adapter'}
    >>> tuned_like({"name": "me/tuned"}, {"name": "me/tiny", "template": "chat", "quantization": "4bit"})
    {'template': 'chat', 'name': 'me/tuned'}
    """
    tuned, untuned = ({"name": model} if isinstance(model, str) else model for model in (tuned, untuned))
    if not isinstance(tuned, dict) or not isinstance(untuned, dict):
        return tuned
    prompting = {name: untuned[name] for name in ("template", "system", "start_token") if name in untuned}
    return {**(prompting if "name" in tuned else untuned), **tuned}
