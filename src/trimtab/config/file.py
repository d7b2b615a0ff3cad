"""Reads an experiment file, applies overrides such as `tune.beta=0.2` to it, and names all its faults at once.

>>> parse_experiment({"name": "demo", "seed": 3}, origin="demo.yaml").seed
3
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from trimtab.config import yaml_values
from trimtab.config.experiment import Experiment
from trimtab.config.faults import MAX_VALUE_CHARACTERS, faults_in, part_at
from trimtab.config.guides import guide_pair
from trimtab.config.yaml_values import parse_yaml, text_wanted
from trimtab.errors import ConfigurationError, check_type, shown


def load_experiment(path: str | Path, overrides: Sequence[str] = (), guides: str | Path | None = None) -> Experiment:
    """The experiment in a file, with overrides such as `tune.beta=0.2`, whose values are YAML.

    `guides` is a file of guides by name, which win over those of the same name that trimtab knows anyway.

    Raises:
        ConfigurationError: the file cannot be read, or anything in it is wrong; the message lists every fault.
    """
    check_type("path", path, str | Path, "the path of an experiment file")
    check_type("guides", guides, str | Path | None, "the path of a file of guides")
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise ConfigurationError(f"overrides is {shown(overrides)}: give a list of texts, such as ['tune.beta=0.2']")
    values = read_mapping(Path(path))
    if _holds_study(values):
        raise ConfigurationError(f"{path} is a study: run it with `trimtab study`")
    more = None if guides is None else Path(guides)
    return parse_experiment(values, origin=str(path), faults=override(values, overrides), guides=more)


def read_mapping(path: Path) -> dict[str, Any]:
    """The plain mapping in an experiment or study file.

    Raises:
        ConfigurationError: the file cannot be read or holds something else.
    """
    remedy = "give the path of an experiment file"
    return yaml_values.read_mapping(path, "experiment file", remedy=remedy, example="name: my-experiment")


def is_study(path: Path) -> bool:
    """Whether the file holds a study of an experiment (`study.study_file`).

    Raises:
        ConfigurationError: the file cannot be read.
    """
    return _holds_study(read_mapping(path))


def _holds_study(values: dict[str, Any]) -> bool:
    return "experiment" in values


def override(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Apply overrides such as `tune.beta=0.2` to the mapping of an experiment; returns what is wrong with them."""
    faults = []
    for text in overrides:
        key, separator, value = text.partition("=")
        origin = f"override {text!r}"
        try:
            if not separator:
                raise ConfigurationError(f"{origin} has no `=`: write it as part.field=value")
            set_field(values, key.strip(), parse_yaml(value, origin), origin)
        except ConfigurationError as error:
            faults.append(str(error))
    return faults


def parse_experiment(
    values: dict[str, Any], *, origin: str, faults: Sequence[str] = (), guides: Path | None = None
) -> Experiment:
    """The experiment in a plain mapping, `guide.pair` replaced by its models; `guides` is a file of more pairs.

    Raises:
        ConfigurationError: anything in it is wrong; the message begins with `origin` and lists first `faults`, then
            the faults found here.
    """
    messages = list(faults)
    try:
        values = _with_pair(values, guides)
    except ConfigurationError as error:
        messages.append(str(error))
        values = {**values, "guide": {name: part for name, part in values["guide"].items() if name != "pair"}}
    try:
        experiment = Experiment.model_validate(values)
    except pydantic.ValidationError as error:
        messages += faults_in(error, Experiment)
    if messages:
        raise ConfigurationError(f"{origin}: {'; '.join(messages)}")
    return experiment


def _with_pair(values: dict[str, Any], guides: Path | None) -> dict[str, Any]:
    """The mapping with the models of `guide.pair` as `small` and `guide.tuned`.

    Raises:
        ConfigurationError: no file of guides names the pair, or its models are given too.
    """
    match values:
        case {"guide": {"pair": name, **rest}}:
            doubled = [*(["small"] if "small" in values else []), *(["guide.tuned"] if "tuned" in rest else [])]
            if doubled:
                raise ConfigurationError(
                    f"guide.pair stands for small and guide.tuned: drop {', '.join(doubled)}, or it"
                )
            if not isinstance(name, str):
                raise ConfigurationError(f"guide.pair is {shown(name, MAX_VALUE_CHARACTERS)}: {text_wanted(name)}")
            pair = guide_pair(name, guides)
            small, tuned = (model.model_dump(exclude_unset=True) for model in (pair.untuned, pair.tuned))
            return {**values, "small": small, "guide": {**rest, "tuned": tuned}}
    return values


def set_field(values: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set one dotted key of an experiment's mapping; numbers in the key are indices of lists.

    Raises:
        ConfigurationError: there is no such field; the message begins with `origin`.
    """
    *parents, last = key.split(".")
    target: Any = values
    for depth, parent in enumerate(parents, start=1):
        name = parent if isinstance(target, dict) else _index(target, parent, origin)
        if isinstance(target, dict):
            target.setdefault(parent, {})
        part = part_at(parents[:depth], Experiment)
        if isinstance(target[name], str) and part is not None:  # `small: NAME`
            target[name] = part.long_form(target[name])
        target = target[name]
        if not isinstance(target, dict | list):
            raise ConfigurationError(f"{origin}: {parent} is {target!r} and has no fields")
    target[last if isinstance(target, dict) else _index(target, last, origin)] = value


def _index(entries: list[Any], part: str, origin: str) -> int:
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    raise ConfigurationError(f"{origin}: there is no entry {part} in a list of {len(entries)}")
