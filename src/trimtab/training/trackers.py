"""Trackers of a training: transformers' own integrations, each told where to write and which run it goes on with.

TensorBoard and Weights & Biases write into a folder of the training; trackio keeps its own place. Any other integration
of transformers is passed by name, with its own settings. A training that was killed goes on in the run that it began.

    >>> with tracking(("tensorboard",), Path("trackers"), Path("tune.work"), step=0) as callbacks:  # doctest: +SKIP
    ...     trainer = Trainer(..., callbacks=callbacks)
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, get_available_reporting_integrations

from trimtab.errors import ConfigurationError
from trimtab.store.files import write_json

PROJECT = "trimtab"
RUN = "tracked.json"
"""The name of the run, beside the checkpoints: it lasts as long as there is something to go on from."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigurationError where a tracker is not installed."""
    known = get_available_reporting_integrations()
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigurationError(
            f"tune.trackers names {', '.join(unknown)}: installed are {', '.join(known) or 'none'}; "
            "install it with pip, or drop it"
        )


def run_name(place: Path, checkpoints: Path, step: int) -> str:
    """A name that no other training has, and that this one keeps where it goes on behind `step`."""
    file = checkpoints / RUN
    if step and file.exists():
        name: str = json.loads(file.read_text(encoding="utf-8"))
        return name
    name = f"{place.name}-{secrets.token_hex(3)}"
    write_json(file, name)
    return name


@contextlib.contextmanager
def tracking(names: Sequence[str], place: Path, name: str | None, step: int) -> Iterator[list[TrainerCallback]]:
    """The callbacks of the trackers that this module places; their runs end with the block, however it ends.

    Raises:
        ConfigurationError: a tracker refuses to begin.
    """
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PLACED[each](place, name or "", step)) for each in names if each in PLACED]


def begun_by_the_trainer(names: Sequence[str]) -> list[str] | str:
    """What the trainer is told to report to: the trackers that this module does not place."""
    return [name for name in names if name not in PLACED] or "none"


@contextlib.contextmanager
def _tensorboard(place: Path, name: str, step: int) -> Iterator[TrainerCallback]:
    """Event files in `place/tensorboard`; what an earlier session wrote behind `step` is read no more."""
    from torch.utils.tensorboard import SummaryWriter

    folder = place / "tensorboard"
    if not step:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.closing(SummaryWriter(str(folder), purge_step=step + 1 if step else None)) as writer:
        yield TensorBoardCallback(writer)


@contextlib.contextmanager
def _wandb(place: Path, name: str, step: int) -> Iterator[TrainerCallback]:
    """A run whose id is its name, so that sessions of one training are one run, offline too."""
    import wandb

    place.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(place)),
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


PLACED: dict[str, Callable[[Path, str, int], contextlib.AbstractContextManager[TrainerCallback]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
