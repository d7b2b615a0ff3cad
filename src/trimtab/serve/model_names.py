"""Decoders as names of models, the one field that every client of OpenAI's protocol can set.

`NAME` is the large model as it is; `NAME:bon-16`, `NAME:cbs-4-4-5`, `NAME:eft-0.5`, `NAME:eft-0.5-bon-4`, `NAME:tuned`
and `NAME:untuned-bon-4` are searches, and every decoder of the run goes by its own name.

>>> decoder_named("eft-0.5-cbs-4-4-5").beta
0.5
>>> decoder_named("bom-16") is None
True
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.search import ValueConfig
from trimtab.errors import suggestion
from trimtab.serve.api_errors import ApiError

_NAME = re.compile(
    r"(?P<model>untuned|tuned|eft-(?P<beta>-?\d{1,4}(?:\.\d{1,6})?))?"
    r"(?:(?:^|(?<=.)-)(?:bon-(?P<samples>\d{1,6})|cbs-(?P<width>\d{1,6})-(?P<successors>\d{1,6})-(?P<chunk>\d{1,6})))?"
)
EXAMPLES = ("tuned", "untuned", "bon-16", "cbs-4-4-5", "eft-0.5")
"""Searches that the list of models shows besides the run's decoders, where the loaded models can do them."""


def decoder_named(name: str, model: Literal["large", "untuned"] = "large") -> DecoderConfig | None:
    """The decoder that a name such as `cbs-4-4-5` describes; None where it describes none.

    `model` is the one that is decoded where the name does not say.
    """
    found = _NAME.fullmatch(name)
    if name == "base":
        return DecoderConfig(name=name, model=model)
    if not name or found is None:
        return None
    parts = found.groupdict()
    values: dict[str, object] = {"name": name, "model": model}
    if parts["beta"] is not None:
        values["beta"] = float(parts["beta"])
    elif parts["model"] is not None:
        values["model"] = parts["model"]
    if parts["samples"] is not None:
        values["successors"] = int(parts["samples"])
    elif parts["chunk"] is not None:
        values |= {part: int(parts[part]) for part in ("width", "successors", "chunk")}
    try:
        return DecoderConfig.model_validate(values)
    except pydantic.ValidationError:  # such as bon-0
        return None


def decoders_of(guide: GuideConfig) -> dict[str, DecoderConfig]:
    """The decoders of a run that can be served, by their names.

    A pick by the gold reward among the samples of best-of-N is best-of-N by that reward; other picks are left out.
    How many hypotheses are returned is up to each request.
    """
    served = {}
    for decoder in guide.decoders:
        source = decoder if decoder.best_of is None else guide.decoder(decoder.best_of)
        if decoder.best_of is not None and source.chunk is not None:
            continue
        own: dict[str, Any] = {"name": decoder.name, "n_best": None}
        if decoder.best_of is not None:
            own["value"] = (ValueConfig(by="reward"),)
        served[decoder.name] = source.model_copy(update=own)
    return served


@dataclass(frozen=True)
class ModelNames:
    """Which decoder a model's name stands for.

    `name`: what the decoded model is called, `model` the part that it plays. `decoders`: those of the run. `examples`:
    other searches to list. `missing`: what a decoder needs that is not loaded, in words; None where nothing is missing.
    """

    name: str
    decoders: Mapping[str, DecoderConfig]
    examples: tuple[str, ...] = ()
    model: Literal["large", "untuned"] = "large"
    missing: Callable[[DecoderConfig], str | None] = lambda decoder: None

    def listed(self) -> list[str]:
        """The names that the list of models shows."""
        named = dict.fromkeys([*self.decoders, *self.examples])
        return [self.name, *(f"{self.name}:{name}" for name in named)]

    def known(self, name: str) -> bool:
        """Whether a decoder's name is one of the list."""
        return name == "base" or name in self.decoders or name in self.examples

    def decoder(self, model: str) -> DecoderConfig:
        """The decoder of a model's name.

        Raises:
            ApiError: there is no such model.
        """
        if model == self.name:
            return DecoderConfig(name="base", model=self.model)
        base, _, name = model.partition(":") if model.startswith(f"{self.name}:") else ("", "", "")
        decoder = None
        if base:
            decoder = self.decoders.get(name) or decoder_named(name, self.model)
        if decoder is None:
            raise ApiError.unknown_model(model, suggestion(model, self.listed()))
        self.check(decoder)
        return decoder

    def check(self, decoder: DecoderConfig) -> None:
        """Raise ApiError where a decoder needs what is not loaded."""
        lacking = self.missing(decoder)
        if lacking is not None:
            raise ApiError(400, f"{decoder.name} needs {lacking}, which is not served here", param="model")
