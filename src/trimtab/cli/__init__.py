"""The command line: a subcommand for each stage, `run` for all of them, and others that show or share what was made.

Heavy libraries are imported where a stage runs, so that `trimtab --help` answers at once.

    $ trimtab run quickstart
    $ trimtab tune quickstart --set tune.beta=0.2 tune.loss=hinge
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

from trimtab.cli.init import init, schema
from trimtab.cli.options import HERE, SHIPPED, Every, Options, Shard, Trace, Who, experiment_file
from trimtab.cli.results import compare, export, merge, push, save
from trimtab.cli.runs import runs
from trimtab.cli.show import assets, check, entries, guides, launch_config, plan, status, trace
from trimtab.errors import TrimtabError, one_line
from trimtab.executors.collector import importing
from trimtab.executors.idle_threads import SERVER_SPINS, SPINS, wait_briefly
from trimtab.executors.options import WorkerOptions
from trimtab.pipeline.stages import COMMAND_WORDS
from trimtab.plugins.load import load_plugins
from trimtab.plugins.registry import registry
from trimtab.serve.options import ServeOptions
from trimtab.store.distributed import first_to_fail, launched
from trimtab.store.lock import command_line
from trimtab.store.stopping import Terminated
from trimtab.study.options import StudyOptions

if TYPE_CHECKING:
    from trimtab.executors.run import Run

__all__ = ["COMMANDS", "SHIPPED", "Options", "experiment_file", "main"]
MAX_SET_ASIDE = 5  # prompts set aside that the terminal names
EARLIER = "Missing earlier steps are made first."


def run(options: Every, who: Who = HERE, trace: Trace = False) -> None:
    """Run a whole experiment, from reviews to the report; what was made before is used again."""
    with _opened(options, who) as run_to:
        made = run_to("report", trace=trace)
    _print_report(made)


def synthesize(options: Every, who: Who = HERE, shard: Shard = None) -> None:
    with _opened(options, who) as run_to:
        made = run_to("synthesize", shard)
    _print_end(made, "synthesize", shard)


def guide(options: Every, who: Who = HERE, shard: Shard = None, trace: Trace = False) -> None:
    with _opened(options, who) as run_to:
        made = run_to("guide", shard, trace=trace)
    _print_end(made, "guide", shard)


def _stage(name: str) -> Callable[..., None]:
    """The subcommand that runs an experiment up to and including one stage."""

    def plain(options: Every, who: Who = HERE) -> None:
        with _opened(options, who) as run_to:
            made = run_to(name)
        _print_end(made, name)

    own: dict[str, Callable[..., None]] = {"synthesize": synthesize, "guide": guide}
    command = own.get(name, plain)
    command.__doc__ = f"{COMMAND_WORDS[name]} {EARLIER}"
    return command


def study(options: Every, how: Annotated[StudyOptions, tyro.conf.arg(name="")]) -> None:
    """Run an experiment in every cell of a grid and with every seed; what cells have in common is made once."""
    with importing():
        from trimtab.study.command import run_command

    run_command(options.path, experiment_file, options.overrides, options.runs, options.path_map, options.quiet, how)


def serve(options: Annotated[ServeOptions, tyro.conf.arg(name="")]) -> None:
    """Serve a run's models and decoders behind OpenAI's protocol."""
    from trimtab.serve.command import run_command

    run_command(options)


@contextlib.contextmanager
def _opened(options: Options, who: WorkerOptions) -> "Iterator[Callable[..., Run]]":
    """Inside, progress is shown. Gives `executors.run.run` for this experiment, which takes the stage to run up to."""
    experiment = options.load()
    with importing():
        from trimtab.assets.resolve import Assets
        from trimtab.executors.run import run as run_steps
        from trimtab.store.progress import watching

    with watching(quiet=options.quiet or not launched().main) as watch:
        assets = Assets(path_map=options.path_map)
        yield partial(run_steps, experiment, options.runs, assets, watch, **dataclasses.asdict(who))


def _print_end(made: "Run", stage: str, shard: str | None = None) -> None:
    if stage == "report":
        _print_report(made)
    elif launched().main:
        from trimtab.store.remote import address_of

        print(f"{stage if shard is None else f'shard {shard} of {stage}'}: done, in {address_of(made.path)}")


def _print_report(made: "Run") -> None:
    from rich.console import Console

    from trimtab.report.overview import table_columns
    from trimtab.report.tables import terminal_tables
    from trimtab.report.verdict import verdict

    console = Console()
    if not console.is_terminal:  # a file has room for the table
        console = Console(width=max(console.width, 120))
    for table in terminal_tables(made.report, console.width, table_columns(made.experiment, made.report)):
        console.print(table)
        console.print()
    # without markup: in a user's names `[red]` is no colour
    for prompt in made.set_aside[:MAX_SET_ASIDE]:
        print(f"{prompt.decoder}: prompt {one_line(prompt.prompt_id)} is set aside, {prompt.why}")
    if len(made.set_aside) > MAX_SET_ASIDE:
        print(f"and {len(made.set_aside) - MAX_SET_ASIDE} more, which the page names")
    console.print(f"{one_line(verdict(made.experiment, made.report))}\n", markup=False, highlight=False)
    print(made.path / "report" / "report.html")


COMMANDS: dict[str, Callable[..., None]] = {
    "init": init,
    "run": run,
    **{stage: _stage(stage) for stage in COMMAND_WORDS},
    "merge": merge,
    "study": study,
    "serve": serve,
    "save": save,
    "push": push,
    "launch-config": launch_config,
    "trace": trace,
    "status": status,
    "runs": runs,
    "export": export,
    "compare": compare,
    "assets": assets,
    "guides": guides,
    "entries": entries,
    "plan": plan,
    "check": check,
    "schema": schema,
}
NAMED_IN_HELP = {"tune": ("loss", "tune.loss"), "pairs": ("strategy", "pairs.strategy")}
"""Subcommands whose help lists the names in a registry, and the field that holds one."""


def main() -> None:
    """The entry point: a user's mistake is one line and exit code 2; Ctrl-C and SIGTERM one line and 130 or 143."""
    wait_briefly(SERVER_SPINS if sys.argv[1:2] == ["serve"] else SPINS)  # before anything imports torch
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"trimtab {version('trimtab')}")
        return
    if not launched().alone:  # DDP warns in C++ that it searches for unused weights, which a model of experts may have
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        if {"-h", "--help"} & set(sys.argv[2:]) and sys.argv[1] in NAMED_IN_HELP:
            _list_names(sys.argv[1])
        with _signals():
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="trimtab",
                description="Tune a small language model towards a reward and steer large frozen ones with it. "
                "`trimtab --version` prints the version.",
            )
    except TrimtabError as error:
        _print_error(one_line(str(error)))
        sys.exit(error.exit_code)
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        _print_error(f"{one_line(f'{file}{error.strerror or error}')}; mend it, and the same command goes on")
        sys.exit(TrimtabError.exit_code)
    except KeyboardInterrupt as stop:
        _print_error(f"stopped; to resume: {command_line()}")
        sys.exit(143 if isinstance(stop, Terminated) else 130)


def _list_names(name: str) -> None:
    """Have the help of a subcommand list the names in its registry."""
    noun, field = NAMED_IN_HELP[name]
    load_plugins()
    names = f"{field} is one of {', '.join(registry(noun))}."
    words = COMMANDS[name].__doc__ or ""
    if names not in words:
        COMMANDS[name].__doc__ = words.replace(EARLIER, f"{EARLIER} {names}")


def _print_error(line: str) -> None:
    """On standard error, by whichever process of a launch fails first."""
    if first_to_fail():
        print(f"trimtab: {line}", file=sys.stderr)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end the run in order, and a second one ends it at once."""
    asked: list[KeyboardInterrupt] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # a launcher passes on the Ctrl-C that its processes have received themselves
        signal.signal(number, signal.SIG_DFL if launched().alone else signal.SIG_IGN)
        asked.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise asked[0]

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception:
        if asked:  # a library made an error of its own of it
            raise asked[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
