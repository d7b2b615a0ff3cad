"""Reads an experiment file, puts overrides on top of it, and names all its faults at once.

No network, no models, no output.

    >>> parse_experiment({"name": "demo", "seed": 3}, origin="demo.yaml").seed
    3
"""

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from trimtab.config.experiment import Experiment
from trimtab.config.guides import guide_pair
from trimtab.config.models import Config
from trimtab.config.yaml_values import parse_yaml, text_wanted
from trimtab.errors import ConfigurationError, shown

LONGEST = 80  # characters of a value that a message repeats


def load_experiment(path: Path, overrides: Sequence[str] = (), guides: Path | None = None) -> Experiment:
    """Read an experiment file and put overrides such as `tune.beta=0.2` on top of it; their values are YAML.

    `guides` is a file of guides by name, which come before those that are known anyway.

    Raises:
        ConfigurationError: the file cannot be read, or anything in it is wrong; the message lists every fault.
    """
    values = read_mapping(path)
    if _holds_study(values):
        raise ConfigurationError(f"{path} is a study: run it with `trimtab study`")
    return parse_experiment(values, origin=str(path), faults=override(values, overrides), guides=guides)


def read_mapping(path: Path) -> dict[str, Any]:
    """The plain mapping that a YAML file holds, each key given once.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path} does not exist: give the path of an experiment file") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{path} is a folder: give the path of an experiment file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds no experiment: it must be a mapping that starts with `name:`")
    return values


def is_study(path: Path) -> bool:
    """Whether the file holds a study of an experiment (`study.study_file`).

    Raises:
        ConfigurationError: the file cannot be read.
    """
    return _holds_study(read_mapping(path))


def _holds_study(values: dict[str, Any]) -> bool:
    return "experiment" in values


def override(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Put overrides such as `tune.beta=0.2` into the mapping of an experiment; gives what is wrong with them."""
    faults = []
    for each in overrides:
        key, separator, text = each.partition("=")
        try:
            if not separator:
                raise ConfigurationError(f"override {each!r} has no `=`: write it as part.field=value")
            set_field(values, key.strip(), _parse_yaml(text, f"override {each!r}"), f"override {each!r}")
        except ConfigurationError as error:
            faults.append(str(error))
    return faults


def with_pair(values: dict[str, Any], guides: Path | None = None) -> dict[str, Any]:
    """An experiment's plain mapping with the models that `guide.pair` stands for, as `small` and `guide.tuned`.

    Raises:
        ConfigurationError: no file of guides names the pair, or its models are given too.
    """
    match values:
        case {"guide": {"pair": pair, **rest}}:
            twice = [*(["small"] if "small" in values else []), *(["guide.tuned"] if "tuned" in rest else [])]
            if twice:
                raise ConfigurationError(f"guide.pair stands for small and guide.tuned: drop {', '.join(twice)}, or it")
            if not isinstance(pair, str):
                raise ConfigurationError(f"guide.pair is {shown(pair, LONGEST)}: {text_wanted(pair)}")
            found = guide_pair(pair, guides)
            small, tuned = (each.model_dump(exclude_unset=True) for each in (found.untuned, found.tuned))
            return {**values, "small": small, "guide": {**rest, "tuned": tuned}}
    return values


def parse_experiment(
    values: dict[str, Any], *, origin: str, faults: Sequence[str] = (), guides: Path | None = None
) -> Experiment:
    """The experiment in a plain mapping, with the models of `guide.pair` by name; `guides` is a file of more names.

    `origin` is named in the message of a ConfigurationError, which lists `faults` that are known already first.
    """
    found = list(faults)
    try:
        values = with_pair(values, guides)
    except ConfigurationError as error:
        found.append(str(error))
        values = {**values, "guide": {name: part for name, part in values["guide"].items() if name != "pair"}}
    experiment = None
    try:
        experiment = Experiment.model_validate(values)
    except pydantic.ValidationError as error:
        found += dict.fromkeys(map(_fault, error.errors()))  # each branch of an `int | str` reports the same
    if found or experiment is None:
        raise ConfigurationError(f"{origin}: {'; '.join(found)}")
    return experiment


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{origin} cannot be read as YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:  # a date such as 2024-99-99, or brackets without end
        raise ConfigurationError(f"{origin} cannot be read as YAML: {' '.join(str(error).split())}") from None


def set_field(values: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set one dotted key of an experiment's mapping; numbers in the key are indices of lists.

    Raises:
        ConfigurationError: there is no such place; the message begins with `origin`.
    """
    *parents, last = key.split(".")
    target: Any = values
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else target[_index(target, parent, origin)]
        if not isinstance(target, dict | list):
            raise ConfigurationError(f"{origin}: {parent} is {target!r} and has no fields")
    if isinstance(target, dict):
        target[last] = value
    else:
        target[_index(target, last, origin)] = value


def _index(entries: list[Any], part: str, origin: str) -> int:
    """The place in a list that a part of a key names."""
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    raise ConfigurationError(f"{origin}: there is no entry {part} in a list of {len(entries)}")


# What pydantic says in words of its own is said in words of an experiment file.
_SAYINGS = {
    "missing": "it is missing: give it",
    "model_type": "give its fields, one `field: value` a line",
    "invalid_key": "write it in quotation marks",
    "tuple_type": "give a list",
    "string_unicode": "it holds half of a character (a lone surrogate): mend the text",
}


def _fault(entry: Any) -> str:
    """One fault of a ValidationError as `path: what is wrong (value)`."""
    if entry["type"] == "extra_forbidden":
        *part, name = entry["loc"]
        known = _fields_at(part)
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"{'.'.join(str(step) or repr('') for step in entry['loc'])} is unknown: {hint}"
    place = ".".join(map(str, _place(entry["loc"])))
    message = wording(entry)
    if entry["type"] in ("value_error", "missing", "invalid_key"):
        return f"{place}: {message}" if place else message
    return f"{place} is {shown(entry['input'], LONGEST)}: {message}"


def wording(entry: Any) -> str:
    """What is wrong by a fault of a ValidationError, in words of an experiment file."""
    if entry["type"] == "string_type":
        return text_wanted(entry["input"])
    message = _SAYINGS.get(entry["type"]) or entry["msg"].removeprefix("Value error, ")
    return message if entry["type"] == "value_error" else f"{message[0].lower()}{message[1:]}"


def _place(location: Sequence[int | str]) -> list[int | str]:
    """The fields and indices of a fault's path, without the branches of a union that pydantic adds to it."""
    part: Any = Experiment
    place: list[int | str] = []
    for step in location:
        if isinstance(step, str) and part is None:
            continue
        place.append(step)
        if isinstance(step, str):
            part = _config_in(part.model_fields[step].annotation) if step in part.model_fields else None
    return place


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the part at `place`."""
    part: Any = Experiment
    for step in place:
        if isinstance(step, int):
            continue
        part = _config_in(part.model_fields[step].annotation)
    return list(part.model_fields)


def _config_in(annotation: Any) -> Any:
    """The Config class inside an annotation such as `X | None` or `tuple[X, ...]`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    arguments = typing.get_args(annotation)
    return next((found for argument in arguments if (found := _config_in(argument)) is not None), None)
