"""The configuration: decoders are named and compared as the table needs, and what cannot run is refused."""

from pathlib import Path
from typing import Any

import pytest

from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment, parse_experiment
from trimtab.errors import ConfigurationError
from trimtab.pipeline.experiment_steps import steps


def experiment(**parts: Any) -> Experiment:
    return parse_experiment({"name": "demo", **parts}, origin="demo.yaml")


def test_decoders_name_themselves() -> None:
    made = experiment(
        guide={
            "decoders": [
                {"model": "large"}, {"successors": 16}, {"best_of": "bon-16"},
                {"width": 4, "successors": 4, "chunk": 5}, {"model": "untuned"}, {"model": "tuned"},
                {"model": "untuned", "beta": 0.5}, {"model": "untuned", "beta": 2}, {"name": "mine", "successors": 3},
            ]
        }
    ).guide  # fmt: skip
    names = [decoder.name for decoder in made.decoders]
    assert names == ["base", "bon-16", "gold-bon-16", "cbs-4-4-5", "untuned", "tuned", "eft-0.5", "eft-2", "mine"]
    references = [reference.name if (reference := made.reference_of(each)) else None for each in made.decoders]
    assert references == ["base"] * 4 + ["untuned"] * 4 + ["base"]


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"tune": {"beta": float("nan")}}, "tune.beta is nan"),
        ({"guide": {"decoders": [{"width": 0}]}}, "guide.decoders.0.width is 0"),
        ({"guide": {"decoders": [{"successors": 2, "chunk": -1}]}}, "guide.decoders.0.chunk is -1"),
        ({"guide": {"decoders": [{"width": 2}]}}, "width is 2 without a chunk"),
        ({"guide": {"decoders": []}}, "guide.decoders: the list is empty"),
        ({"guide": {"decoders": [{}, {}]}}, "two decoders are named base"),
        ({"guide": {"decoders": [{"best_of": "bon-16"}]}}, "picks from bon-16, which is no decoder"),
        ({"guide": {"decoders": [{"successors": 4}, {"best_of": "bon-4", "width": 2}]}}, "drop width"),
        (
            {"guide": {"decoders": [{"successors": 4}, {"best_of": "bon-4"}, {"best_of": "gold-bon-4"}]}},
            "gold-gold-bon-4 picks from gold-bon-4, which samples nothing",
        ),
        ({"synthesize": {"unprompted": True}}, "say in pairs.total how many pairs"),
        ({"small": {"name": "x", "template": "no place"}}, "must hold {prompt} exactly once"),
        ({"data": {"prompt_words": [8, 2]}}, "data.prompt_words: [8, 2] is no range"),
        ({"pairs": {"margin": {}}}, "give either value, quantile or deviations"),
        ({"tune": {"warmup": 1.5}}, "1.5 is neither a share nor a number of steps"),
        ({"tune": {"warmup": -1}}, "tune.warmup is -1"),
        ({"sft": {}}, "say in data.sft_reviews how many"),
        (
            {"sft": {}, "data": {"sft_reviews": 9}, "small": {"name": "x", "template": "chat"}},
            "sft: it trains on plain texts and small.template is chat",
        ),
        ({"large": None}, "base decodes with the large model and large is null"),
        ({"evaluate": {"kl_samples": 10}}, "no decoder samples it: add {model: tuned}"),
        ({"evaluate": {"threshold": {"quantile": 0.5}}}, "threshold is relative to the untuned model's rewards"),
        ({"widht": 1}, "widht is unknown"),
        ({"guide": {"decoders": [{"widht": 4}]}}, "did you mean width?"),
        ({"test_prompts": 9}, "test_prompts is unknown: did you mean data.test_prompts?"),
        ({"max_new_tokens": 9}, "did you mean synthesize.max_new_tokens or guide.max_new_tokens?"),
        ({"tune": {"rank": 9}}, "tune.rank is unknown: did you mean tune.lora.rank?"),
        ({"tune": {"lora": {"rnak": 4}}}, "tune.lora.rnak is unknown: did you mean rank?"),
    ],
)
def test_what_cannot_run_is_refused(parts: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        experiment(**parts)
    assert fault in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "name: it is missing"),
        ("- a", "is no mapping: write lines such as `name: my-experiment`"),
        ("a: [", "cannot be read as YAML"),
        ("seed: 1", "name: it is missing"),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_experiment(file)
    assert fault in str(raised.value) and "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_fault_and_overrides_win(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("name: demo\ntune: {beta: 1}\nguide: {decoders: [{successors: 2}]}\n", encoding="utf-8-sig")
    made = load_experiment(file, ["tune.beta=0.3", "guide.decoders.0.successors=5", "pairs.threshold={quantile: 0.2}"])
    assert (made.tune.beta, made.guide.decoders[0].name, made.pairs.threshold.quantile) == (0.3, "bon-5", 0.2)


def test_a_large_model_is_needed_only_where_a_decoder_uses_it() -> None:
    small = {"decoders": [{"model": "untuned", "successors": 2}, {"best_of": "untuned-bon-2"}, {"model": "tuned"}]}
    made = experiment(large=None, guide=small, small={"name": "own"})
    assert made.large is None and made.base.name == "own"
    assert experiment().base.name == "google/gemma-3-270m"


def test_the_default_reward_is_an_encoder_that_is_trained_and_a_named_one_is_ready() -> None:
    assert experiment().reward.training is not None and experiment(reward={}).reward.training is not None
    assert experiment(reward={"model": "lvwerra/distilbert-imdb"}).reward.training is None


@pytest.mark.parametrize(
    ("parts", "judged"),
    [
        ({}, True),  # its reward is trained on the same labelled reviews
        ({"judge": None}, False),
        ({"reward": {"by": "planets.py:count"}}, False),
        ({"reward": {"model": "a/sentiment"}}, False),
        ({"reward": {"by": "planets.py:count"}, "judge": "sentiment"}, True),
        ({"reward": {"by": "planets.py:count"}, "judge": {"snippet_words": [3, 9]}}, True),
        ({"reward": {"by": "planets.py:count"}, "data": {"instructions": "a/chats"}}, False),
    ],
)
def test_a_second_judge_is_there_where_it_judges_the_same_or_was_asked_for(parts: dict[str, Any], judged: bool) -> None:
    """A judge of film reviews once "agreed" about planets."""
    made = experiment(**parts)
    assert (made.judge is not None) is judged is ("judge" in [step.name for step in steps(made)])
    again = Experiment.model_validate_json(made.model_dump_json())  # as workers get it
    assert again.judge == made.judge


@pytest.mark.parametrize(
    ("judge", "data", "fault"),
    [
        ("film", {}, "'film' is no judge: there is one, sentiment"),
        ("sentiment", {"instructions": "a/chats"}, "it is fitted on labelled reviews: give data.reviews"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(judge: str, data: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        experiment(judge=judge, data=data, reward={"by": "planets.py:count"})
