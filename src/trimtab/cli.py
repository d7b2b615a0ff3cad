"""The command line: one subcommand for each stage, `run` for the whole line, `assets` and `check` beside them.

Imports the heavy libraries only when a stage runs, so that `trimtab --help` answers at once.

    $ trimtab run quickstart
    $ trimtab tune quickstart --set tune.beta=0.2 tune.loss=hinge
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

from trimtab.cli_results import compare, export
from trimtab.errors import ConfigurationError, DataError, TrimtabError, one_line
from trimtab.experiment import Experiment
from trimtab.experiment_file import is_study, load_experiment
from trimtab.launched import Terminated, first_to_fail, launched
from trimtab.launcher import Launching, launch, print_configuration
from trimtab.openmp import wait_briefly
from trimtab.study.options import StudyOptions
from trimtab.study.study_file import load_study

if TYPE_CHECKING:
    from trimtab.evaluation.coverage import SetAside
    from trimtab.evaluation.evaluate import Row

SHIPPED = Path(__file__).parent / "experiments"
SHOWN = 5  # prompts set aside that the terminal names

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


Every = Annotated[Options, tyro.conf.arg(name="")]
Traced = Annotated[Tracing, tyro.conf.arg(name="")]
Shared = Annotated[Sharing, tyro.conf.arg(name="")]
Beside = Annotated[Jobs, tyro.conf.arg(name="")]
Launches = Annotated[Launching, tyro.conf.arg(name="")]


def run(options: Every, beside: Beside, tracing: Traced) -> None:
    """Run a whole experiment, from reviews to the report; what has been made before is used again."""
    _run(options, "report", trace=tracing.trace, jobs=beside.jobs)


def _stage(name: str, what: str) -> Callable[..., None]:
    """A subcommand that runs the line up to and including one stage."""

    def command(options: Every) -> None:
        _run(options, name)

    command.__doc__ = f"{what} {_BEFORE}"
    return command


def _shared_stage(name: str, what: str) -> Callable[..., None]:
    """A subcommand of a stage that several processes or machines can share."""

    def command(options: Every, beside: Beside, sharing: Shared) -> None:
        _run(options, name, shard=sharing.shard, jobs=beside.jobs)

    command.__doc__ = f"{what} {_BEFORE}"
    return command


_BEFORE = "Stages before it are run where they have not been."


def guide(options: Every, beside: Beside, sharing: Shared, tracing: Traced) -> None:
    """Decode the test prompts with every decoder of the experiment. Stages before it are run where they have not
    been."""
    _run(options, "guide", shard=sharing.shard, trace=tracing.trace, jobs=beside.jobs)


def tune(options: Every, launching: Launches) -> None:
    """Tune the small model on the pairs, by DPO or SLiC-HF. Stages before it are run where they have not been."""
    settled = launching.settled() if launched().alone else None
    if settled is None:
        _run(options, "tune")
        return
    from trimtab.lock import command_line

    _run(options, "pairs")  # by this process alone
    sys.exit(launch(*settled, sys.argv[1:], command_line()))


def merge(
    directories: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")],
    into: Path | None = None,
) -> None:
    """Put the shards of a run together: all must be there, none twice, and of one configuration.

    Args:
        directories: Run directories that hold shards, such as runs/a/quickstart runs/b/quickstart.
        into: The run directory to put them together in; with a single directory, that one.
    """
    from trimtab.merging import merge_shards

    for line in merge_shards(directories, into):
        print(line)


def save(run: RunFolder, folder: Annotated[Path, tyro.conf.Positional], adapter: bool = False) -> None:
    """Save a run's tuned guide as a folder of transformers or PEFT, with a model card.

    Args:
        run: A run directory, such as runs/quickstart.
        folder: The new folder.
        adapter: The LoRA adapter alone, for PEFT, and not the whole model.
    """
    from trimtab.sharing import save_guide

    print(save_guide(run, folder, adapter=adapter))


def push(
    run: RunFolder, name: Annotated[str, tyro.conf.Positional], adapter: bool = False, public: bool = False
) -> None:
    """Upload a run's tuned guide to the model hub, with a model card; private unless told otherwise.

    Args:
        run: A run directory, such as runs/quickstart.
        name: Its name there, such as someone/my-guide.
        adapter: The LoRA adapter alone, for PEFT, and not the whole model.
        public: Let everybody see it, where it is new.
    """
    from trimtab.sharing import push_guide

    print(push_guide(run, name, adapter=adapter, public=public))


def trace(file: Annotated[Path, tyro.conf.Positional], prompt: str | None = None) -> None:
    """Show how a search came to its answer, as a tree: every candidate, its value, and which went on.

    Args:
        file: A trace, such as runs/quickstart/traces/cbs-4-4-5-0123456789ab.jsonl.
        prompt: The id of the prompt to show; without it the file's first.
    """
    from rich.console import Console

    from trimtab.report.search_tree import search_tree
    from trimtab.search.trace import read_traces

    searches = read_traces(file)
    if not searches:
        raise DataError(f"{file} holds no step: write it anew with --trace")
    chosen = next(iter(searches)) if prompt is None else prompt
    if chosen not in searches:
        some = ", ".join([*searches][:3])
        raise DataError(f"{file} has no prompt {chosen!r}: give one of its {len(searches)}, such as {some}")
    Console().print(search_tree(searches[chosen]))


def study(options: Every, how: Annotated[StudyOptions, tyro.conf.arg(name="")]) -> None:
    """Run an experiment in every cell of a grid and under every seed; what cells have in common is made once."""
    from trimtab.study.command import run_command

    path, places = experiment_file(options.file), (options.runs, options.path_map)
    run_command(path, experiment_file, options.overrides, *places, options.quiet, how)


def status(directory: Annotated[Path, tyro.conf.Positional], json: bool = False) -> None:
    """Say how far a run is, from another terminal: its stages, rates and time left, and whether its process lives.

    Args:
        directory: A run directory, such as runs/quickstart.
        json: Print one JSON object instead of a table.
    """
    from rich.console import Console

    from trimtab.status import print_status

    print_status(directory, Console(), as_json=json)


def assets(path_map: PathMap = None) -> None:
    """List the models and data sets that need no hub: where they lie, their licences and sizes.

    Args:
        path_map: A YAML file of model or data set names and the local folders they stand for.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trimtab.assets.resolve import Assets

    found = Assets(path_map=path_map)
    table = Table("name", "kind", "what", "licence", "size", "lies in", title=Text(f"cache: {found.cache}"))
    for row in found.describe():
        place = str(row.place) if row.place is not None else "not downloaded"
        table.add_row(row.name, row.kind, row.what, row.licence, f"{row.size / 1e6:.0f} MB", Text(place))
    Console().print(table)


def guides(guides: GuidesFile = None) -> None:
    """List the guides that `guide.pair` may name: pairs of a tuned model and its untuned self.

    Args:
        guides: A YAML file of more pairs.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trimtab.guides import SHIPPED, guide_pairs

    table = Table("name", "what", "tuned", "untuned", "from")
    for name, pair in guide_pairs(guides).items():
        tuned = " + ".join(filter(None, (pair.tuned.name, pair.tuned.adapter)))
        source = "trimtab" if pair.source == SHIPPED else str(pair.source)
        table.add_row(*map(Text, (name, pair.what, tuned, pair.untuned.name, source)))
    Console().print(table)


def check(
    file: File,
    overrides: Overrides = (),
    guides: GuidesFile = None,
    models: bool = False,
    path_map: PathMap = None,
) -> None:
    """Check an experiment or study file and say what is wrong with it; runs nothing.

    Args:
        file: An experiment or study file, or the name of one that comes with trimtab.
        overrides: Fields to change, such as tune.beta=0.2.
        guides: A YAML file of pairs that `guide.pair` may name, besides those that `trimtab guides` lists.
        models: Load its models too, and show which way each will be decoded, on which device, in which dtype.
        path_map: A YAML file of model names and the local folders they stand for, for --models.
    """
    path = experiment_file(file)
    if is_study(path):
        planned = load_study(path, overrides, experiment_file)
        experiments = [run.experiment for run in planned.runs]
        print(f"{planned.name}: sound; {len(planned.cells)} cells, {len(planned.runs)} runs")
    else:
        experiments = [load_experiment(path, overrides, guides)]
        names = ", ".join(decoder.name for decoder in experiments[0].guide.decoders)
        print(f"{experiments[0].name}: sound; decoders {names}")
    if models:
        from rich.console import Console

        from trimtab.assets.resolve import Assets
        from trimtab.models.survey import print_survey

        print_survey(experiments, Assets(path_map=path_map), Console(width=max(Console().width, 100)))


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


def _run(options: Options, until: str, shard: str | None = None, trace: bool = False, jobs: int = 1) -> None:
    experiment = load_experiment(experiment_file(options.file), options.overrides, options.guides)
    from trimtab.blocks import Shard

    share = None if shard is None else Shard.parse(shard)
    from trimtab import pipeline
    from trimtab.assets.resolve import Assets
    from trimtab.progress import watching

    with watching(quiet=options.quiet or not launched().main) as watch:
        assets = Assets(path_map=options.path_map)
        line = pipeline.run(experiment, options.runs, assets, watch, until, share, trace, jobs)
    if until == "report":
        _print_report(experiment, line.report, line.set_aside, line.directory.path / "report")
    elif launched().main:
        part = until if share is None else f"shard {share} of {until}"
        print(f"{part}: done, in {line.directory.path}")


def _print_report(experiment: Experiment, rows: "Sequence[Row]", aside: "Sequence[SetAside]", folder: Path) -> None:
    from rich.console import Console

    from trimtab.report.columns import columns_of
    from trimtab.report.tables import terminal_table
    from trimtab.report.verdict import verdict

    width = max(Console().width, 100)  # what the table needs, also where the output is a file
    console = Console(width=width)
    console.print(terminal_table(rows, width, columns_of(experiment, rows)))
    # names are the user's: in them `[red]` is no colour
    for each in aside[:SHOWN]:
        print(f"{each.decoder}: prompt {one_line(each.prompt_id)} is set aside, {each.why}")
    if len(aside) > SHOWN:
        print(f"and {len(aside) - SHOWN} more, which the page names")
    said = f"\n{one_line(verdict(experiment, rows))}\n\n{folder / 'report.html'}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "data": _stage("data", "Split the reviews and cut prompts from them."),
    "reward": _stage("reward", "Train and calibrate the gold reward, and fit the second judge."),
    "sft": _stage("sft", "Train the small model on reviews, so that it writes them from its start token alone."),
    "synthesize": _shared_stage(
        "synthesize", "Sample the untuned small model and score its samples with the gold reward."
    ),
    "pairs": _stage("pairs", "Make preference pairs of the samples."),
    "tune": tune,
    "guide": guide,
    "evaluate": _stage("evaluate", "Score what the decoders wrote."),
    "report": _stage("report", "Write the tables, the figures and the page."),
    "merge": merge,
    "study": study,
    "save": save,
    "push": push,
    "launch-config": print_configuration,
    "trace": trace,
    "status": status,
    "export": export,
    "compare": compare,
    "assets": assets,
    "guides": guides,
    "check": check,
}


def main() -> None:
    """The entry point: a user's mistake is one line and exit code 2; Ctrl-C and SIGTERM one line and 130 or 143."""
    from trimtab.lock import command_line

    wait_briefly()  # before anything imports torch
    try:
        with _signals():
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="trimtab",
                args=with_one_set(sys.argv[1:]),
                description="Tune a small language model towards a reward and steer large frozen ones with it.",
            )
    except TrimtabError as error:
        _tell(one_line(str(error)))
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = one_line(f"{place}{error.strerror or error}")
        _tell(f"{reason}; mend it, and the same command goes on")
        sys.exit(TrimtabError.exit_code)
    except KeyboardInterrupt as stop:
        if launched().alone:  # who launched several processes says it
            _tell(f"stopped; this goes on where it was: {command_line()}")
        sys.exit(143 if isinstance(stop, Terminated) else 130)


def with_one_set(arguments: Sequence[str]) -> list[str]:
    """The arguments with the values of all `--set` behind the first one: of several, tyro would keep the last alone.

    >>> with_one_set(["run", "mine", "--set", "seed=1", "--set=name=a", "--jobs", "2", "--set", "tune.beta=1"])
    ['run', 'mine', '--set', 'seed=1', 'name=a', 'tune.beta=1', '--jobs', '2']
    """
    others: list[str] = []
    values: list[str] = []
    first, taking = None, False
    for argument in arguments:
        flag, sign, value = argument.partition("=")
        if flag == "--set":
            first = len(others) if first is None else first
            taking = not sign
            values += [value] if sign else []
        elif taking and not argument.startswith("--"):
            values.append(argument)
        else:
            taking = False
            others.append(argument)
    return others if first is None else [*others[:first], "--set", *values, *others[first:]]


def _tell(line: str) -> None:
    """On standard error, by whichever process of a launch comes first."""
    if first_to_fail():
        print(f"trimtab: {line}", file=sys.stderr)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end what runs in order, and a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        # a launcher passes on the Ctrl-C that its processes have seen themselves
        signal.signal(number, signal.SIG_DFL if launched().alone else signal.SIG_IGN)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
