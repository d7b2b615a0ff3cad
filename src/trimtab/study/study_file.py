"""Reads a study file: an experiment, a grid over its fields, and which decoders are measured.

All faults are named at once, those of the grid and those of every cell's experiment. No network, no models, no output.

    >>> study = load_study(Path("experiments/slic-smoke.yaml"))                         # doctest: +SKIP
    >>> [run.name for run in study.runs]                                                # doctest: +SKIP
    ['hinge', 'sigmoid']
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field

from trimtab.config.experiment import Experiment
from trimtab.config.faults import faults_in
from trimtab.config.file import override, parse_experiment, read_mapping, set_field
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import Config, Name
from trimtab.errors import ConfigurationError
from trimtab.study.grid import Cell, Repeat, cells_of

Find = Callable[[str], Path]
"""The file that the name or path of an experiment stands for."""


class StudyConfig(Config):
    """A study file.

    `experiment` is the name or path of an experiment file, or an experiment itself; `overrides` are dotted fields that
    all cells change in it. `grid` and `cells` are explained in docs/study.md. `measure` names the decoders whose
    responses are measured, each against its model unguided; without it, all that have such a reference.
    `baseline` is the cell that the others are compared with, the first one if none is named.
    """

    name: Name
    experiment: str | dict[str, Any]
    overrides: dict[str, Any] = Field({})
    grid: dict[str, Any] = Field({})
    cells: tuple[dict[str, Any], ...] = ()
    measure: tuple[Name, ...] = ()
    baseline: str | None = Field(None, min_length=1)


@dataclass(frozen=True)
class Run:
    """One repetition of a cell: `values` is its experiment as a plain mapping, `experiment` the same read."""

    cell: Cell
    repeat: Repeat
    values: Mapping[str, Any]
    experiment: Experiment

    @property
    def name(self) -> str:
        return f"{self.cell.name}-{self.repeat.label}" if self.repeat.label else self.cell.name


@dataclass(frozen=True)
class Study:
    """A study that can be run: its cells in order, all their repetitions, and the names of the measured decoders;
    `source` is the file's mapping."""

    name: str
    cells: tuple[Cell, ...]
    runs: tuple[Run, ...]
    measured: tuple[str, ...]
    baseline: str
    source: Mapping[str, Any]

    def decoders(self, run: Run) -> list[DecoderConfig]:
        """The decoders of a run whose scores the study needs: the measured ones, their references, and the untuned
        model where a threshold is relative to its rewards."""
        guide, threshold = run.experiment.guide, run.experiment.evaluate.threshold
        found: dict[str, DecoderConfig] = {}
        if threshold is not None and threshold.value is None:
            found |= {each.name: each for each in guide.decoders if each.plain and each.model == "untuned"}
        for name in self.measured:
            reference = guide.reference_of(guide.decoder(name))
            for decoder in (reference, guide.decoder(name)):
                if decoder is not None:
                    found[decoder.name] = decoder
        return list(found.values())


def load_study(path: Path, overrides: Sequence[str] = (), find: Find = Path) -> Study:
    """Read a study file; overrides such as `tune.epochs=2` change the experiment below the grid.

    Raises:
        ConfigurationError: a file cannot be read, or anything in it is wrong; the message lists every fault.
    """
    values = read_mapping(path)
    try:
        config = StudyConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{path} is no study: {'; '.join(faults_in(error, StudyConfig))}") from None
    faults: list[str] = []
    base = _base(config, path, find)
    for field, value in config.overrides.items():
        _set(base, field, value, f"overrides.{field}", faults)
    faults += override(base, overrides)
    cells = cells_of(config.grid, config.cells, faults)
    if not config.grid and not config.cells:
        faults.append("the grid is empty: give in grid at least one field with its values")
    if faults:
        raise ConfigurationError(f"{path}: {'; '.join(faults)}")
    named = [cell if cell.name else Cell(config.name, cell.labels, cell.fields, cell.repeats) for cell in cells]
    runs = _runs(named, {**base, "name": config.name}, faults)
    if not faults:
        faults += _twins(runs)
    if not faults:
        faults += _strangers(config, named, runs)
    if faults:
        raise ConfigurationError(f"{path}: {'; '.join(dict.fromkeys(faults))}")
    measured = config.measure or _with_reference(runs[0].experiment)
    return Study(config.name, tuple(named), tuple(runs), measured, config.baseline or named[0].name, values)


def _base(config: StudyConfig, path: Path, find: Find) -> dict[str, Any]:
    """The experiment that all cells change; a path is looked up beside the study file first."""
    if isinstance(config.experiment, dict):
        return copy.deepcopy(config.experiment)
    beside = path.parent / config.experiment
    return read_mapping(beside if beside.is_file() else find(config.experiment))


def _runs(cells: Sequence[Cell], base: dict[str, Any], faults: list[str]) -> list[Run]:
    runs = []
    for cell in cells:
        for repeat in cell.repeats:
            values, wrong = copy.deepcopy(base), list[str]()
            for field, value in {**cell.fields, **repeat.fields}.items():
                _set(values, field, copy.deepcopy(value), "grid", wrong)
            try:
                experiment = parse_experiment(values, origin=f"cell {cell.name}", faults=wrong)
            except ConfigurationError as error:
                said = str(error).removeprefix(f"cell {cell.name}: ")
                faults += [said] if said not in faults else []  # a fault that cells share is told once
                continue
            runs.append(Run(cell, repeat, values, experiment))
    return runs


def _set(values: dict[str, Any], field: str, value: Any, origin: str, faults: list[str]) -> None:
    try:
        set_field(values, field, value, origin)
    except ConfigurationError as error:
        faults.append(str(error))


def _twins(runs: Sequence[Run]) -> list[str]:
    """What is wrong where two runs are the same, or have one name."""
    faults = []
    settings: dict[str, str] = {}
    names: set[str] = set()
    for run in runs:
        content = json.dumps(run.experiment.model_dump(mode="json"), sort_keys=True)
        if content in settings:
            faults.append(f"cells {settings[content]} and {run.name} are the same: drop one of them")
        elif run.name.lower() in names:  # its folder would be the other's where file names ignore case
            faults.append(f"two cells are named {run.name}: give one of them settings of another name")
        settings.setdefault(content, run.name)
        names.add(run.name.lower())
    return faults


def _strangers(config: StudyConfig, cells: Sequence[Cell], runs: Sequence[Run]) -> list[str]:
    """Names of decoders and cells that the study does not have."""
    faults = []
    for run in runs:
        known = [decoder.name for decoder in run.experiment.guide.decoders]
        for name in config.measure or _with_reference(runs[0].experiment):
            if name not in known:
                faults.append(
                    f"measure names {name}, which is no decoder of cell {run.cell.name}: it has {', '.join(known)}"
                )
    names = [cell.name for cell in cells]
    if config.baseline is not None and config.baseline not in names:
        faults.append(f"baseline names {config.baseline}, which is no cell: there are {', '.join(names)}")
    return faults


def _with_reference(experiment: Experiment) -> tuple[str, ...]:
    """The decoders that are measured against another; all where none is."""
    guide = experiment.guide
    found = [each.name for each in guide.decoders if guide.reference_of(each) not in (None, each)]
    return tuple(found or [each.name for each in guide.decoders])
