"""Trackers of a training: transformers' own integrations, each told where to write and which run it continues.

TensorBoard and Weights & Biases write into a folder of the training; trackio has a place of its own. Any other
integration of transformers is passed on by its name, with its own settings.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, get_available_reporting_integrations

from trimtab.errors import ConfigurationError
from trimtab.store.files import write_json
from trimtab.training.checkpoints import checkpoint_step

PROJECT = "trimtab"
RUN_FILE = "tracked.json"
"""The file with the run's name. It is kept beside the checkpoints, so that a resumed training continues the run."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigurationError where a tracker is not installed."""
    installed = get_available_reporting_integrations()
    unknown = sorted(set(names) - set(installed))
    if unknown:
        raise ConfigurationError(
            f"tune.trackers names {', '.join(unknown)}: installed are {', '.join(installed) or 'none'}; "
            "install it with pip, or drop it"
        )


def begun_by_the_trainer(names: Sequence[str]) -> list[str] | str:
    """Values for the trainer's `report_to`: the trackers that `tracking` does not begin."""
    return [name for name in names if name not in BEGIN] or "none"


@contextlib.contextmanager
def tracking(
    names: Sequence[str], folder: Path, checkpoints: Path, start: Path | None
) -> Iterator[Callable[[Trainer], None]]:
    """Begin the runs of trackers that write into `folder`, and yield a function that adds them to a trainer.

    Where the training resumes from the checkpoint `start`, its runs are continued. They end with the block.

    Raises:
        ConfigurationError: a tracker refuses to begin.
    """
    step = 0 if start is None else checkpoint_step(start)
    name = _run_name(folder.name, checkpoints / RUN_FILE, new=not step) if names else ""
    with contextlib.ExitStack() as stack:
        callbacks = [stack.enter_context(BEGIN[tracker](folder, name, step)) for tracker in names if tracker in BEGIN]

        def track(trainer: Trainer) -> None:
            for callback in callbacks:
                trainer.add_callback(callback)
            trainer.args.run_name = name or None

        yield track


def _run_name(prefix: str, file: Path, *, new: bool) -> str:
    """A name that no other training has; a training that resumes keeps the one in `file`."""
    if file.exists() and not new:
        return str(json.loads(file.read_text(encoding="utf-8")))
    name = f"{prefix}-{secrets.token_hex(3)}"
    write_json(file, name)
    return name


@contextlib.contextmanager
def _tensorboard(folder: Path, name: str, step: int) -> Iterator[TrainerCallback]:
    """Event files in `folder/tensorboard`; readers ignore what an earlier session wrote after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    events = folder / "tensorboard"
    if not step:
        shutil.rmtree(events, ignore_errors=True)
    with contextlib.closing(SummaryWriter(str(events), purge_step=step + 1 if step else None)) as writer:
        yield TensorBoardCallback(writer)


@contextlib.contextmanager
def _wandb(folder: Path, name: str, step: int) -> Iterator[TrainerCallback]:
    """A run whose id is its name, so that all sessions of one training are one run, offline too."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(folder)),
            id=name,
            name=name,
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise ConfigurationError(
            f"tune.trackers: wandb does not begin ({' '.join(str(error).split())[:200]}): run `wandb login`, set "
            "WANDB_MODE=offline, or drop it"
        ) from None
    with run:
        yield WandbCallback()


BEGIN: dict[str, Callable[[Path, str, int], contextlib.AbstractContextManager[TrainerCallback]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
