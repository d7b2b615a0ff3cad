"""What the folders of a run directory were made from, in words: only what sets folders of one step apart.

>>> differences([{"tune.beta": 1, "seed": 0}, {"tune.beta": 2, "seed": 0}])
['tune.beta 1', 'tune.beta 2']
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from trimtab.config.guide import DecoderConfig
from trimtab.errors import RunError, shown
from trimtab.pipeline.decoded import ARTIFACTS, GENERATIONS, SCORES
from trimtab.pipeline.reports import REPORT, SETTINGS, read_if_any

STAGES = (
    "data", "trial", "reward", "judge", "sft", "synthesize", "pairs", "tune", "guide", "evaluate", "divergence", REPORT,
)  # fmt: skip
MADE_FROM = "made_from.json"
MAX_VALUE_CHARACTERS = 40  # characters of a setting's value that are shown

Settings = dict[str, Any]
"""Settings by their dotted names, such as `tune.beta`."""


@dataclass
class Folder:
    """A folder of a run: its step, its settings with those of all that it was made from, and the reports that show it.

    `apart` are the settings that set it apart from other folders of its step, in words.
    """

    name: str
    step: str
    settings: Settings
    reports: list[str] = field(default_factory=list)
    apart: str = ""


def run_directories(directory: Path) -> list[Path]:
    """The directory itself where it is that of a run, else the run directories in it.

    Raises:
        RunError: there are none.
    """
    if [*directory.glob(f"*-????????????/{MADE_FROM}")]:
        return [directory]
    found = sorted({file.parents[1] for file in directory.glob(f"*/*-????????????/{MADE_FROM}")})
    if not found:
        raise RunError(f"{directory} holds no run: give the directory of one, such as runs/quickstart")
    return found


def contents(run: Path) -> list[Folder]:
    """The artifacts and reports of a run directory, those of one step beside each other.

    Raises:
        RunError: what one was made from cannot be read.
    """
    pages = {path.parent for name in (SETTINGS, ARTIFACTS) for path in run.glob(f"{REPORT}*/{name}")}
    reports = {folder.name: read_if_any(folder / ARTIFACTS) for folder in sorted(pages)}
    made = {path.parent.name: _read(path) for path in sorted(run.glob(f"*-????????????/{MADE_FROM}"))}
    names = {folder: step for artifacts in reports.values() for step, folder in artifacts.items()}
    names |= dict(_linked(run))
    folders = []
    for name, made_from in made.items():
        shown_in = [report for report, artifacts in reports.items() if name in artifacts.values()]
        folders.append(Folder(name, names.get(name) or step_of(made_from), inherited(name, made), shown_in))
    folders += [Folder(name, REPORT, flat(read_if_any(run / name / SETTINGS))) for name in reports]
    for step in {folder.step for folder in folders}:
        alike = [folder for folder in folders if folder.step == step]
        for folder, apart in zip(alike, differences([folder.settings for folder in alike]), strict=True):
            folder.apart = apart
    return sorted(folders, key=lambda folder: (STAGES.index(folder.name.rpartition("-")[0] or REPORT), folder.step))


def _linked(run: Path) -> Iterator[tuple[str, str]]:
    """The folders that links with the names of decoders lead to, each with its step."""
    for kind, stage in ((GENERATIONS, "guide"), (SCORES, "evaluate")):
        for link in run.glob(f"decoders/*/{kind}"):
            yield link.resolve().name, f"{stage} {link.parent.name}"


def _read(file: Path) -> dict[str, Any]:
    values = read_if_any(file)
    if not {"stage", "configuration", "inputs"} <= values.keys():
        raise RunError(f"{file.parent} is damaged ({MADE_FROM}): delete the folder and run the same command again")
    return values


def step_of(made_from: Mapping[str, Any]) -> str:
    """The name of the step that an artifact without a link or report is of."""
    stage, configuration = made_from["stage"], made_from["configuration"]
    name = configuration.get("split") or configuration.get("decoder")
    if isinstance(name, dict):
        try:
            name = DecoderConfig.model_validate(name).name
        except pydantic.ValidationError:  # of a plug-in that is not loaded, or of another version
            name = None
    return f"{stage} {name}" if name else str(stage)


def inherited(name: str, made: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings of an artifact and of all that it was made from; of inputs that are gone, their hashes."""
    made_from = made[name]
    folders = {folder.rpartition("-")[2]: folder for folder in made}
    settings: Settings = {}
    for digest in made_from["inputs"]:
        before = inherited(folders[digest], made) if digest in folders else {f"input {digest}": "gone"}
        settings |= {key: value for key, value in before.items() if key != "split"}
    own = flat(made_from["configuration"])
    if made_from["stage"] == "tune" and "seed" in own:
        own["tune.seed"] = own.pop("seed")
    return {**settings, **own, "trimtab": made_from.get("trimtab")}


def flat(values: Any, name: str = "") -> Settings:
    """Nested settings by their dotted names; `small is` of a made artifact becomes `files of small`."""
    if isinstance(values, dict) and values:
        parts = [flat(value, f"{name}.{key}".lstrip(".")) for key, value in values.items()]
        return {key: value for part in parts for key, value in part.items()}
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return flat({str(index): value for index, value in enumerate(values)}, name)
    if name.endswith(" is"):
        name = f"files of {name.removesuffix(' is')}"
    return {name: values} if name else {}


def differences(several: Sequence[Settings]) -> list[str]:
    """Of each, the settings that are not the same in all, in words."""
    names = dict.fromkeys(name for settings in several for name in settings)
    unlike = [name for name in names if any(each.get(name) != several[0].get(name) for each in several)]
    return [
        ", ".join(f"{name} {_value(settings[name])}" for name in unlike if name in settings) for settings in several
    ]


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else shown(value, MAX_VALUE_CHARACTERS)
