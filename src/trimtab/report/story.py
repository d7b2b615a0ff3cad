"""What was run, in a few sentences for the head of the page.

Knows the configuration and the table, nothing of pages.

    >>> from trimtab.experiment import Experiment
    >>> what_was_run(Experiment(name="demo"), [])[-1]
    'Intervals hold 95 % of 2,000 bootstrap resamples of the prompts. The seed is 0.'
"""

from collections.abc import Sequence

from trimtab.evaluation.evaluate import Row, oracle_of
from trimtab.experiment import Experiment

LOSSES = {
    "sigmoid": "DPO",
    "hinge": "SLiC-HF (hinge loss)",
    "hinge_sft": "SLiC-HF (hinge loss with a likelihood term)",
}
STRATEGIES = {
    "random": "any two samples",
    "margin": "samples whose rewards differ by a margin",
    "straddle": "one sample below and one above a threshold",
    "best_worst": "the best and the worst of a prompt's samples",
}
DEFINITIONS = {"margin": "log p(positive) − log p(negative)", "positive_logit": "positive logit"}


def what_was_run(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    """Sentences on models and data, tuning, the reward, and how surely it was measured."""
    settings = experiment.evaluate
    return [
        _decoding(experiment, rows),
        _tuning(experiment),
        f"The gold reward is the {DEFINITIONS[experiment.reward.definition]} of a sentiment classifier "
        f"({experiment.reward.model}{', fine-tuned here' if experiment.reward.training else ''}) on prompt and "
        "response; a second judge, trained apart, checks it.",
        *_headroom(experiment, rows),
        f"Intervals hold {100 * settings.confidence:g} % of {settings.bootstrap:,} bootstrap resamples of the "
        f"prompts. The seed is {experiment.seed}.",
    ]


def _decoding(experiment: Experiment, rows: Sequence[Row]) -> str:
    data, guide = experiment.data, experiment.guide
    low, high = data.prompt_words
    count = rows[0].prompts + rows[0].left_out if rows else data.test_prompts
    prompts = f"the first {low} to {high} words of held-out {data.reviews} reviews"
    if data.preferences is not None:
        prompts = f"from the test split of {data.preferences}"
    models = {"large": experiment.large.name, "untuned": experiment.small.name, "tuned": experiment.small.name}
    used = list(dict.fromkeys(models[decoder.model] for decoder in guide.decoders if decoder.best_of is None))
    sampling = guide.sampling
    filters = (f", top-k {sampling.top_k}" if sampling.top_k else "") + (
        f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    )
    return (
        f"{' and '.join(used)} continued {count} prompts, {prompts}, by up to {guide.max_new_tokens} "
        f"tokens (temperature {sampling.temperature:g}{filters})."
    )


def _tuning(experiment: Experiment) -> str:
    tune, pairs = experiment.tune, experiment.pairs
    source = f"the pairs of {experiment.data.preferences}"
    if experiment.data.preferences is None:
        source = f"pairs of its own samples ({STRATEGIES[pairs.strategy]})"
    weights = "all weights" if tune.lora is None else f"a LoRA adapter of rank {tune.lora.rank}"
    return (
        f"The guide is {experiment.small.name} before and after {LOSSES[tune.loss]} at beta {tune.beta:g} on {source}, "
        f"which changed {weights}."
    )


def _headroom(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    """Which gold pick headroom is measured against; nothing where no row has a headroom."""
    guide = experiment.guide
    picks = {
        oracle.name
        for row in rows
        if row.headroom is not None and (oracle := oracle_of(guide, guide.decoder(row.decoder))) is not None
    }
    if not picks:
        return []
    return [f"Headroom is a share of the gain of {' or '.join(sorted(picks))}, which the gold reward itself picks."]
