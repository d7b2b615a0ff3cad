"""A small report of a study written from made-up rows, for tests of tables and pages; with long names, too."""

import dataclasses

from tiny_report import SCRIPT, long_name
from trimtab.evaluation.cells import CellRow, Comparison, Value
from trimtab.evaluation.metrics import Estimate
from trimtab.report.study_page import StudyFacts, write_study_report


def value(mean, std=None, low=None, high=None, by_seed=None):
    return Value(mean, std, low, high, by_seed or (mean,))


def row(name, reward, diversity, labels=None, reference="untuned", frontier=False, **more):
    values = {"reward": reward, "diversity": diversity}
    gains = {"reward": Estimate(2.0, 1.5, 2.5)} if reference else {}
    seeds = tuple(f"seed-{place}" for place, _ in enumerate(reward.by_seed))
    return CellRow(name, labels or {}, seeds, 100, {**values, **more}, (0.0, 1.0, 2.5), reference, gains, frontier)


ROWS = [
    row("untuned", value(0.507, None, 0.5, 0.51), value(5.975), reference=None, frontier=True),
    row(
        "random-hinge-0.1",
        value(2.738, 0.0051, 2.72, 2.75, (2.733, 2.743)), value(4.193, 0.003, by_seed=(4.19, 4.196)),
        {"strategy": "random", "tune.loss": "hinge", "tune.beta": "0.1"}, frontier=True,
    ),
    row(
        "random-hinge_sft-1", value(2.24, 0.014, 2.1, 2.4, (2.23, 2.25)), value(4.522, 0.005, by_seed=(4.52, 4.524)),
        {"strategy": "random", "tune.loss": "hinge_sft", "tune.beta": "1"},
    ),
]  # fmt: skip
CHANGES = [
    Comparison("untuned", "random-hinge-0.1", "reward", Estimate(-2.2, -2.3, -2.1)),
    Comparison("random-hinge-0.1", "random-hinge_sft-1", "reward", Estimate(0.5, -0.1, 1.1)),
]
LONG = {"untuned": long_name("untuned", 80), "random-hinge-0.1": "M" * 80}
LONG["random-hinge_sft-1"] = long_name("random", 80)
FURTHER = ("positive", "below", "judge", "kl", "fluency", "distinct_1", "distinct_2", "tokens")


def facts(**more):
    plain = {
        "name": "demo", "source": {"name": "demo", "note": SCRIPT}, "baseline": "random-hinge-0.1", "unit": "nats",
        "confidence": 0.95, "resamples": 2000, "failures": {},
    }  # fmt: skip
    return StudyFacts(**{**plain, **more})


def study_report(folder, long=False):
    """Write the report; `long` names have 80 characters and every measure is there. Gives the page."""
    if not long:
        return write_study_report(folder, facts(failures={"x-seed-1": f"tune: {SCRIPT}"}), ROWS, CHANGES)
    more = {name: value(0.5, 0.123, -12.25, 13.75, (0.4, 0.6)) for name in FURTHER}
    rows = [
        dataclasses.replace(
            each,
            name=LONG[each.name],
            values={**each.values, **more},
            reference=LONG.get(each.reference),
            labels={axis: long_name(label, 60) for axis, label in each.labels.items()},
        )
        for each in ROWS
    ]
    changes = [
        dataclasses.replace(each, cell=LONG[each.cell], other=LONG[each.other], measure=measure)
        for each in CHANGES
        for measure in ("reward", *FURTHER)
    ]
    named = {"name": long_name("study", 80), "baseline": LONG["random-hinge-0.1"]}
    failures = {long_name("cell", 80): "tune: training diverged"}
    return write_study_report(folder, facts(**named, failures=failures), rows, changes)
