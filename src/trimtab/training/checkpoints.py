"""Checkpoints of a training, from which a killed one goes on: only whole ones count.

transformers' trainer writes them; here is when, what seals them, and which are kept: the newest and the best. When
they are written changes nothing in what is trained. Knows nothing of what is trained.

    >>> trainer.add_callback(Checkpoints(saving))                                       # doctest: +SKIP
    >>> trainer.train(resume_from_checkpoint=resume_point(saving.folder))               # doctest: +SKIP
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trimtab.store.distributed import decided_by_main, launched
from trimtab.store.files import discard, is_sealed, seal


@dataclass(frozen=True)
class Saving:
    """Where checkpoints lie, and how many seconds may pass before the next one; at 0 each step has one."""

    folder: Path
    seconds: float = 300.0


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when it is due, and seals it when it has been written.

    None is due at the last step: a trainer that goes on from there would take one step too many. Where the last step's
    model is the best one its weights are kept beside the checkpoint before it, from which a killed training goes on.
    """

    def __init__(self, saving: Saving) -> None:
        self._saving = saving
        self._saved = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # the run may have been moved since this was noted
            state.best_model_checkpoint = str(_checkpoint(self._saving.folder, state.best_global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = decided_by_main(lambda: time.monotonic() - self._saved >= self._saving.seconds)
        if due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved = time.monotonic()
        args.distributed_state.wait_for_everyone()  # each process has a file of random states in it
        if not launched().main:
            return
        newest = _checkpoint(self._saving.folder, state.global_step)
        seal(newest)
        if state.global_step < state.max_steps:
            _keep(self._saving.folder, [newest, _checkpoint(self._saving.folder, state.best_global_step or 0)])


def resume_point(folder: Path) -> Path | None:
    """The newest whole checkpoint before the last step, or None; later ones, and broken ones, are deleted."""
    whole = {}
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if is_sealed(checkpoint):
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if state.global_step < state.max_steps:
                whole[state.global_step] = (checkpoint, _checkpoint(folder, state.best_global_step or 0))
    # a checkpoint is of use only beside the best model that it speaks of
    usable = [pair for _, pair in sorted(whole.items()) if pair[1].name.endswith("-0") or is_sealed(pair[1])]
    _keep(folder, usable[-1] if usable else [])
    return usable[-1][0] if usable else None


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _keep(folder: Path, checkpoints: Iterable[Path]) -> None:
    kept = set(checkpoints)
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if checkpoint not in kept:
            discard(checkpoint)
