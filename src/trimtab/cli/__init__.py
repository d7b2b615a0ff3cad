"""The command line: one subcommand for each stage, `run` for the whole line, `assets` and `check` beside them.

Imports the heavy libraries only when a stage runs, so that `trimtab --help` answers at once.

    $ trimtab run quickstart
    $ trimtab tune quickstart --set tune.beta=0.2 tune.loss=hinge
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

from trimtab.cli.launch import Launching, launch, print_configuration
from trimtab.cli.options import SHIPPED, Jobs, Options, Sharing, Tracing, experiment_file
from trimtab.cli.results import compare, export, merge, push, save
from trimtab.cli.show import assets, check, guides, status, trace
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import TrimtabError, one_line
from trimtab.executors.threads import wait_briefly
from trimtab.store.distributed import Terminated, first_to_fail, launched
from trimtab.study.options import StudyOptions

if TYPE_CHECKING:
    from trimtab.evaluation.coverage import SetAside
    from trimtab.evaluation.evaluate import Row

__all__ = ["COMMANDS", "SHIPPED", "Options", "experiment_file", "main"]
SHOWN = 5  # prompts set aside that the terminal names

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
    from trimtab.store.lock import command_line

    _run(options, "pairs")  # by this process alone
    sys.exit(launch(*settled, sys.argv[1:], command_line()))


def study(options: Every, how: Annotated[StudyOptions, tyro.conf.arg(name="")]) -> None:
    """Run an experiment in every cell of a grid and under every seed; what cells have in common is made once."""
    from trimtab.study.command import run_command

    path, places = experiment_file(options.file), (options.runs, options.path_map)
    run_command(path, experiment_file, options.overrides, *places, options.quiet, how)


def _run(options: Options, until: str, shard: str | None = None, trace: bool = False, jobs: int = 1) -> None:
    experiment = load_experiment(experiment_file(options.file), options.overrides, options.guides)
    from trimtab.store.blocks import Shard

    share = None if shard is None else Shard.parse(shard)
    from trimtab.assets.resolve import Assets
    from trimtab.executors.run import run as run_steps
    from trimtab.store.progress import watching

    with watching(quiet=options.quiet or not launched().main) as watch:
        assets = Assets(path_map=options.path_map)
        made = run_steps(experiment, options.runs, assets, watch, until, share, trace, jobs)
    if until == "report":
        _print_report(experiment, made.report, made.set_aside, made.path / "report")
    elif launched().main:
        part = until if share is None else f"shard {share} of {until}"
        print(f"{part}: done, in {made.path}")


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
    from trimtab.store.lock import command_line

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
