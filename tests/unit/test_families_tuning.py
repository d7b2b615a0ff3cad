"""A tiny tuning of each family: the adapter finds its layers, and the first pass is the family's own arithmetic."""

import copy
from pathlib import Path

import pytest
import torch

from tiny import full_log_probabilities, tokenizer
from trimtab.config.training import LoraSettings, TuneConfig
from trimtab.records import Pair
from trimtab.training.job import TrainingJob
from trimtab.training.preference import tune
from zoo import CACHED, REREAD

SETTINGS = TuneConfig(
    lora=LoraSettings(rank=2, top_layers=1), batch_size=2, epochs=1, learning_rate=1e-2, warmup=0.0, evaluations=1,
    logging_steps=1,
)  # fmt: skip


def pair(number: int, split: str) -> Pair:
    return Pair(
        prompt_id=f"{split}-{number}", prompt="the ids count", responses=["a", "b"], chosen=0, rewards=[1.0, 0.0],
        probability=0.5, prompt_ids=[1, 40 + number], token_ids=[[60, 61 + number, 62], [200, 201]],
        ended=[False, False], split=split,
    )  # fmt: skip


TRAIN, VALIDATION = [pair(number, "train") for number in range(4)], [pair(9, "validation")]


@pytest.mark.parametrize("name", [*CACHED, *REREAD])
def test_each_family_is_tuned(name: str, tmp_path: Path) -> None:
    model = {**CACHED, **REREAD}[name](0).float()
    untuned = copy.deepcopy(model)
    summary = tune(TRAIN, VALIDATION, model, tokenizer(), SETTINGS, TrainingJob(tmp_path))
    assert summary["steps"] == 2 and summary["trained_parameters"] > 0
    tuned = type(untuned).from_pretrained(tmp_path / "model")
    before, after = (sum(full_log_probabilities(each.eval(), [1, 49], [60, 70, 62])) for each in (untuned, tuned))
    assert abs(after - before) > 1e-4
    assert summary["eval_logps_chosen"] == pytest.approx(after, abs=1e-3)
    assert not any(torch.isnan(weight).any() for weight in tuned.parameters())
