"""From a grid to cells: the fields that each cell sets, its name, and the seeds under which it is repeated.

An axis is a field with its values (`tune.beta: [0.1, 1]`), or a name with settings of several fields that go together
(`strategy: {margin: {pairs.strategy: margin, pairs.margin: {value: 1}}}`). An axis over `seed` or `tune.seed` adds
no cells: it repeats each.

>>> [cell.name for cell in cells_of({"tune.loss": ["hinge"], "tune.beta": [0.1, 1], "tune.seed": [0, 1]}, (), [])]
['hinge-0.1', 'hinge-1']
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.config.yaml_values import text_wanted

Block = Mapping[str, Any]
"""Axes by their names, each with its settings; in an entry of `cells` a single setting needs no list."""


@dataclass(frozen=True)
class Setting:
    """One value of an axis, or of several axes together: its label, and the dotted fields that it sets."""

    label: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell: its label on each axis, the fields that it sets, and the seeds of its repetitions.

    The label of a repetition is empty where there is one only.
    """

    name: str
    labels: Mapping[str, str]
    fields: Mapping[str, Any]
    repeats: tuple[Setting, ...]


def cells_of(grid: Block, blocks: Sequence[Block], faults: list[str]) -> list[Cell]:
    """The cells of the grid, then those of each further block, which has the grid's seeds unless it gives its own.

    Adds what is wrong to `faults`, each fault with its place in the file; the cells are then of no use.
    """
    axes = {name: _settings(f"grid.{name}", name, values, (), faults) for name, values in grid.items()}
    seeds = {name: settings for name, settings in axes.items() if _is_seed(name)}
    cells = _product(axes) if axes.keys() - seeds.keys() or not blocks else []
    for number, block in enumerate(blocks):
        more = {
            name: _settings(f"cells.{number}.{name}", name, values, axes.get(name, ()), faults)
            for name, values in block.items()
        }
        cells += _product({**seeds, **more})
    return cells


def _is_seed(axis: str) -> bool:
    """Whether the axis repeats cells."""
    return axis.rpartition(".")[2] == "seed"


def _settings(place: str, axis: str, values: Any, known: Sequence[Setting], faults: list[str]) -> tuple[Setting, ...]:
    """The settings of an axis; `known` are those that an axis of this name has in the grid."""
    if values in ([], {}):
        faults.append(f"{place} is empty: give at least one value")
        return ()
    listed = values if isinstance(values, list) else [values]
    if axis.partition(".")[0] in Experiment.model_fields:
        return tuple(Setting(_label(place, axis, value, faults), {axis: value}) for value in listed)
    if isinstance(values, dict) and all(isinstance(fields, dict) and fields for fields in values.values()):
        unnamed = [label for label in values if isinstance(label, bool) or not isinstance(label, str | int | float)]
        faults += [f"{place} has the name {label!r}: {text_wanted(label)}" for label in unnamed]
        return tuple(Setting(str(label), fields) for label, fields in values.items())
    named = {setting.label: setting for setting in known}
    if named and all(isinstance(label, str) and label in named for label in listed):
        return tuple(named[label] for label in listed)
    choices = f"one of {', '.join(named)}" if named else "settings, `name: {field: value}` a line"
    faults.append(f"{place} is no field of an experiment: mend its name, or give {choices}")
    return ()


def _label(place: str, field: str, value: Any, faults: list[str]) -> str:
    """The label of a field's value: the value itself where it is readable alone, else with the field's last name."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return f"{field.rpartition('.')[2]}-{str(value).lower()}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    faults.append(
        f"{place}: {value!r} has no name of its own: give it one, as `name: {{{field}: ...}}` under a new axis"
    )
    return ""


def _product(axes: Mapping[str, Sequence[Setting]]) -> list[Cell]:
    """A cell for each choice of one setting an axis; axes over seeds give the repetitions of each."""
    seeds = {name: settings for name, settings in axes.items() if _is_seed(name)}
    others = {name: settings for name, settings in axes.items() if name not in seeds}
    repeats = tuple(
        Setting(_seed_label(seeds, chosen), _fields(chosen)) for chosen in itertools.product(*seeds.values())
    )
    return [
        Cell(
            "-".join(_file_name(setting.label) for setting in chosen),
            {name: setting.label for name, setting in zip(others, chosen, strict=True)},
            _fields(chosen),
            repeats,
        )
        for chosen in itertools.product(*others.values())
    ]


def _fields(settings: Sequence[Setting]) -> dict[str, Any]:
    return {field: value for setting in settings for field, value in setting.fields.items()}


def _seed_label(axes: Mapping[str, Any], chosen: Sequence[Setting]) -> str:
    names = ["seed"] if len(axes) == 1 else [axis.replace(".", "-") for axis in axes]
    return "-".join(f"{name}-{setting.label}" for name, setting in zip(names, chosen, strict=True))


def _file_name(label: str) -> str:
    """The label as a part of a name, which may also be the name of a file."""
    return re.sub(r"[^\w.+]+", "-", label).strip("-") or "none"
