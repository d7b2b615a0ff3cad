"""What the page, the verdict and the model card say of a run is true of it, however it was tuned and measured."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tiny_report import reference, row
from trimtab.config.data import DataConfig
from trimtab.config.experiment import Experiment
from trimtab.config.pairs import PairsConfig, SynthesizeConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.training import TuneConfig
from trimtab.integrations.model_card import card, tuned_guide
from trimtab.report import overview as story
from trimtab.report import reward_words as gold
from trimtab.report import verdict
from trimtab.store.artifacts import RunDirectory

REWARDS: dict[str, dict[str, Any]] = {
    "trained": {"training": {}},
    "trained on negatives": {"training": {}, "positive_label": "negative"},
    "positive logit": {"training": {}, "definition": "positive_logit"},
    "ready": {"model": "a/sentiment", "positive_label": "POSITIVE"},
    "ready, another label": {"model": "a/toxicity", "positive_label": "toxic"},
    "ready, by number": {"model": "a/spam", "positive_label": 1},
    "reward model": {"model": "a/scores", "definition": "scalar"},
    "ultrarm": {"definition": "ultrarm"},
    "function": {"by": "rewards.py:brief"},
    "service": {"by": "http://judge.example/score"},
}
TONES = {"trained": "positive", "trained on negatives": "negative", "positive logit": "positive", "ready": "positive"}
WAYS: dict[str, dict[str, Any]] = {
    "sampled": {},
    "rarer wins": {"pairs": {"strategy": "rarer_wins"}},
    "after sft": {"sft": {}, "data": {"sft_reviews": 10}},
    "existing pairs": {"data": {"preferences": "a/pairs"}},
    "tuned elsewhere": {"guide": {"tuned": {"name": "a/tuned"}}},
    "an adapter from elsewhere": {"guide": {"tuned": {"name": "a/small", "adapter": "a/adapter"}}},
}
STEERED: dict[str, list[dict[str, Any]]] = {
    "by the pair": [{"name": "base"}, {"successors": 4}],
    "by the gold reward": [{"name": "base"}, {"successors": 4, "value": "reward", "name": "gold"}],
    "by a function": [{"name": "base"}, {"successors": 4, "value": "mine.py:own", "name": "own"}],
    "by nothing": [{"name": "base"}, {"name": "tuned", "model": "tuned"}],
    "no large model": [{"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"}],
}


def experiment(reward: str, way: str, steered: str, unprompted: bool = False) -> Experiment:
    values = {"small": {"name": "a/small"}, "large": {"name": "a/large"}, "reward": REWARDS[reward], **WAYS[way]}
    if steered == "no large model":
        values["large"] = None
    guide = {**values.pop("guide", {}), "decoders": STEERED[steered], **({"unprompted": 9} if unprompted else {})}
    return Experiment.model_validate({"name": "demo", **values, "guide": guide})


def said(each: Experiment) -> str:
    """All that the head of the page, the verdict and the columns say."""
    first, second = each.guide.decoders[:2]
    model = each.small.name if each.large is None else each.large.name
    tuned = f"{each.small.name} (tuned)" if second.model == "tuned" else model
    rows = [reference(first.name, model=model), row(second.name, model=tuned, judge_gain_high=0.6)]
    answers = [answer for _, entries in story.brief(each, rows, 9.0) for answer in entries]
    words = [story.lead(each), verdict.headline(each, rows), verdict.verdict(each, rows), *answers]
    return " ".join(
        [
            *words,
            *(column.meaning for column in story.table_columns(each, rows)),
        ]
    )


@pytest.mark.parametrize("reward, way, steered", itertools.product(REWARDS, WAYS, STEERED))
def test_nothing_is_claimed_that_was_not(reward: str, way: str, steered: str) -> None:
    each = experiment(reward, way, steered)
    text, lead = said(each), story.lead(each)
    classifier = reward in TONES or reward.startswith("ready")
    assert ("classifier" in text) == classifier
    if reward not in TONES:
        assert not re.search(r"reads? as (more )?(positive|negative)|log p\((positive|negative)\)", text)
        assert "judge agrees" not in text and "judge disagrees" not in text and "checks it" not in text
    elif TONES[reward] == "positive":
        assert "more negative" not in text
    else:
        assert "reads as more negative" in text and "read as positive" not in text and "judge agrees" not in text
    if reward != "trained" and reward != "ready" and reward != "trained on negatives":
        assert "of the responses read as" not in text  # a share of what lies above 0 says so for a margin alone
    # how it was tuned
    assert ("was tuned to write what" in lead) == (way in ("sampled", "after sft"))
    assert ("tuned on the preference pairs of a/pairs" in lead) == (way == "existing pairs")
    assert ("tuned elsewhere" in lead) == ("elsewhere" in way)
    assert ("nothing was tuned here" in text) == ("elsewhere" in way)
    assert ("the rarer reward wins" in lead) == (way == "rarer wins")
    assert ("pairs of its own samples" in text) == (way in ("sampled", "after sft", "rarer wins"))
    assert ("first trained on the text" in text) == (way == "after sft")
    assert ("with the adapter a/adapter" in lead) == (way == "an adapter from elsewhere")
    # what steered what
    steers = {"by the pair": "What tuning changed in it", "by the gold reward": "The gold reward itself"}
    steers["by a function"] = "The function mine.py:own"
    assert ("then steered large" in lead) == (steered in steers)
    assert steers.get(steered, "small") in lead
    assert ("larger" in text) is False  # sizes are not known


@pytest.mark.parametrize("reward", REWARDS)
def test_a_reward_is_called_what_it_is(reward: str) -> None:
    config = experiment(reward, "sampled", "by the pair").reward
    kinds = {"function": "the function", "service": "the service", "reward model": "the reward model"}
    assert gold.source(config).startswith(kinds.get(reward, "the reward model" if reward == "ultrarm" else "a class"))
    assert gold.tone(config) == TONES.get(reward)
    expected = {"function": "function", "service": "service", "reward model": "reward_model", "ultrarm": "reward_model"}
    assert config.kind == expected.get(reward, "classifier")


def test_responses_without_prompts_continue_none() -> None:
    text = said(experiment("trained", "sampled", "no large model", unprompted=True))
    assert "from nothing but a start token" in text and "continued the same" not in text
    assert "prompts (the first" not in text


def test_a_model_tuned_elsewhere_is_named_as_what_wrote() -> None:
    text = said(experiment("trained", "tuned elsewhere", "no large model"))
    assert "small and tuned continued the same" in text


CARDS: dict[str, dict[str, Any]] = {
    "sampled": {},
    "unprompted": {"synthesize": SynthesizeConfig(unprompted=True)},
    "rarer wins": {"pairs": PairsConfig(strategy="rarer_wins")},
    "existing pairs": {"pairs": "a/pairs"},
    "pairs that are gone": {"pairs": None},
    "function": {"reward": RewardConfig(by="rewards.py:brief")},
    "instructions": {"data": DataConfig.model_validate({"instructions": "a/chats"})},
}


def card_of(place: Path, kind: str) -> str:
    """The card of a run directory whose artifacts say that they were made so."""
    given, directory, small = CARDS[kind], RunDirectory(place), {"name": "a/small"}
    data = directory.artifact("data", {"data": given.get("data", DataConfig()).hashed()}, [])
    reward = directory.artifact("reward", {"reward": given.get("reward", RewardConfig(training={})).hashed()}, [data])
    synthesize = given.get("synthesize", SynthesizeConfig()).hashed()
    samples = directory.artifact("synthesize", {"small": small, "synthesize": synthesize}, [data, reward])
    pairs = directory.artifact("pairs", {"pairs": PairsConfig().hashed()}, [samples])
    if isinstance(given.get("pairs"), PairsConfig):
        pairs = directory.artifact("pairs", {"pairs": given["pairs"].hashed()}, [samples])
    elif given.get("pairs") is not None:
        pairs = directory.artifact("pairs", {"preferences": given["pairs"], "identity": "1"}, [])
    tune = directory.artifact("tune", {"small": small, "tune": TuneConfig().hashed()}, [pairs])
    lost = [pairs] if kind == "pairs that are gone" else []
    for artifact in (data, reward, samples, pairs, tune):
        if artifact not in lost:
            with directory.writing(artifact) as folder:
                (folder / "model").mkdir()
                (folder / "summary.json").write_text(json.dumps({"steps": 3}))
    (place / "tuned").symlink_to(Path(tune.folder.name) / "model")
    return card(place, tuned_guide(place), adapter=False, name="me/guide")


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_says_what_the_guide_was_tuned_on_and_no_more(kind: str, tmp_path: Path) -> None:
    text = card_of(tmp_path / "run", kind)
    rewarded = kind not in ("existing pairs", "pairs that are gone")
    assert ("towards a reward" in text) == (rewarded and kind != "rarer wins")
    assert ("of which the one with the rarer reward wins" in text) == (kind == "rarer wins")
    assert ("none: the preferences came with the data" in text) == (kind == "existing pairs")
    assert ("the preference data set `a/pairs`" in text) == (kind == "existing pairs")
    assert ("not known: the run directory no longer has it" in text) == (kind == "pairs that are gone")
    assert ("samples a prompt of the untuned model" in text) == (rewarded and kind != "unprompted")
    assert ("from its start token alone" in text) == (kind == "unprompted")
    assert ("prompts from `imdb`" in text) == (kind in ("sampled", "rarer wins", "function"))
    assert ("prompts from `a/chats`" in text) == (kind == "instructions")
    assert ("`rewards.py:brief`" in text) == (kind == "function")
    assert ("fine-tuned for it" in text) == (rewarded and kind != "function")
