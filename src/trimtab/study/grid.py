"""From a grid to cells: which fields each cell sets, what it is called, and under which seeds it is repeated.

An axis is a field with its values (`tune.beta: [0.1, 1]`), or a name with settings of several fields that go together
(`strategy: {margin: {pairs.strategy: margin, pairs.margin: {value: 1}}}`). An axis over `seed` or `tune.seed` makes
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
"""Axes by their names; in `grid` each has several settings, in an entry of `cells` one may stand alone."""


@dataclass(frozen=True)
class Setting:
    """One place on an axis: what it is called, and the dotted fields that it sets."""

    label: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Repeat:
    """One repetition of a cell: the seeds that it sets, called `label`, which is empty where there is one only."""

    label: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell: the label of each axis that it sets, the fields, and its repetitions."""

    name: str
    labels: Mapping[str, str]
    fields: Mapping[str, Any]
    repeats: tuple[Repeat, ...]


def is_seed(axis: str) -> bool:
    """Whether the axis repeats cells."""
    return axis.rpartition(".")[2] == "seed"


def cells_of(grid: Block, blocks: Sequence[Block], faults: list[str]) -> list[Cell]:
    """The cells of the grid, then those of each further block, which has the grid's seeds unless it gives its own.

    What is wrong is added to `faults`, each fault with its place; then the cells are of no use.
    """
    axes = {name: _settings(f"grid.{name}", name, given, {}, faults) for name, given in grid.items()}
    named = {name: {setting.label: setting for setting in settings} for name, settings in axes.items()}
    seeds = {name: settings for name, settings in axes.items() if is_seed(name)}
    cells = _product(axes) if set(axes) - set(seeds) or not blocks else []
    for number, block in enumerate(blocks):
        own = {
            name: _settings(f"cells.{number}.{name}", name, given, named.get(name, {}), faults)
            for name, given in block.items()
        }
        cells += _product({**{name: each for name, each in seeds.items() if name not in own}, **own})
    return cells


def _settings(
    place: str, name: str, given: Any, named: Mapping[str, Setting], faults: list[str]
) -> tuple[Setting, ...]:
    """The settings of an axis; `named` are those that its name has in the grid."""
    if given in ([], {}):
        faults.append(f"{place} is empty: give at least one value")
        return ()
    if name.partition(".")[0] in Experiment.model_fields:
        values = given if isinstance(given, list) else [given]
        return tuple(Setting(_label(place, name, value, faults), {name: value}) for value in values)
    if isinstance(given, dict) and all(isinstance(fields, dict) and fields for fields in given.values()):
        faults += [f"{place} has the name {label!r}: {text_wanted(label)}" for label in given if _is_no_name(label)]
        return tuple(Setting(str(label), fields) for label, fields in given.items())
    chosen = given if isinstance(given, list) else [given]
    if named and all(isinstance(label, str) and label in named for label in chosen):
        return tuple(named[label] for label in chosen)
    known = f"one of {', '.join(named)}" if named else "settings, `name: {field: value}` a line"
    faults.append(f"{place} is no field of an experiment: mend its name, or give {known}")
    return ()


def _is_no_name(label: object) -> bool:
    return isinstance(label, bool) or not isinstance(label, str | int | float)


def _label(place: str, name: str, value: Any, faults: list[str]) -> str:
    """What a value is called: itself where that says enough, else with the last part of its field's name."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return f"{name.rpartition('.')[2]}-{str(value).lower()}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    faults.append(
        f"{place}: {value!r} has no name of its own: give it one, as `name: {{{name}: ...}}` under a new axis"
    )
    return ""


def _product(axes: Mapping[str, tuple[Setting, ...]]) -> list[Cell]:
    seeds = [name for name in axes if is_seed(name)]
    others = [name for name in axes if not is_seed(name)]
    repeats = tuple(
        Repeat(_repeat_label(dict(zip(seeds, chosen, strict=True))), _together(chosen))
        for chosen in itertools.product(*(axes[name] for name in seeds))
    )
    return [
        Cell(
            "-".join(_plain(setting.label) for setting in chosen),
            {name: setting.label for name, setting in zip(others, chosen, strict=True)},
            _together(chosen),
            repeats,
        )
        for chosen in itertools.product(*(axes[name] for name in others))
    ]


def _together(settings: Sequence[Setting]) -> dict[str, Any]:
    return {field: value for setting in settings for field, value in setting.fields.items()}


def _repeat_label(chosen: Mapping[str, Setting]) -> str:
    if len(chosen) == 1:
        return f"seed-{next(iter(chosen.values())).label}"
    return "-".join(f"{name.replace('.', '-')}-{setting.label}" for name, setting in chosen.items())


def _plain(label: str) -> str:
    """A label as a part of a name, which may also be the name of a file."""
    return re.sub(r"[^\w.+]+", "-", label).strip("-") or "none"
