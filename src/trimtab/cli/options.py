"""The options that several subcommands share.

>>> ExperimentOptions("quickstart", sets=(("seed=3", "tune.beta=1"), ("name=mine",))).load().name
'mine'
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError

SHIPPED = Path(__file__).parents[1] / "config" / "presets"

PathMap = Annotated[
    Path | None, arg(help="A YAML file of model or data set names and the local folders they stand for.")
]
GuidesFile = Annotated[
    Path | None,
    arg(metavar="FILE", help="A YAML file of pairs for `guide.pair`, besides those that `trimtab guides` lists."),
]
Jobs = Annotated[
    int,
    arg(
        metavar="N",
        help="Share the work out among N processes, each with its share of the threads and, where there are GPUs, one "
        "of them. On a CPU this is faster than one process with many threads.",
    ),
]
Shard = Annotated[
    str | None,
    arg(
        metavar="I/N",
        help="Decode only one shard of the blocks, such as 2/4; every earlier stage must have run. When all shards are "
        "done, the same command without --shard puts them together.",
    ),
]
Trace = Annotated[
    bool, arg(help="Write each step of each search beside what it decoded, for `trimtab trace` and for the page.")
]
RunName = Annotated[str, Positional, arg(metavar="RUN", help="A run directory, such as runs/quickstart, or its URL.")]


Sets = Annotated[tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="[PART.FIELD=VALUE ...]")]


@dataclass(frozen=True)
class ExperimentOptions:
    """Which experiment.

    Args:
        file: An experiment or study file, or the name of one that comes with trimtab (quickstart, chat, slic-smoke).
        sets: Fields to change, such as tune.beta=0.2 guide.decoders.0.successors=8.
    """

    file: Annotated[str, Positional, arg(metavar="EXPERIMENT")]
    sets: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="[PART.FIELD=VALUE ...]")
    ] = ()
    guides: GuidesFile = None

    @property
    def path(self) -> Path:
        """The file that `file` stands for.

        Raises:
            ConfigurationError: there is none.
        """
        return experiment_file(self.file)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The values of all `--set`, one after the other."""
        return tuple(itertools.chain.from_iterable(self.sets))

    def load(self) -> Experiment:
        """The experiment with all overrides.

        Raises:
            ConfigurationError: the file cannot be read, or anything in it is wrong.
        """
        return load_experiment(self.path, self.overrides, self.guides)


@dataclass(frozen=True)
class Options(ExperimentOptions):
    """An experiment, and how it is run.

    Args:
        runs: The folder that holds run directories, or a URL such as s3://bucket/runs; this run's directory in it is
            named after the experiment.
        quiet: Show no progress.
    """

    runs: str = "runs"
    path_map: PathMap = None
    quiet: bool = False


Every = Annotated[Options, arg(name="")]


def experiment_file(name: str) -> Path:
    """The experiment file at a path, or the one of this name that comes with trimtab.

    Raises:
        ConfigurationError: there is neither.
    """
    return named_file(name, SHIPPED, "an experiment file")


def named_file(name: str, folder: Path, what: str) -> Path:
    """The file at the path `name`, else the YAML file of that name in `folder`, which holds those of trimtab.

    Raises:
        ConfigurationError: there is neither; the message asks for `what`.
    """
    for file in (Path(name), folder / f"{name}.yaml"):
        if file.is_file():
            return file
    if Path(name).exists():
        raise ConfigurationError(f"{name} is no file: give the path of {what}")
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigurationError(f"there is no file {name}: give the path of {what}, or one of {names}")
