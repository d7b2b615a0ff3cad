"""Plug-ins add entries to registries: named by an experiment or installed, and a faulty one is one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import parse_experiment
from trimtab.config.reward import RewardConfig
from trimtab.plugins import load
from trimtab.rewards.kinds import REWARD_KINDS
from trimtab.rewards.load import load_reward

KIND = """
from trimtab import FunctionReward
from trimtab.rewards.kinds import REWARD_KINDS, RewardKind

def vowels(config, assets, folder):
    return FunctionReward(lambda texts: [float(sum(letter in "aeiou" for letter in text)) for text in texts])

REWARD_KINDS.add(RewardKind(name="vowels", function=vowels, words="the number of vowels"))
"""


@pytest.fixture(autouse=True)
def registries_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = set(REWARD_KINDS)
    yield
    for name in set(REWARD_KINDS) - before:
        REWARD_KINDS.discard(name)
    load.load_installed.cache_clear()


def write(file: str, text: str) -> str:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
    return file


def experiment(**parts: Any) -> Experiment:
    return parse_experiment({"name": "demo", **parts}, origin="demo.yaml")


def scores(config: RewardConfig) -> list[float]:
    return load_reward(config, Assets(), None).score(["a tree"], [" in bloom"])


def test_a_reward_kind_of_a_plugin_file_is_used_by_an_experiment() -> None:
    plugin = write("my_kind.py", KIND)
    config = experiment(plugins=[plugin], reward={"definition": "vowels"}).reward
    assert scores(config) == [6.0]
    assert config.hashed() == {"definition": "vowels"} and config.label == "vowels"
