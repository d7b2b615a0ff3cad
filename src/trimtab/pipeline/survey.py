"""Which way each model of an experiment will be decoded, where it lies, and what it computes in.

Loads the models as a run would, one after the other.

    >>> print_survey([experiment], Assets(), Console())                                 # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from transformers import PreTrainedModel

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.models import ModelConfig
from trimtab.models.agreement import dtype_name
from trimtab.models.attention import CACHE_ATTENTION
from trimtab.models.load_options import quantization_of
from trimtab.models.roles import Weights, load_language_model
from trimtab.models.uncached_model import UncachedModel
from trimtab.store.text_table import print_rows

TRANSFORMERS = {ours: name for name, ours in CACHE_ATTENTION.items()}
"""What configurations call the implementations of attention that decoding puts in transformers' place."""


@dataclass(frozen=True)
class Survey:
    """One model: the parts that it plays, and how it is decoded."""

    parts: str
    name: str
    decoded: str
    device: str = "-"
    dtype: str = "-"
    attention: str = "-"


def print_survey(experiments: Sequence[Experiment], assets: Assets, console: Console) -> None:
    """A table of the models of all these experiments, each model once.

    Raises:
        AssetError: a model cannot be found or trusted.
        ModelError: it cannot play its part.
    """
    columns = ["model", "part", "decoded", "device", "dtype", "attention"]
    rows = [
        [row.name, row.parts, row.decoded, row.device, row.dtype, row.attention] for row in survey(experiments, assets)
    ]
    print_rows(console, columns, rows)


def survey(experiments: Sequence[Experiment], assets: Assets) -> Iterator[Survey]:
    """Every model of the experiments once, with all parts that it plays in them."""
    parts: dict[ModelConfig, list[str]] = {}
    for experiment in experiments:
        for part, config in models_of(experiment):
            roles = parts.setdefault(config, [])
            if part not in roles:
                roles.append(part)
    weights, loaded = Weights(assets), None
    for config, played in parts.items():
        if loaded != config.name:
            weights.drop()  # models with one name may share their weights; others need not be held at the same time
        loaded = config.name
        yield _surveyed(", ".join(played), config, weights)
    if any(experiment.tunes for experiment in experiments):
        yield Survey("tuned", "made from small by this experiment", "as small is")


def models_of(experiment: Experiment) -> Iterator[tuple[str, ModelConfig]]:
    """The models that an experiment names, each with the part that it plays; a model may play several."""
    yield "small", experiment.small
    if experiment.guide.tuned is not None:
        yield "tuned", experiment.guide.tuned
    if experiment.large is not None:
        yield "large", experiment.large
    for decoder in experiment.guide.decoders:
        for term in decoder.terms:
            if term.tuned is not None:
                yield f"tuned of {decoder.name}", term.tuned
            if term.untuned is not None:
                yield f"untuned of {decoder.name}", term.untuned


def _surveyed(parts: str, config: ModelConfig, weights: Weights) -> Survey:
    called = " + ".join(filter(None, (config.name, config.adapter)))
    if config.endpoint is not None:
        return Survey(parts, called, f"served at {config.endpoint.url}, which sends back texts")
    language = load_language_model(config, weights)
    decoded = "through a cache"
    if isinstance(language, UncachedModel):
        decoded = f"read anew for every token: {language.reason}"
    attention = str(language.model.config._attn_implementation)
    attention = TRANSFORMERS.get(attention, attention)
    return Survey(parts, called, decoded, _devices(language.model), _dtype(language.model), attention)


def _devices(model: PreTrainedModel) -> str:
    devices = sorted({str(weight.device) for weight in model.parameters()})
    return ", ".join("memory or disk until it runs" if device == "meta" else device for device in devices)


def _dtype(model: PreTrainedModel) -> str:
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    names = " and ".join(dtype_name(dtype) for dtype in sorted(types, key=lambda dtype: torch.finfo(dtype).bits))
    bits = quantization_of(model)
    return names if bits is None else f"{bits}, computed in {names}"
