"""A text in the place of a part stands for one of its fields; the part, and each identity, is that of the long form."""

from pathlib import Path
from typing import Any

import pytest

from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment, override, parse_experiment
from trimtab.config.guides import guide_pairs
from trimtab.errors import ConfigurationError
from trimtab.study.study_file import load_study

SHORT = {
    "small": ("me/small", {"name": "me/small"}),
    "large": ("me/large", {"name": "me/large"}),
    "reward": ("rewards.py:score", {"by": "rewards.py:score"}),
    "data": ("prompts.csv", {"instructions": {"name": "prompts.csv"}}),
}
REWARDS = {
    "package.rewards:score": {"by": "package.rewards:score"},
    "http://127.0.0.1:8000/score": {"by": "http://127.0.0.1:8000/score"},
    "lvwerra/distilbert-imdb": {"model": "lvwerra/distilbert-imdb"},
}


def experiment(**values: Any) -> Experiment:
    return parse_experiment({"name": "demo", "reward": {"by": "rewards.py:score"}, **values}, origin="demo.yaml")


@pytest.mark.parametrize("part", SHORT)
def test_a_part_is_that_of_its_long_form(part: str) -> None:
    short, long = (experiment(**{part: value}) for value in SHORT[part])
    assert short == long and short.hashed() == long.hashed()
    assert vars(short)[part].model_fields_set == vars(long)[part].model_fields_set


@pytest.mark.parametrize("reward", REWARDS)
def test_a_reward_is_a_function_an_address_or_a_model(reward: str) -> None:
    assert experiment(reward=reward) == experiment(reward=REWARDS[reward])


def test_a_tuned_model_takes_its_template_from_a_small_one_in_either_form() -> None:
    small = {"name": "me/small", "template": "chat"}
    assert experiment(small=small, guide={"tuned": "me/tuned"}).guide.tuned.template == "chat"
    assert experiment(small="me/small", guide={"tuned": {"adapter": "a"}}).guide.tuned.name == "me/small"


def test_a_file_of_guides_takes_names(tmp_path: Path) -> None:
    (tmp_path / "guides.yaml").write_text("mine: {tuned: me/tuned, untuned: me/small}\n")
    pair = guide_pairs(tmp_path / "guides.yaml")["mine"]
    assert (pair.tuned.name, pair.untuned.name) == ("me/tuned", "me/small")


def test_overrides_reach_the_fields_behind_a_shorthand(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("name: demo\nsmall: me/small\ndata: prompts.csv\nreward: rewards.py:score\n")
    sets = ["small.template=chat", "data.instructions.columns.prompt=question", "data.test_prompts=3", "large=me/large"]
    found = load_experiment(file, sets)
    assert found.small == experiment(small={"name": "me/small", "template": "chat"}).small
    assert found.data.instructions.name == "prompts.csv" and found.data.instructions.columns.prompt == "question"
    assert found.data.test_prompts == 3 and found.large.name == "me/large"
    assert load_experiment(file, ["data=-"]).data.instructions.name == "-"


def test_a_study_varies_models_by_name(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: models\nexperiment: {small: me/a, data: prompts.csv, reward: 'rewards.py:score'}\n"
        "grid: {small: [me/a, me/b], small.template: [chat]}\n"
    )
    assert [(run.experiment.small.name, run.experiment.small.chat) for run in load_study(file).runs] == [
        ("me/a", True), ("me/b", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"small": 5}, "demo.yaml: small: 5 is no name: YAML takes it for a number: put a text in quotation marks"),
        ({"large": True}, "demo.yaml: large: True is no name: YAML takes yes, no, on and off for true or false"),
        ({"small": ""}, "demo.yaml: small.name is '': string should have at least 1 character"),
        ({"data": 7}, "demo.yaml: data: 7 is no instructions: YAML takes it for a number"),
        ({"reward": 3}, "demo.yaml: reward: 3 is no model: YAML takes it for a number"),
        ({"reward": ""}, "demo.yaml: reward.model is '': string should have at least 1 character"),
        ({"reward": "rewards.py"}, "demo.yaml: reward: rewards.py is a file: name the function in it, as rewards.py:"),
        ({"reward": "rewards.py:no name"}, "demo.yaml: reward.by: 'rewards.py:no name' is no reward: give a function"),
        ({"guide": {"tuned": 7}}, "demo.yaml: guide.tuned: 7 is no name: YAML takes it for a number"),
        ({"tune": "hinge"}, "demo.yaml: tune is 'hinge': give its fields, one `field: value` a line"),
    ],
)
def test_what_a_part_cannot_stand_for_is_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        experiment(**values)
    assert str(raised.value).startswith(line) and "\n" not in str(raised.value)


def test_a_field_behind_a_text_that_stands_for_nothing_is_one_line() -> None:
    values = {"name": "demo", "tune": "hinge"}
    assert override(values, ["tune.beta=1"]) == ["override 'tune.beta=1': tune is 'hinge' and has no fields"]
