"""Which text a reward judges, and the checks on what it gives."""

import math

import pytest

from trimtab.errors import ModelError
from trimtab.rewards.concise import concise
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import judged_text


def test_response_follows_prompt_without_a_character_between():
    # The original moved the boundary by a character: nothing may be added, stripped or cleaned up here.
    assert judged_text("It was", " n't good .") == "It was n't good ."
    assert judged_text("", "Alone") == "Alone"


def test_messages_are_joined_by_line_breaks_and_the_response_follows_the_last():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert judged_text(messages, " there") == "Be brief.\nHello there"


def test_a_function_of_two_arguments_gets_prompts_and_responses_apart():
    seen = []

    def judge(prompts, responses, weight=2.0):
        seen.append((prompts, responses))
        return [weight * len(response) for response in responses]

    messages = [{"role": "user", "content": "Hello"}]
    assert FunctionReward(judge).score(["A", messages], ["b", "cd"]) == [2.0, 4.0]
    assert seen == [(["A", messages], ["b", "cd"])]
    assert FunctionReward(lambda texts, weight=2.0: [weight] * len(texts)).score(["A"], ["b"]) == [2.0]


def test_short_whole_answers_are_worth_most():
    whole = "one two three four five six seven eight nine ten " * 2
    assert concise(["p"] * 4, [whole.strip() + ".", whole.strip(), whole[:48] + ".", ""]) == [
        1.0, 0.0, pytest.approx(1 - 0.6931, abs=1e-4), -5.0,
    ]  # fmt: skip


def test_function_gets_the_judged_texts_in_order():
    seen = []

    def function(texts):
        seen.extend(texts)
        return [len(text) for text in texts]

    reward = FunctionReward(function)
    assert reward.score(["a", "bb"], [" c", " ddd"]) == [3.0, 6.0]
    assert seen == ["a c", "bb ddd"]
    assert reward.flops == 0.0


def test_what_is_not_finite_is_left_to_whoever_takes_means():
    scores = FunctionReward(lambda texts: [math.nan, -math.inf]).score(["a", "b"], [" c", " d"])
    assert math.isnan(scores[0]) and scores[1] == -math.inf


@pytest.mark.parametrize("bad", [[1.0], [1.0, 2.0, 3.0], [1.0, None], ["much", 1.0]])
def test_function_with_missing_surplus_or_no_numbers_is_refused(bad):
    with pytest.raises(ModelError, match="reward function gave") as caught:
        FunctionReward(lambda texts: bad).score(["a", "b"], [" c", " d"])
    assert "\n" not in str(caught.value)
