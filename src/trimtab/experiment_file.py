"""Reads an experiment file, puts overrides on top of it, and names all its faults at once.

No network, no models, no output.

    >>> parse_experiment({"name": "demo", "seed": 3}, origin="demo.yaml").seed
    3
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from trimtab.errors import ConfigurationError
from trimtab.experiment import Config, Experiment


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and put overrides such as `tune.beta=0.2` on top of it; their values are YAML.

    Raises:
        ConfigurationError: the file cannot be read, or anything in it is wrong; the message lists every fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path} does not exist: give the path of an experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds no experiment: it must be a mapping that starts with `name:`")
    for override in overrides:
        _apply(values, override)
    return parse_experiment(values, origin=str(path))


def parse_experiment(values: dict[str, Any], *, origin: str) -> Experiment:
    """The experiment in a plain mapping; `origin` is named in the message of a ConfigurationError."""
    try:
        return Experiment.model_validate(values)
    except pydantic.ValidationError as error:
        faults = "; ".join(_fault(entry) for entry in error.errors())
        raise ConfigurationError(f"{origin}: {faults}") from None


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key; numbers in the key are indices of lists."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigurationError(f"override {override!r} has no `=`: write it as part.field=value")
    *parents, last = key.strip().split(".")
    target: Any = values
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else target[_index(target, parent, override)]
        if not isinstance(target, dict | list):
            raise ConfigurationError(f"override {override!r}: {parent} is {target!r} and has no fields")
    value = _parse_yaml(text, f"override {override!r}")
    if isinstance(target, dict):
        target[last] = value
    else:
        target[_index(target, last, override)] = value


def _index(entries: list[Any], part: str, override: str) -> int:
    """The place in a list that a part of an override's key names."""
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    raise ConfigurationError(f"override {override!r}: there is no entry {part} in a list of {len(entries)}")


def _fault(entry: Any) -> str:
    """One fault of a ValidationError as `path: what is wrong (value)`."""
    place = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        known = _fields_at(entry["loc"][:-1])
        close = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1, cutoff=0.5)
        return f"{place} is unknown" + (f": did you mean {close[0]}?" if close else f": known are {', '.join(known)}")
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] in ("value_error", "missing"):
        return f"{place}: {message}" if place else message
    return f"{place} is {entry['input']!r}: {message[0].lower()}{message[1:]}"


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the part at `place`."""
    part: Any = Experiment
    for step in place:
        if isinstance(step, int):
            continue
        part = _config_in(part.model_fields[step].annotation)
    return list(part.model_fields)


def _config_in(annotation: Any) -> Any:
    """The Config class inside an annotation such as `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(found for argument in annotation.__args__ if (found := _config_in(argument)) is not None)
