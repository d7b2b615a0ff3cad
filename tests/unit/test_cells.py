"""Rows of a study: means over seeds, gains over the untuned model, the frontier, what does not count."""

import math

import pytest

from trimtab.evaluation.cells import Measured, MeasuredCell, summarise_cells
from trimtab.evaluation.divergence import Divergence
from trimtab.records import Generation, Score


def measured(rewards, seed="seed-0", tokens=None, finish="length", **more):
    answers = [
        Generation(f"p{place}", "So", 0, [0], [1, 2], " it is", "failed" if math.isnan(reward) else finish)
        for place, reward in enumerate(rewards)
    ]
    scores = [
        Score("tuned", answer.prompt_id, reward, reward / 2, -4.0, 2, 3)
        for answer, reward in zip(answers, rewards, strict=True)
    ]
    return Measured(seed, answers, scores, tokens or [[place] for place, _ in enumerate(rewards)], **more)


def rows_of(*cells, confidence=0.95):
    return summarise_cells(cells, resamples=200, confidence=confidence, seed=0)


BEFORE = MeasuredCell("untuned", {}, [measured([0.0, 1.0, 2.0, 3.0])])


def test_a_row_is_the_mean_over_seeds_and_its_gain_is_over_the_reference():
    cell = MeasuredCell(
        "hinge",
        {"tune.loss": "hinge"},
        [measured([2.0, 3.0, 4.0, 5.0]), measured([4.0, 5.0, 6.0, 7.0], "seed-1")],
        "untuned",
    )
    (before, row), comparisons = rows_of(BEFORE, cell)
    reward = row.values["reward"]
    assert (reward.mean, reward.by_seed) == (4.5, (3.5, 5.5)) and reward.std == pytest.approx(2**0.5)
    assert reward.low == pytest.approx(4.5 - 12.7062 * 1.0, abs=1e-3)  # t(0.975, 1) times s / sqrt 2
    assert before.values["reward"].std is None and before.values["reward"].low < 1.5 < before.values["reward"].high
    # response for response both seeds are 2 and 4 above: drawing seeds is all that is left
    assert row.gains["reward"] == pytest.approx((3.0, 2.0, 4.0))
    change = next(each for each in comparisons if each.measure == "reward")
    assert (change.cell, change.other, change.change) == ("untuned", "hinge", pytest.approx((-3.0, -4.0, -2.0)))
    assert row.values["tokens"].mean == 3 and row.values["fluency"].mean == -2 and row.values["judge"].mean == 2.25
    assert row.values["diversity"].mean == pytest.approx(math.log(4)) and row.values["distinct_1"].mean == 1


def test_shares_have_no_interval_beyond_a_share():
    runs = [measured([-1.0, 1.0, 1.0, 1.0], threshold=0.5), measured([-1.0, -1.0, -1.0, 1.0], "seed-1", threshold=0.5)]
    (row,), _ = rows_of(MeasuredCell("x", {"a": "x"}, runs))
    assert (row.values["below"].mean, row.values["positive"].mean) == (0.5, 0.5)
    assert (row.values["below"].low, row.values["below"].high) == (0.0, 1.0)


def test_a_response_without_numbers_counts_nowhere():
    run = measured([1.0, math.nan, 3.0], tokens=[[1], [2], [1]], divergence=Divergence([5.0, 7.0], [2, 2]))
    (row,), _ = rows_of(MeasuredCell("x", {"a": "x"}, [run]))
    assert row.values["reward"].mean == 2 and row.values["diversity"].mean == 0 and row.rewards == (1.0, 3.0)
    assert row.values["kl"].mean == 6 and row.responses == 3


def test_the_divergence_is_of_the_first_answers():
    run = measured([1.0, 1.0, 1.0, 1.0], divergence=Divergence([4.0, math.inf], [2, 2]))
    (row,), _ = rows_of(MeasuredCell("x", {"a": "x"}, [run]))
    assert row.values["kl"].mean == 4


def test_the_frontier_is_what_no_other_beats_in_both():
    def cell(name, reward, tokens):
        lists = [[token % tokens] for token in range(12)]
        return MeasuredCell(name, {"a": name}, [measured([reward] * 12, tokens=lists)])

    rows, _ = rows_of(cell("low", 1.0, 6), cell("best", 3.0, 2), cell("beaten", 1.0, 2), cell("middle", 2.0, 4))
    assert [row.name for row in rows if row.frontier] == ["low", "best", "middle"]


def test_measures_that_one_lacks_are_compared_nowhere():
    with_kl = MeasuredCell(
        "x", {"a": "x"}, [measured([1.0, 2.0], divergence=Divergence([1.0, 1.0], [2, 2]))], "untuned"
    )
    before = MeasuredCell("untuned", {}, [measured([0.0, 1.0])])
    rows, comparisons = rows_of(before, with_kl)
    assert "kl" in rows[1].values and "kl" not in rows[1].gains
    assert {each.measure for each in comparisons} == {
        "reward", "diversity", "positive", "judge", "fluency", "tokens",
    }  # fmt: skip
