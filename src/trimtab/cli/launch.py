"""Starts the tuning in several processes by accelerate's launcher: `trimtab tune --launch ddp`.

`ddp`, `fsdp` and `zero2` are configuration files of accelerate that come with trimtab; a path names any other.

    >>> configuration("ddp").name
    'ddp.yaml'
"""

import importlib.util
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
import yaml

from trimtab.cli.options import named_file
from trimtab.errors import ConfigurationError, shown
from trimtab.store.distributed import COMMAND, Terminated

CONFIGURATIONS = Path(__file__).parent / "accelerate"


def print_configuration(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Print the path of a launch configuration, for `accelerate launch --config_file`.

    Args:
        name: ddp, fsdp or zero2.
    """
    print(configuration(name))


def planned_launch(name: str | None, processes: int | None) -> tuple[Path, int] | None:
    """The configuration's file and the number of processes to start; None where --launch is not given.

    Raises:
        ConfigurationError: the machine cannot run the configuration, or nothing says how many.
    """
    if name is None and processes is not None:
        raise ConfigurationError(f"--processes {processes} says how many --launch starts: give --launch ddp")
    if name is None:
        return None
    file = configuration(name)
    return file, process_count(file, processes)


def configuration(name: str) -> Path:
    """The file of a launch configuration, given by its name or path.

    Raises:
        ConfigurationError: there is none.
    """
    return named_file(name, CONFIGURATIONS, "a configuration of accelerate")


def process_count(file: Path, processes: int | None) -> int:
    """How many processes to start: `processes`, else what the file says, else one for each GPU.

    Raises:
        ConfigurationError: the machine cannot run the configuration, or nothing says how many.
    """
    import torch

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        kind, written, machines = (values.get(key) for key in ("distributed_type", "num_processes", "num_machines"))
    except (yaml.YAMLError, ValueError, AttributeError):
        kind = None
    if kind is None:
        raise ConfigurationError(
            f"{file} is no configuration of accelerate: write one with `accelerate config --config_file {file}`"
        )
    _check_number("--processes", processes)
    _check_number(f"num_processes in {file}", written)
    _check_number(f"num_machines in {file}", machines)
    gpus = torch.cuda.device_count()
    if kind in ("FSDP", "DEEPSPEED") and gpus == 0:
        raise ConfigurationError(
            f"{file.stem} divides a model among GPUs, and there is none: accelerate would silently run DDP on the CPU; "
            "give --launch ddp"
        )
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigurationError(f"{file.stem} needs DeepSpeed: pip install deepspeed, or give --launch fsdp")
    available = gpus * (machines or 1)
    count = int(processes or written or available)
    if count < 2:
        raise ConfigurationError(
            f"there is nothing to launch on {gpus} GPUs: leave out --launch, or say in --processes how many to start"
        )
    if 0 < available < count:
        raise ConfigurationError(
            f"{count} processes are to be launched on {available} GPUs: give --processes {available}"
        )
    return count


def _check_number(name: str, number: object) -> None:
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise ConfigurationError(f"{name} is {shown(number)} and must be a whole number: mend it, or leave it out")
    if number is not None and number < 1:
        raise ConfigurationError(f"{name} is {number}: give at least 1, or leave it out")


def launch_processes(file: Path, count: int, arguments: Sequence[str], command: str) -> int:
    """Run `trimtab` with these arguments in `count` processes; `command` is what the user typed.

    Returns:
        0, or the exit code of the process that failed first: it has printed why, and the others were ended.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM has stopped all.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[COMMAND] = command
    # DDP would warn in C++ against searching for weights without a gradient, which a model of experts may have
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    logging.disable(logging.CRITICAL)  # the process that failed prints why, in one line; the launcher need not
    options = ["--config_file", str(file), "--num_processes", str(count), "-m", "trimtab", *arguments]
    try:
        launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as stop:
        raise (Terminated if stop.sigval == signal.SIGTERM else KeyboardInterrupt) from None
    return 0
