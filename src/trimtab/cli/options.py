"""What subcommands are given: an experiment, where its models lie, and how its work is shared out.

>>> experiment_file("quickstart").name
'quickstart.yaml'
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from trimtab.errors import ConfigurationError

SHIPPED = Path(__file__).parents[1] / "config" / "presets"

File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")]
Overrides = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="[PART.FIELD=VALUE ...]")]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
PathMap = Annotated[Path | None, tyro.conf.arg(name="path-map")]
GuidesFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class Options:
    """What every command that runs the line is given.

    Args:
        file: An experiment or study file, or the name of one that comes with trimtab (quickstart, chat, slic-smoke).
        overrides: Fields to change, such as tune.beta=0.2 guide.decoders.0.successors=8.
        runs: The folder that holds run directories; this run's is named after the experiment.
        path_map: A YAML file of model or data set names and the local folders they stand for.
        guides: A YAML file of pairs that `guide.pair` may name, besides those that `trimtab guides` lists.
        quiet: Show no progress.
    """

    file: File
    overrides: Overrides = ()
    runs: Path = Path("runs")
    path_map: PathMap = None
    guides: GuidesFile = None
    quiet: bool = False


@dataclass(frozen=True)
class Tracing:
    """What a command is given whose searches can leave traces.

    Args:
        trace: Write each step of each search beside what it decoded, for `trimtab trace` and for the page.
    """

    trace: bool = False


@dataclass(frozen=True)
class Jobs:
    """What a command is given that decodes.

    Args:
        jobs: Decode in so many processes side by side, each with its share of this machine's threads and, where there
            are GPUs, one of them. On a CPU this is faster than one process of many threads.
    """

    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1


@dataclass(frozen=True)
class Sharing:
    """What a command is given whose work several machines can share.

    Args:
        shard: Decode only this share of the blocks, such as 2/4, of stages before that have been run; when all shards
            are done, the same command without it puts them together.
    """

    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None


def experiment_file(name: str) -> Path:
    """The experiment file that a name or path stands for: a file, or one of those that come with trimtab.

    Raises:
        ConfigurationError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).exists():
        raise ConfigurationError(f"{name} is no file: give the path of an experiment file")
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
    raise ConfigurationError(f"there is no file {name}: give the path of an experiment file, or one of {known}")
