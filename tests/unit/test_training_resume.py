"""A training that was stopped and taken up again ends in the same bytes: weights, adapter, log and report."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from test_training_preference import TRAIN, VALIDATION, settings
from test_training_reward import config as reward_config
from test_training_reward import encoder, reviews  # noqa: F401 (encoder is a fixture)

from tiny import llama, tokenizer
from trimtab.assets.resolve import Assets
from trimtab.store.files import SEAL, is_sealed
from trimtab.training.checkpoints import Saving, resume_point
from trimtab.training.job import TrainingJob
from trimtab.training.preference import tune
from trimtab.training.reward import train_reward


class Killed(BaseException):
    """Ends a training as a signal would: nothing in it may catch this."""


def stops_after(calls: int):
    told = itertools.count(1)

    def advance(done: int, total: int) -> None:
        assert done <= total
        if next(told) == calls:
            raise Killed

    return advance


def tuned(folder: Path, saving: Saving, config, advance=lambda done, total: None) -> dict[str, bytes]:
    model, job = llama(0, dtype=torch.float32), TrainingJob(folder, 0, advance, saving)
    summary = tune(TRAIN, VALIDATION, model, tokenizer(), config, job)
    files = ["log.jsonl", "model/model.safetensors"] + ["adapter/adapter_model.safetensors"] * bool(config.lora)
    return {"summary": json.dumps(summary).encode(), **{name: (folder / name).read_bytes() for name in files}}


SETTINGS = {
    "adapter with dropout": {"lora": {"rank": 4, "dropout": 0.2}, "logging_steps": 3},
    "all weights": {"lora": None, "learning_rate": 3e-3, "logging_steps": 4, "optimizer": "rmsprop"},
    "accumulation": {"gradient_accumulation": 2, "schedule": "cosine", "warmup": 0.3, "weight_decay": 0.1},
    "best is early": {"lora": None, "learning_rate": 0.1, "evaluations": 12},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_tuning_stopped_again_and_again_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    """A checkpoint at each step against none: so their number changes nothing. Stops lie in both epochs."""
    config = settings(**SETTINGS[name])
    whole = tuned(tmp_path / "whole", Saving(tmp_path / "rare", 1e9), config)
    saving, stops = Saving(tmp_path / "often", 0), 0
    for calls in (4, 12, 3, 5, 9, 4, 100):  # batches between one stop and the next, reference and evaluation included
        try:
            resumed = tuned(tmp_path / "resumed", saving, config, stops_after(calls))
        except Killed:
            stops += 1
    assert stops >= 3
    assert resumed == whole


def test_a_resumed_tuning_repeats_at_most_one_step(tmp_path: Path) -> None:
    """With a checkpoint at each step, the first batch told after a stop is the next one; the reference is kept."""
    saving, config = Saving(tmp_path / "checkpoints", 0), settings(evaluations=1)
    told: list[int] = []

    def advance(done: int, total: int) -> None:
        told.append(done)
        if done == 15 and told.count(15) == 1:
            raise Killed

    with pytest.raises(Killed):
        tuned(tmp_path / "tuned", saving, config, advance)
    tuned(tmp_path / "tuned", saving, config, advance)
    assert told == [*range(1, 16), *range(15, 25)]


def test_a_checkpoint_that_is_due_is_written_also_where_an_evaluation_is(tmp_path: Path) -> None:
    """With an evaluation at each of twelve steps, of which the first ones are the best, all but one would be lost."""
    saving, config = Saving(tmp_path / "checkpoints", 0), settings(**SETTINGS["best is early"])
    with pytest.raises(Killed):
        tuned(tmp_path / "tuned", saving, config, stops_after(6 + 3 + 10 * (1 + 3) + 1))  # in the eleventh step
    newest = resume_point(saving.folder)
    assert newest is not None and newest.name == "checkpoint-10"
    assert json.loads((newest / "trainer_state.json").read_text())["best_global_step"] < 10


def test_a_reward_training_stopped_again_and_again_ends_in_the_same_bytes(tmp_path: Path, encoder: Path) -> None:  # noqa: F811
    results = []
    for name, seconds, calls in (("whole", 1e9, [100]), ("stopped", 0.0, [3, 1, 9, 12, 100])):
        folder = tmp_path / name
        folder.mkdir()
        told: list[int] = []
        for count in calls:
            stop = stops_after(count)

            def advance(done: int, total: int) -> None:
                told.append(done)  # noqa: B023
                stop(done, total)  # noqa: B023

            try:
                train_reward(
                    reviews(64, 1), reviews(60, 2), reward_config(encoder), Assets(cache=tmp_path / "cache"),
                    TrainingJob(folder, 0, advance, Saving(tmp_path / f"{name}-checkpoints", seconds)),
                )  # fmt: skip
            except Killed:
                continue
        results.append([(folder / file).read_bytes() for file in ("model.safetensors", "report.json")])
        assert len(told) <= 32 + len(calls) - 1  # each stop repeats the open step at most
    assert results[0] == results[1]


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    """One cut off while it was written, and one whose file lost its end in a power cut, are deleted."""
    saving, config = Saving(tmp_path / "checkpoints", 0), settings(evaluations=1)
    with pytest.raises(Killed):
        tuned(tmp_path / "tuned", saving, config, stops_after(13))  # 9 batches of reference, 4 steps
    newest = resume_point(saving.folder)
    assert newest is not None and newest.name == "checkpoint-3" and is_sealed(newest)
    older = saving.folder / "checkpoint-2"
    assert not older.exists()  # deleted once the newer one was whole
    newest.rename(older)
    state = older / "trainer_state.json"
    newest.mkdir()
    (newest / "trainer_state.json").write_bytes(state.read_bytes())
    (newest / "optimizer.pt").write_bytes(b"half of it")
    assert resume_point(saving.folder) == older and not newest.exists()
    (older / "optimizer.pt").write_bytes((older / "optimizer.pt").read_bytes()[:-1])
    assert (older / SEAL).exists() and resume_point(saving.folder) is None and not older.exists()
