"""The verdict and the head of the page: nothing claimed that is not clear, nothing credited to the gold pick."""

import dataclasses

import pytest

from tiny_report import QUICKSTART, quickstart_rows, reference, row, run
from trimtab.report import overview as story
from trimtab.report import verdict


def test_verdict_names_the_best_search_its_share_its_cost_and_the_judge():
    assert verdict.verdict(QUICKSTART, quickstart_rows()) == (
        "Chunk-level beam search (CBS 4/4/5) lifts the gold reward of gemma-3-270m by 1.23 nats [0.98, 1.50] over "
        "unguided decoding, 68 % of what the best of bon-16's samples by the gold reward gains, at 20 times the "
        "arithmetic; a second judge agrees (0.40 [0.20, 0.60]). Tuning lifts the gold reward of SmolLM2-135M-Instruct "
        "by 0.83 nats [0.50, 1.10] over its untuned self; a second judge agrees (0.40 [0.20, 0.60])."
    )


def test_verdict_never_credits_the_gold_pick():
    words_said = verdict.verdict(QUICKSTART, quickstart_rows(gain=0.1, gain_low=0.05, gain_high=0.2))
    assert words_said.startswith("Best-of-16 lifts")


def test_verdict_claims_nothing_where_the_interval_holds_zero():
    rows = [reference(), row(gain=0.1, gain_low=-0.1, gain_high=0.3, headroom=0.05, judge_gain_low=-0.2)]
    words_said = verdict.verdict(run({"name": "base"}, {"successors": 16}), rows)
    assert "does not clearly change the gold reward of gemma-3-270m (0.10 [-0.10, 0.30] nats)" in words_said
    assert "a second judge sees no clear change" in words_said


@pytest.mark.parametrize(
    "judge, words", [((0.2, 0.6), "a second judge disagrees"), ((-0.6, -0.2), "a second judge agrees")]
)
def test_verdict_on_a_loss(judge, words):
    low, high = judge
    loss = row(gain=-0.5, gain_low=-0.75, gain_high=-0.25, headroom=-0.3, judge_gain_low=low, judge_gain_high=high)
    words_said = verdict.verdict(
        run({"name": "base"}, {"successors": 16}, reward={"definition": "positive_logit"}), [reference(), loss]
    )
    assert "lowers the gold reward of gemma-3-270m by 0.50 logits [0.25, 0.75]" in words_said
    assert "%" not in words_said  # a negative share of the headroom says nothing
    assert words in words_said


def test_verdict_without_a_comparison_says_so():
    assert "no gain to report" in verdict.verdict(run({"name": "base"}), [reference()])


def said(experiment, rows):
    return dict(story.brief(experiment, rows, 3525.0))


def test_the_head_answers_what_how_much_how_surely_and_at_what_cost():
    head = said(QUICKSTART, quickstart_rows())
    assert list(head) == ["What was run", "By how much", "How surely", "At what cost"]
    assert "gemma-3-270m and SmolLM2-135M-Instruct continued the same 96 prompts" in head["What was run"][0]
    assert head["By how much"][0] == "cbs-4-4-5 over base: 75 % instead of 75 % of the responses read as positive."
    assert "gold-bon-16, the gold reward's own pick from 16 samples; cbs-4-4-5 reaches 68 %" in head["By how much"][2]
    assert "95 % intervals from 2,000 bootstrap resamples of the 96 prompts" in head["How surely"][0]
    assert "cbs-4-4-5 0.40 [0.20, 0.60], tuned 0.40 [0.20, 0.60]" in head["How surely"][1]
    assert head["At what cost"][0].startswith("cbs-4-4-5 over base: 20 times the arithmetic")
    assert "58 min 45 s" in head["At what cost"][-1]


def test_the_headline_says_what_changed_and_what_the_judge_says():
    assert verdict.headline(QUICKSTART, quickstart_rows()) == (
        "Chunk-level beam search (CBS 4/4/5) lifts the gold reward of gemma-3-270m by 1.23 nats [0.98, 1.50]; a second "
        "judge agrees. Tuning lifts the gold reward of SmolLM2-135M-Instruct by 0.83 nats [0.50, 1.10]; a second judge "
        "agrees."
    )


def test_the_head_of_a_run_without_a_comparison_claims_no_gain():
    head = said(run({"name": "base"}), [reference()])
    assert head["By how much"] == [verdict.NOTHING] == [verdict.headline(run({"name": "base"}), [reference()])]
    assert "instead of" not in str(head)


def test_the_head_counts_prompts_that_were_left_out_or_set_aside():
    rows = [dataclasses.replace(each, prompts=90, left_out=2, set_aside=4) for each in quickstart_rows()]
    assert "the same 96 prompts" in said(QUICKSTART, rows)["What was run"][0]


def test_the_lead_speaks_of_steering_only_where_the_large_model_is_steered():
    assert "steered gemma-3-270m" in story.lead(QUICKSTART)
    assert "steered" not in story.lead(run({"name": "base"}, {"name": "tuned", "model": "tuned"}))
