"""Reads a study file: an experiment, a grid over its fields, and which decoders are measured.

All faults are named at once, those of the grid and those of every cell's experiment. Uses no network and no models.
"""

import copy
import dataclasses
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
from trimtab.study.grid import Cell, Setting, cells_of

Find = Callable[[str], Path]
"""Gives the file that the name or path of an experiment stands for."""


class StudyConfig(Config):
    """A study file.

    docs/study.md explains `grid` and `cells`.
    """

    name: Name = Field(examples=["my-study"])
    """The name of the folder of its runs, and of its report."""
    experiment: str | dict[str, Any] = Field(examples=["quickstart"])
    """The name or path of an experiment file, or an experiment itself."""
    overrides: dict[str, Any] = Field({}, examples=[{"tune.epochs": 2}])
    """Dotted fields of the experiment that all cells change."""
    grid: dict[str, Any] = Field({}, examples=[{"tune.beta": [0.1, 1], "tune.seed": [0, 1, 2]}])
    """Dotted fields with their values, of which every combination is a cell; those of seeds repeat each cell."""
    cells: tuple[dict[str, Any], ...] = Field((), examples=[[{"tune.loss": "hinge", "tune.beta": 1}]])
    """Further cells."""
    measure: tuple[Name, ...] = Field((), examples=[["tuned"]])
    """The decoders whose responses are measured, each against its model unguided; without it, all that have such a
    reference."""
    baseline: str | None = Field(None, min_length=1, examples=["sigmoid-0.1"])
    """The cell that the others are compared with; without it the first one."""


@dataclass(frozen=True, eq=False)
class Run:
    """One repetition of a cell, with its experiment."""

    cell: Cell
    repeat: Setting
    experiment: Experiment

    @property
    def name(self) -> str:
        return f"{self.cell.name}-{self.repeat.label}" if self.repeat.label else self.cell.name


@dataclass(frozen=True)
class Study:
    """A study that can be run: its cells in order, all their repetitions, and the names of the measured decoders.

    `source` is the content of its file.
    """

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
        needed: list[DecoderConfig | None] = []
        if threshold is not None and threshold.value is None:
            needed += [decoder for decoder in guide.decoders if decoder.plain and decoder.model == "untuned"]
        for name in self.measured:
            needed += [guide.reference_of(guide.decoder(name)), guide.decoder(name)]
        return list({decoder.name: decoder for decoder in needed if decoder is not None}.values())


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

    def check() -> None:
        if faults:  # a fault that cells share is named once
            raise ConfigurationError(f"{path}: {'; '.join(dict.fromkeys(faults))}")

    base = _base(config, path, find)
    _set_fields(base, config.overrides, "overrides", faults)
    faults += override(base, overrides)
    cells = cells_of(config.grid, config.cells, faults)
    if not config.grid and not config.cells:
        faults.append("the grid is empty: give in grid at least one field with its values")
    check()
    cells = [dataclasses.replace(cell, name=cell.name or config.name) for cell in cells]
    runs = _runs(cells, {**base, "name": config.name}, faults)
    check()
    faults += _duplicates(runs)
    check()
    measured = config.measure or _with_reference(runs[0].experiment)
    faults += _unknown_names(measured, config.baseline, cells, runs)
    check()
    return Study(config.name, tuple(cells), tuple(runs), measured, config.baseline or cells[0].name, values)


def _base(config: StudyConfig, path: Path, find: Find) -> dict[str, Any]:
    """The experiment that all cells change; a path is looked up beside the study file first."""
    if isinstance(config.experiment, dict):
        return copy.deepcopy(config.experiment)
    beside = path.parent / config.experiment
    return read_mapping(beside if beside.is_file() else find(config.experiment))


def _set_fields(values: dict[str, Any], fields: Mapping[str, Any], origin: str, faults: list[str]) -> None:
    """Set dotted fields of an experiment's mapping."""
    for field, value in fields.items():
        try:
            set_field(values, field, copy.deepcopy(value), f"{origin}.{field}")
        except ConfigurationError as error:
            faults.append(str(error))


def _runs(cells: Sequence[Cell], base: dict[str, Any], faults: list[str]) -> list[Run]:
    runs = []
    for cell in cells:
        for repeat in cell.repeats:
            values, wrong = copy.deepcopy(base), list[str]()
            _set_fields(values, {**cell.fields, **repeat.fields}, "grid", wrong)
            try:
                runs.append(Run(cell, repeat, parse_experiment(values, origin=f"cell {cell.name}", faults=wrong)))
            except ConfigurationError as error:
                faults.append(str(error).removeprefix(f"cell {cell.name}: "))
    return runs


def _duplicates(runs: Sequence[Run]) -> list[str]:
    """What is wrong where two runs have the same settings, or one name."""
    faults = []
    first: dict[str, Run] = {}
    names: set[str] = set()
    for run in runs:
        content = json.dumps(run.experiment.model_dump(mode="json"), sort_keys=True)
        if content in first:
            faults.append(f"cells {first[content].name} and {run.name} are the same: drop one of them")
        elif run.name.lower() in names:  # one folder for both where file names ignore case
            faults.append(f"two cells are named {run.name}: give one of them settings of another name")
        first.setdefault(content, run)
        names.add(run.name.lower())
    return faults


def _unknown_names(
    measured: Sequence[str], baseline: str | None, cells: Sequence[Cell], runs: Sequence[Run]
) -> list[str]:
    """Names of decoders and cells that the study does not have."""
    faults = []
    for run in runs:
        known = [decoder.name for decoder in run.experiment.guide.decoders]
        faults += [
            f"measure names {name}, which is no decoder of cell {run.cell.name}: it has {', '.join(known)}"
            for name in measured
            if name not in known
        ]
    names = [cell.name for cell in cells]
    if baseline is not None and baseline not in names:
        faults.append(f"baseline names {baseline}, which is no cell: there are {', '.join(names)}")
    return faults


def _with_reference(experiment: Experiment) -> tuple[str, ...]:
    """The decoders that are measured against another; all where there is none."""
    guide = experiment.guide
    names = [decoder.name for decoder in guide.decoders if guide.reference_of(decoder) not in (None, decoder)]
    return tuple(names or [decoder.name for decoder in guide.decoders])
