"""Which text a reward judges, and the checks on what it gives."""

import functools
import itertools
import logging
import math
from collections import deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.records import Prompt
from trimtab.rewards.concise import concise
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import judged_text
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.value import RewardValue, StepValue


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


TWO = (["a", "b"], [" c", " d"])
HALF = [0.5, 1.0]
TENSOR = torch.tensor(HALF)
READ = {
    "list": HALF,
    "tuple": tuple(HALF),
    "map": map(float, HALF),
    "generator": (each for each in HALF),
    "deque": deque(HALF),
    "values of a dict": dict(enumerate(HALF)).values(),
    "array": np.array(HALF),
    "float16 array": np.array(HALF, dtype=np.float16),
    "object array": np.array(HALF, dtype=object),
    "column array": np.array([HALF]).T,
    "list of arrays without dimension": [np.array(each) for each in HALF],
    "numpy numbers": list(np.array(HALF)),
    "tensor": TENSOR,
    "column tensor": TENSOR[:, None],
    "tensor with gradient": TENSOR.clone().requires_grad_() * 1,
    "bfloat16 tensor": TENSOR.bfloat16(),
    "list of tensors": list(TENSOR),
    "list of tensors of one number": list(TENSOR[:, None]),
    "list of tensors with gradient": list(TENSOR.clone().requires_grad_()),
    "Series": pd.Series(HALF, index=[7, 3]),
    "table of one column": pd.DataFrame({"reward": HALF}),
    "Decimal": [Decimal("0.5"), Decimal(1)],
    "Fraction": [Fraction(1, 2), Fraction(1)],
    "a boolean": [0.5, True],
    "sparse tensor": TENSOR.to_sparse(),
    "masked array without a mask": np.ma.masked_array(HALF),
    "nullable Series": pd.Series(HALF, dtype="Float64"),
}


@pytest.mark.parametrize("kind", READ)
def test_numbers_are_read_in_whatever_they_come(kind):
    scores = FunctionReward(lambda texts: READ[kind]).score(*TWO)
    assert scores == HALF
    assert all(type(score) is float for score in scores)


NONE = [None, math.nan, np.nan, torch.tensor(math.nan), Decimal("NaN"), np.float32("nan"), pd.NA, np.ma.masked]


@pytest.mark.parametrize("none", NONE)
def test_none_and_nan_set_a_response_aside(none):
    first, second = FunctionReward(lambda texts: [none, 2]).score(*TWO)
    assert math.isnan(first) and second == 2.0


@pytest.mark.parametrize("given", [np.ma.masked_array([7.0, 2.0], [True, False]), pd.Series([None, 2], dtype="Int64")])
def test_a_masked_number_is_none(given):
    first, second = FunctionReward(lambda texts: given).score(*TWO)
    assert math.isnan(first) and second == 2.0


async def judged_later(texts):
    return [1.0 for _ in texts]


REFUSED = {
    "None": None,
    "a number": 1.0,
    "a tensor without dimension": torch.tensor(1.0),
    "an array without dimension": np.array(1.0),
    "a text": "12",
    "bytes": b"12",
    "a dict": {"rewards": HALF},
    "a set": {0.5, 1.0},
    "too few": [1.0],
    "too many": [1.0, 2.0, 3.0],
    "too many from a generator": itertools.count(),
    "none at all": [],
    "nested": [[0.5], [1.0]],
    "rows of numbers": np.ones((2, 3)),
    "a row": torch.ones(1, 2),
    "a table of two columns": pd.DataFrame({"a": HALF, "b": HALF}),
    "texts": ["0.5", "1.0"],
    "a word": ["much", 1.0],
    "dicts": [{"label": "good", "score": 0.9}] * 2,
    "complex": [1j, 1.0],
    "a complex tensor": torch.ones(2, dtype=torch.complex64),
    "beyond floats": [10**400, 1.0],
    "an object": object(),
    "a function": len,
    "lines": ["a\nb", 1.0],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_list_of_numbers_is_refused_in_one_line(kind):
    def my_judge(texts):
        return REFUSED[kind]

    with pytest.raises(ModelError, match=r"the reward function \S*my_judge gave .*(it|a reward) must") as caught:
        FunctionReward(my_judge).score(*TWO)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_coroutine_is_refused():
    with pytest.raises(ModelError, match="gave <coroutine object"):
        FunctionReward(judged_later).score(*TWO)


@pytest.mark.parametrize("given", [1.0, None, [1.0, 2.0], "1", torch.tensor(1.0)])
def test_one_number_for_one_text_must_be_in_a_list(given):
    """A function that was written for one text would get a list, and give nonsense without a word."""
    with pytest.raises(ModelError, match="one for each text"):
        FunctionReward(lambda texts: given).score(["a"], ["b"])


@given(values=st.lists(st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none(), min_size=1, max_size=5))
def test_any_numbers_come_as_they_are(values):
    scores = FunctionReward(lambda texts: values).score(["a"] * len(values), ["b"] * len(values))
    for value, score in zip(values, scores, strict=True):
        assert math.isnan(score) if value is None else score == float(value)


@pytest.mark.parametrize(
    "function",
    [
        lambda: [1.0],
        lambda prompts, responses, references: [1.0],
        lambda *, prompts, completions: [1.0],
        lambda texts, *, weight: [1.0],
    ],
)
def test_other_arguments_are_refused_with_what_is_expected(function):
    with pytest.raises(ConfigurationError, match="it must take texts, or prompts and responses, by their places"):
        FunctionReward(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda texts: [1.0] * len(texts),
        lambda texts=None: [1.0] * len(texts),
        lambda *args: [1.0] * len(args[0]),
        lambda texts, **more: [1.0] * len(texts),
        lambda prompts, completions, **more: [1.0] * len(completions),
        lambda prompts, responses, /: [1.0] * len(responses),
        functools.partial(lambda weight, texts: [weight] * len(texts), 1.0),
    ],
)
def test_functions_of_texts_or_of_prompts_and_responses_serve(function):
    assert FunctionReward(function).score(*TWO) == [1.0, 1.0]


def fails(texts):
    return [1 / 0 for _ in texts]


def fails_late(texts):
    yield 1.0
    raise KeyError("rating")


def leaves(texts):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "reason"),
    [(fails, "ZeroDivisionError: division by zero"), (fails_late, "KeyError: 'rating'"), (leaves, "SystemExit: 3")],
)
def test_a_fault_in_a_function_is_one_line_with_its_place(function, reason, caplog):
    line = function.__code__.co_firstlineno + (2 if function is fails_late else 1)
    with caplog.at_level(logging.INFO), pytest.raises(ModelError) as caught:
        FunctionReward(function).score(*TWO)
    assert str(caught.value) == (
        f"the reward function {function.__name__} failed in {__file__}, line {line} ({reason}): mend it"
    )
    assert caught.value.__cause__ is not None
    assert "Traceback" in caplog.text, "the log has the whole of it"


def test_what_a_function_lacks_is_not_hidden():
    """Want of memory and errors of trimtab's own say what to do themselves."""

    def greedy(texts):
        raise MemoryError

    def refuses(texts):
        raise ModelError("no model: name one")

    with pytest.raises(MemoryError):
        FunctionReward(greedy).score(*TWO)
    with pytest.raises(ModelError, match=r"^no model: name one$"):
        FunctionReward(refuses).score(*TWO)


RESPONSE = Hypothesis(Prompt("p", "A"), [], [1], " b", "length")


@pytest.mark.parametrize("given", [None, 1.0, ["much"], [1.0, 2.0]])
def test_a_reward_of_a_users_own_class_is_checked_where_it_guides(given):
    class Mine:
        flops = 0.0

        def score(self, prompts, responses):
            return given

    for value in (RewardValue(Mine()), StepValue(RewardValue(Mine()), "sum")):
        with pytest.raises(ModelError, match="the reward Mine gave"):
            state = value.start([Prompt("p", "A")], 9)
            value.advance(state, [0], [RESPONSE])


def test_a_reward_of_a_users_own_class_may_give_tensors():
    class Mine:
        flops = 0.0

        def score(self, prompts, responses):
            return torch.ones(len(responses), 1).requires_grad_()

    value = RewardValue(Mine())
    assert value.advance(
        value.start([Prompt("p", "A")], 9), [0], [Hypothesis(Prompt("p", "A"), [], [1], " b", "length")]
    )[1] == [1.0]


def test_a_function_may_change_what_it_is_given():
    def careless(prompts, responses):
        prompts[0].pop(0)
        prompts[0][0]["content"] += "!"
        responses.clear()
        return [1.0]

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    prompts, responses = [messages], ["Hi"]
    assert FunctionReward(careless).score(prompts, responses) == [1.0]
    assert messages[1] == {"role": "user", "content": "Hello"} and len(messages) == 2 and responses == ["Hi"]


def test_nothing_to_judge_asks_nobody():
    assert FunctionReward(fails).score([], []) == []


@pytest.mark.parametrize(("prompts", "responses"), [(["a"], ["b", "c"]), ("a", "b"), (["a"], "b"), ([], ["b"])])
def test_lists_of_unlike_lengths_and_single_texts_are_refused(prompts, responses):
    with pytest.raises(DataError, match="give two lists of one length"):
        FunctionReward(lambda texts: [1.0] * len(texts)).score(prompts, responses)
