"""Checkpoints of a training, from which one that was killed resumes: only whole ones count.

transformers' trainer writes them. Here they are asked for when they are due, sealed, and deleted but for the newest and
the best. How often they are written does not change what is trained.
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
    """The folder of the checkpoints, and the seconds between two of them; at 0 each step has one."""

    folder: Path
    seconds: float = 300.0


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when one is due, and seals it when it has been written.

    None is due at the last step: a trainer that resumes there would take one step too many. Where the last step's model
    is the best one, its weights are kept beside the checkpoint before it, from which a killed training resumes.
    """

    def __init__(self, saving: Saving) -> None:
        self._saving = saving
        self._saved = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # the run may have been moved since this path was written
            state.best_model_checkpoint = str(checkpoint_at(self._saving.folder, state.best_global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = decided_by_main(lambda: time.monotonic() - self._saved >= self._saving.seconds)
        if due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved = time.monotonic()
        args.distributed_state.wait_for_everyone()  # each process has a file of random states in it
        if not launched().main:
            return
        folder = self._saving.folder
        newest, best = (checkpoint_at(folder, step or 0) for step in (state.global_step, state.best_global_step))
        seal(newest)
        if state.global_step < state.max_steps:
            _delete_others(folder, [newest, best])


def resume_point(folder: Path) -> Path | None:
    """The newest whole checkpoint before the last step, or None. All others but the best one are deleted."""
    usable: dict[int, list[Path]] = {}
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if is_sealed(checkpoint):
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            best = [checkpoint_at(folder, state.best_global_step)] if state.best_global_step else []
            # a checkpoint is of no use without the best model, which it refers to
            if state.global_step < state.max_steps and all(map(is_sealed, best)):
                usable[state.global_step] = [checkpoint, *best]
    newest = usable[max(usable)] if usable else []
    _delete_others(folder, newest)
    return newest[0] if newest else None


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where transformers writes the checkpoint of a step."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def _delete_others(folder: Path, kept: Iterable[Path]) -> None:
    for checkpoint in {*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")} - {*kept}:
        discard(checkpoint)
