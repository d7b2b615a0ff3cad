"""Starts the tuning as several processes, by accelerate's own launcher, with a configuration that comes with trimtab.

`ddp`, `fsdp` and `zero2` are ordinary configuration files of accelerate; any other one can be given by its path. Knows
nothing of what the processes do.

    >>> configuration("ddp").name
    'ddp.yaml'
"""

import contextlib
import importlib.util
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
import yaml

from trimtab.errors import ConfigurationError, shown
from trimtab.store.distributed import COMMAND, Terminated

CONFIGURATIONS = Path(__file__).parent / "accelerate"


@dataclass(frozen=True)
class Launching:
    """What the command is given that several processes, on as many GPUs, can work on.

    Args:
        launch: Start several processes by accelerate: ddp, fsdp, zero2, or the path of a configuration of accelerate.
        processes: How many of them; without it what the configuration says, or one for each GPU.
    """

    launch: Annotated[str | None, tyro.conf.arg(metavar="CONFIGURATION")] = None
    processes: int | None = None

    def settled(self) -> tuple[Path, int] | None:
        """The configuration's file, and how many processes to start; None where none are asked for.

        Raises:
            ConfigurationError: the machine cannot run the configuration, or nothing says how many.
        """
        if self.launch is None:
            if self.processes is not None:
                raise ConfigurationError(
                    f"--processes {self.processes} says how many --launch starts: give --launch ddp"
                )
            return None
        file = configuration(self.launch)
        return file, process_count(file, self.processes)


def print_configuration(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Print where a launch configuration lies, for `accelerate launch --config_file`.

    Args:
        name: ddp, fsdp or zero2.
    """
    print(configuration(name))


def configuration(name: str) -> Path:
    """The file that a name or path of a launch configuration stands for.

    Raises:
        ConfigurationError: there is none.
    """
    shipped = CONFIGURATIONS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(file.stem for file in CONFIGURATIONS.glob("*.yaml")))
    raise ConfigurationError(f"there is no launch configuration {name}: give one of {known}, or a file of accelerate's")


def process_count(file: Path, wanted: int | None) -> int:
    """How many processes to start: as many as wanted, as the file says, or one for each GPU.

    Raises:
        ConfigurationError: the machine cannot run the configuration, or nothing says how many.
    """
    import torch

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        kind, given = str(values["distributed_type"]), values.get("num_processes")
        machines = values.get("num_machines")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise ConfigurationError(
            f"{file} is no configuration of accelerate: write one with `accelerate config --config_file {file}`"
        ) from None
    for name, number in (
        ("--processes", wanted), (f"num_processes in {file}", given), (f"num_machines in {file}", machines)
    ):  # fmt: skip
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise ConfigurationError(f"{name} is {shown(number)} and must be a whole number: mend it, or leave it out")
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} is {number}: give at least 1, or leave it out")
    machines = machines or 1
    gpus = torch.cuda.device_count()
    if kind in ("FSDP", "DEEPSPEED") and gpus == 0:
        raise ConfigurationError(
            f"{file.stem} cuts a model over GPUs, and there is none: accelerate would quietly run DDP on the CPU; "
            "give --launch ddp"
        )
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigurationError(f"{file.stem} needs DeepSpeed: pip install deepspeed, or give --launch fsdp")
    count = next(number for number in (wanted, given, gpus * machines) if number is not None)
    if count < 2:
        raise ConfigurationError(
            f"there is nothing to launch on {gpus} GPUs: leave out --launch, or say in --processes how many to start"
        )
    if 0 < gpus * machines < count:
        fits = gpus * machines
        raise ConfigurationError(f"{count} processes are to be launched on {fits} GPUs: give --processes {fits}")
    return count


def launch(file: Path, count: int, arguments: Sequence[str], command: str) -> int:
    """Run `trimtab` with these arguments as `count` processes; `command` is how the user called it.

    Returns:
        0, or the exit code of the process that failed first: it has said why, and the others were ended.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM has stopped all.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = ["--config_file", str(file), "--num_processes", str(count), "-m", "trimtab", *arguments]
    # DDP would advise in C++ against looking for weights without a gradient, which experts may be
    with _environment({COMMAND: command, "TORCH_CPP_LOG_LEVEL": "ERROR"}), _said_by_processes_alone():
        try:
            launch_command(launch_command_parser().parse_args(options))
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return failure.exitcode if failure.exitcode > 0 else 1
        except SignalException as stop:
            kind = Terminated if stop.sigval == signal.SIGTERM else KeyboardInterrupt
            raise kind from None
    return 0


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _said_by_processes_alone() -> Iterator[None]:
    """Inside, launchers do not log: the process that failed says why, in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
