"""Values of rewards, steps, tokens and several together equal what a look at the returned texts gives."""

from pathlib import Path

import pytest

from identities import ENDS, EXACT, PROMPTS, SAMPLING, SEED, log_ratio
from tiny import language_model
from trimtab.errors import ConfigurationError
from trimtab.plugins.user_functions import named_function, source_hash
from trimtab.records import Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue, PerToken, RewardValue, StepValue, Value, WeightedValue

CBS = Search(3, 2, 4, 14)


def letters(texts: list[str]) -> list[float]:
    return [float(text.count("e") + text.count(" ") - 0.1 * len(text)) for text in texts]


def searched(value: Value) -> list[list[Hypothesis]]:
    return CBS.run(PROMPTS, LanguageModelProposer(language_model(0, ends=ENDS), SAMPLING, SEED), value)


def text_of(prompt: Prompt, ids: list[int]) -> str:
    vocabulary = language_model(0, ends=ENDS).vocabulary
    return str(prompt.text) + vocabulary.decode_response(vocabulary.encode_prompt(prompt.text, "{prompt}"), ids)


REWARD: Reward = FunctionReward(letters)  # type: ignore[arg-type]


@pytest.mark.parametrize("combine", ["sum", "min"])
def test_a_step_value_is_the_sum_or_minimum_of_the_reward_after_each_chunk(combine: str) -> None:
    """Each beam's scores follow it through forks: a row that kept another's would be caught here."""
    chosen = {"sum": sum, "min": min}[combine]
    for prompt, group in zip(PROMPTS, searched(StepValue(RewardValue(REWARD), combine)), strict=True):  # type: ignore[arg-type]
        assert [each.value for each in group] == sorted((each.value for each in group), reverse=True)
        for each in group:
            length = len(each.token_ids)
            cuts = [*range(4, length, 4), length]
            scores = letters([text_of(prompt, each.token_ids[:cut]) for cut in cuts])
            assert each.value == pytest.approx(chosen(scores), abs=EXACT)


def test_a_weighted_value_is_the_weighted_mean_and_per_token_divides() -> None:
    base, tuned, untuned = language_model(0, ends=ENDS), language_model(1), language_model(2)
    implicit = ImplicitValue(tuned, untuned, base)
    value = WeightedValue([(PerToken(implicit), 3.0), (RewardValue(REWARD), 1.0)])
    for prompt, group in zip(PROMPTS, searched(value), strict=True):
        for each in group:
            ratio = log_ratio(tuned, untuned, prompt, each.token_ids) / len(each.token_ids)
            (reward,) = letters([text_of(prompt, each.token_ids)])
            assert each.value == pytest.approx(0.75 * ratio + 0.25 * reward, abs=EXACT)


def test_a_mean_of_one_value_is_that_value() -> None:
    alone, mean = searched(RewardValue(REWARD)), searched(WeightedValue([(RewardValue(REWARD), 0.3)]))
    assert [[each.text for each in group] for group in alone] == [[each.text for each in group] for group in mean]


def test_a_function_is_found_by_module_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_here.py").write_text("def cheerful(texts):\n    return [text.count('!') for text in texts]\n")
    for name in ("mine_here:cheerful", "mine_here.py:cheerful"):
        assert named_function(name)(["so!", "so"]) == [1, 0]
    before = source_hash("mine_here:cheerful")
    assert before == source_hash("mine_here.py:cheerful")
    Path("mine_here.py").write_text("def cheerful(texts):\n    return [0.0 for _ in texts]\n")
    assert before != source_hash("mine_here:cheerful")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("nowhere_at_all:f", "there is no Python module nowhere_at_all here or installed"),
        ("no/such.py:f", "there is no file no/such.py: give the path"),
        ("math:cheerful", "math has no function cheerful"),
        ("broken.py:f", "broken.py cannot be imported"),
    ],
)
def test_a_function_that_is_not_there_is_named(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def f(:\n")
    with pytest.raises(ConfigurationError, match=fault):
        named_function(name)
