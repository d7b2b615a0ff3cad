"""A table as the quickstart's, and a small report written from made-up generations, for tests of tables and pages."""

import dataclasses

from trimtab.config.experiment import Experiment
from trimtab.evaluation.evaluate import Cost, Row, model_names, summarise
from trimtab.evaluation.scoring import score_decoder
from trimtab.records import Generation
from trimtab.report.columns import with_columns
from trimtab.report.page import write_report

LARGE, SMALL = "google/gemma-3-270m", "HuggingFaceTB/SmolLM2-135M-Instruct"


def row(decoder="bon-16", **changes):
    plain = Row(
        decoder, LARGE, 1.9, 1.6, 2.2, 0.83, 0.5, 1.1, 0.47, 0.9, 0.4, 0.2, 0.6,
        0.75, 5.1, 0.3, 0.81, -3.2, 39.5, 3.9e11, 0.25, 96, 0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def reference(decoder="base", **changes):
    blank = dict.fromkeys(
        ["gain", "gain_low", "gain_high", "headroom", "judge_gain", "judge_gain_low", "judge_gain_high"]
    )
    return row(decoder, reward=1.07, flops=3e10, **{**blank, **changes})


def run(*decoders, **values):
    return Experiment.model_validate({"name": "demo", "guide": {"decoders": list(decoders)}, **values})


QUICKSTART = run(
    {"name": "base"}, {"successors": 16}, {"best_of": "bon-16"}, {"width": 4, "successors": 4, "chunk": 5},
    {"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"},
)  # fmt: skip


def quickstart_rows(**cbs):
    return [
        reference(),
        row(),
        row("gold-bon-16", gain=1.8, headroom=1.0),
        row("cbs-4-4-5", **{"gain": 1.23, "gain_low": 0.98, "gain_high": 1.5, "headroom": 0.68, "flops": 6e11, **cbs}),
        reference("untuned", model=SMALL),
        row("tuned", model=f"{SMALL} (tuned)", headroom=None),
    ]


SCRIPT = "<script>alert('x')</script>"
DEMO = Experiment.model_validate(
    {
        "name": "demo",
        "small": {"name": "tiny & small"},
        "guide": {
            "decoders": [
                {"name": "base"}, {"successors": 2}, {"best_of": "bon-2"},
                {"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"},
            ]
        },
        "evaluate": {"examples": 2, "bootstrap": 100},
    }
)  # fmt: skip
DETAILS = {"reward": {"accuracy": 0.8025, "label": "<b>bold</b>"}, "tuning": {"steps": 1400}, "note": "plain"}


class Lengths:
    """A reward that is the response's length, so that a test can tell whose reward it reads."""

    def score(self, prompts, responses):
        return [float(len(response)) - 20 for response in responses]


def long_name(start, length):
    """A name of this length without a place to break, such as users and hubs give."""
    return (start + "-of-a-very-long-name_without_spaces.AndWithCapitals" * 3)[:length]


LONG = Experiment.model_validate(
    {
        "name": long_name("experiment", 80),
        "small": {"name": long_name("someone/small", 96)},
        "large": {"name": long_name("organisation/large", 96), "template": "{prompt}"},
        "guide": {
            "decoders": [
                {"name": long_name("base", 80)}, {"name": long_name("bon", 80), "successors": 2},
                {"name": long_name("gold", 80), "best_of": long_name("bon", 80)},
                {"name": "M" * 80, "width": 4, "successors": 4, "chunk": 5},
                {"name": long_name("untuned", 80), "model": "untuned"},
                {"name": long_name("tuned", 80), "model": "tuned"},
            ]
        },
        "evaluate": {"examples": 2, "bootstrap": 100, "threshold": {"value": -0.5}, "kl_samples": 2},
    }
)  # fmt: skip
WIDE = {
    "reward_std": 0.91, "below": 0.25, "threshold": -0.5, "kl": 12.25, "kl_low": -10.5, "kl_high": 14.75,
    "kl_per_token": 0.123, "headroom": 1.0, "flops": 1.2e16, "seconds": 12345.6, "new_tokens": 2048.0, "fluency": -13.2,
}  # fmt: skip
"""Changes to rows by which every column is there and full."""


def report(
    folder, text=SCRIPT, prompt="I <em>saw</em>", seconds=1.5, experiment=DEMO, seen=None, count=5, preliminary=False,
    **changes,
):  # fmt: skip
    """Write the report of `count` prompts with every decoder of an experiment; `changes` are made to every row. Gives
    the page, and in the list `seen` the rows."""
    decoders = experiment.guide.decoders
    generations = {
        decoder.name: [
            Generation(f"p{number}", prompt, 0, [0], [1, 2], f" {decoder.name} {number}" + "!" * place + text, "length")
            for number in range(count)
        ]
        for place, decoder in enumerate(decoders)
    }
    scores = {
        name: score_decoder(name, each, Lengths(), Lengths(), lambda some: ([-4.0] * len(some), [2] * len(some)))
        for name, each in generations.items()
    }
    costs = {name: Cost(1e12, 2.0) for name in scores}
    settings = experiment.guide, experiment.evaluate, experiment.seed, model_names(experiment.small, experiment.base)
    rows = summarise(*settings, scores, generations, lambda string: list(string.encode()), costs)
    rows = with_columns(rows, experiment.evaluate.columns, generations, scores)
    rows = [dataclasses.replace(each, **changes) for each in rows]
    if seen is not None:
        seen += rows
    times = {"data": seconds, "tune": 2.0, f"guide {decoders[0].name}": 3.0, f"guide {decoders[-1].name}": 100.0}
    rows = rows[:2] if preliminary else rows
    return write_report(folder, experiment, rows, scores, generations, times, DETAILS, preliminary=preliminary)
