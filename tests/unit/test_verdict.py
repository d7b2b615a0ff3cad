"""The verdict and the head of the page: nothing claimed that is not clear, nothing credited to the gold pick."""

import dataclasses

import pytest

from tiny_report import QUICKSTART, SMALL, quickstart_rows, reference, row, run
from trimtab.evaluation.differences import Difference
from trimtab.evaluation.metrics import Estimate
from trimtab.report import overview as story
from trimtab.report import verdict
from trimtab.report.matrix import matrix


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


def test_too_few_prompts_for_a_verdict_are_said_and_nothing_else():
    """Three prompts once lifted a reward, with a judge that agreed."""
    rows = [dataclasses.replace(each, prompts=3) for each in quickstart_rows()]
    for words_said in (verdict.verdict(QUICKSTART, rows), verdict.headline(QUICKSTART, rows)):
        assert words_said.startswith("3 prompts are too few for a verdict, which takes at least 20: on them ")
        assert words_said.count("too few") == 1 and " On them tuning changed" in words_said
        assert "lifts" not in words_said and "judge" not in words_said and "1.23 [0.98, 1.50] nats" in words_said
    assert "from fewer than 20" in said(QUICKSTART, rows)["How surely"][0]
    enough = [dataclasses.replace(each, prompts=20) for each in quickstart_rows()]
    assert "too few" not in verdict.verdict(QUICKSTART, enough) + str(said(QUICKSTART, enough))


def compared(cbs_over_bon, tuned_over_cbs, fluency, experiment=QUICKSTART):
    """The sentences on decoders compared with each other; each argument is mean, low and high."""
    rows = {each.decoder: dataclasses.replace(each, reward=2.0) for each in quickstart_rows()}
    rows["bon-16"] = dataclasses.replace(rows["bon-16"], reward=1.5)
    steered = {
        "bon-16": Difference(Estimate(*cbs_over_bon), None, 96),
        "tuned": Difference(
            Estimate(*(-value for value in reversed_ends(tuned_over_cbs))), fluency and Estimate(*fluency), 96
        ),
    }
    rows["cbs-4-4-5"] = dataclasses.replace(rows["cbs-4-4-5"], against=steered)
    rows["tuned"] = dataclasses.replace(rows["tuned"], against={"cbs-4-4-5": steered["tuned"]})
    whole = verdict.verdict(experiment, [*rows.values()])
    assert str(said(experiment, [*rows.values()])["By how much"]).count("the next best") == 1  # the page has it too
    return whole[whole.index("cbs-4-4-5 is") :]


def reversed_ends(estimate):
    mean, low, high = estimate
    return mean, high, low


def test_decoders_are_compared_with_each_other_and_with_the_tuned_model_alone():
    assert compared((0.42, 0.2, 0.64), (-0.5, -0.7, -0.3), None) == (
        "cbs-4-4-5 is above bon-16, the next best, by 0.42 nats [0.20, 0.64]. cbs-4-4-5 is above tuned, the tuned "
        "small model alone, by 0.50 nats [0.30, 0.70]."
    )
    assert compared((0.1, -0.1, 0.3), (-0.5, -0.7, -0.3), None).startswith(
        "cbs-4-4-5 is not clearly above bon-16, the next best (0.10 [-0.10, 0.30] nats)."
    )


def test_where_the_tuned_model_alone_scores_as_high_the_reason_to_steer_is_what_was_measured():
    best = (0.42, 0.2, 0.64)
    assert compared(best, (0.2, 0.05, 0.35), (0.95, 0.9, 1.0)).endswith(
        "The tuned small model alone scores higher than cbs-4-4-5 (0.20 [0.05, 0.35] nats more). What steering keeps "
        "is what gemma-3-270m knows and how it writes, as far as its own likelihood measures that: it finds the text "
        "of cbs-4-4-5 likelier, by 0.95 [0.90, 1.00] nats a token."
    )
    as_high = compared(best, (0.1, -0.1, 0.3), (0.05, -0.1, 0.2))
    assert "scores as high as cbs-4-4-5" in as_high and as_high.endswith("nothing speaks for steering.")
    assert compared(best, (0.1, -0.1, 0.3), None).endswith(
        "fluency was not measured, so that nothing speaks for steering."
    )


def test_a_model_that_steers_itself_is_said_to():
    """The chat experiment once steered 'the large model', which was its small one."""
    decoders = [each.model_dump(exclude_unset=True) for each in QUICKSTART.guide.decoders]
    itself = run(*decoders, small={"name": SMALL}, large={"name": SMALL, "template": "A review: {prompt}"})
    assert f"then steered {SMALL.split('/')[1]} itself, untuned, while it decoded" in story.lead(itself)
    assert "itself" not in story.lead(QUICKSTART)
    rows = [dataclasses.replace(each, model=SMALL) for each in quickstart_rows()]
    alone = Difference(Estimate(0.0, -0.1, 0.1), Estimate(1.0, 0.9, 1.1), 96)
    rows[3] = dataclasses.replace(rows[3], reward=2.0, against={"tuned": alone})
    rows[-1] = dataclasses.replace(rows[-1], against={"cbs-4-4-5": alone})
    assert verdict.verdict(itself, rows).endswith(
        "SmolLM2-135M-Instruct is that model untuned, so that steering is for where it must not be changed."
    )


@pytest.mark.parametrize(
    "seconds, words",
    [
        ((0.25, 0.25), "0.25 s and 0.25 s for a prompt (equal within noise)"),
        ((0.29, 0.25), "0.29 s and 0.25 s for a prompt (equal within noise)"),
        ((0.20, 0.25), "0.2 s instead of 0.25 s for a prompt"),
        ((1.25, 0.25), "1.2 s instead of 0.25 s for a prompt"),
    ],
)
def test_which_difference_of_seconds_is_noise_is_said(seconds, words):
    rows = [reference(seconds=seconds[1]), row(seconds=seconds[0])]
    (cost, _) = said(run({"name": "base"}, {"successors": 16}), rows)["At what cost"]
    assert words in cost


def test_seconds_of_models_that_do_the_same_arithmetic_differ_by_noise_alone():
    """A neighbour once made the tuned model, a twin of the untuned one, 2.4 times as fast."""
    rows = [
        reference("untuned", model=SMALL, seconds=2.3),
        row("tuned", model=f"{SMALL} (tuned)", flops=3e10, seconds=0.97),
    ]
    cost = said(run({"model": "untuned"}, {"model": "tuned"}), rows)["At what cost"][0]
    assert "about the same arithmetic, 0.97 s and 2.3 s for a prompt (what differs is noise" in cost


FUNCTION = {"by": "rewards.py:brief"}


@pytest.mark.parametrize("reward", [FUNCTION, {"definition": "positive_logit", "training": {}}])
def test_a_zero_that_means_nothing_is_no_border(reward):
    """Half of the answers of a reward that counts words from 1 up were once 'positive'."""
    settings = run({"name": "base"}, {"successors": 16}, reward=reward)
    rows = [reference(), row()]
    assert "positive" not in [column.name for column in story.table_columns(settings, rows)]
    assert "0 has no meaning of its own, so that only differences count" in said(settings, rows)["What was run"][2]
    assert "positive" in [column.name for column in story.table_columns(QUICKSTART, rows)]
    assert "at 0 both labels are equally likely" in said(QUICKSTART, quickstart_rows())["What was run"][2]


def test_the_page_says_what_the_judge_judges_or_that_there_is_none():
    judged = said(QUICKSTART, quickstart_rows())["How surely"][1]
    assert "fitted on 8,000 labelled imdb reviews of its own, which says how positive a text reads" in judged
    planets = run({"name": "base"}, {"successors": 16}, reward=FUNCTION, judge="sentiment")
    assert "has nothing to do with the gold reward" in said(planets, [reference(), row()])["How surely"][1]
    unjudged = [dataclasses.replace(each, judge=None) for each in (reference(), row())]
    assert said(planets, unjudged)["How surely"][1].startswith("No second judge")


def test_the_pages_table_of_differences_calls_none_clear_where_prompts_are_few():
    """Twenty are needed for a verdict; with fewer, no cell is bold."""
    clear = Difference(Estimate(0.4, 0.2, 0.6), None, 96)
    rows = [dataclasses.replace(each, against={"base": clear}) for each in quickstart_rows()]
    assert matrix(QUICKSTART.guide, rows).rows[1][1][0] == ("0.40 [0.20, 0.60]", True)
    shared = {"base": dataclasses.replace(clear, prompts=verdict.MIN_PROMPTS - 1)}
    few = matrix(QUICKSTART.guide, [dataclasses.replace(row, against=shared) for row in rows])
    assert few.few and not any(clear for _, cells in few.rows for _, clear in cells)
