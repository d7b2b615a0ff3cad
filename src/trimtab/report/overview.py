"""The head of the page, for a reader who knows nothing of the run: what was run, by how much, how surely, at what cost.

Knows the configuration and the table, nothing of pages.

    >>> from trimtab.config.experiment import Experiment
    >>> lead(Experiment.model_validate({"name": "demo", "small": {"name": "me/tiny"}}))[:40]
    'A small language model, tiny, was tuned '
"""

from collections.abc import Sequence

from trimtab.config.experiment import Experiment
from trimtab.evaluation.evaluate import Row, oracle_of
from trimtab.preferences.strategies import STRATEGIES
from trimtab.report import reward_words
from trimtab.report.columns import Column, columns_of
from trimtab.report.missing_values import NO_JUDGE
from trimtab.report.verdict import NOTHING, Finding, findings
from trimtab.report.wording import duration, interval, number, percent, short_names, times
from trimtab.training.losses import LOSSES


def lead(experiment: Experiment) -> str:
    """A few sentences on what this experiment is: what was tuned and how, what is measured, and what was steered."""
    return " ".join([_origin(experiment), *_steering(experiment)])


def _origin(experiment: Experiment) -> str:
    """How the tuned model came to be, and what the gold reward is."""
    reward, names = experiment.reward, _names(experiment)
    small = names[experiment.small.name]
    meaning = reward_words.measures(reward)
    says = "" if meaning is None else f": {meaning}"
    measured = f"Responses are measured here by {reward_words.source(reward)} (the gold reward{says})."
    tuned = experiment.guide.tuned
    if tuned is not None:
        name = names[tuned.name]
        adapted = "" if tuned.adapter is None else f" with the adapter {tuned.adapter}"
        made = f", a model tuned elsewhere from {small}" if name != small else ", was tuned elsewhere"
        return f"A small language model, {name}{adapted}{made}. {measured}"
    if experiment.data.preferences is not None:
        pairs = f"the preference pairs of {experiment.data.preferences}"
        return f"A small language model, {small}, was tuned on {pairs}. {measured}"
    strategy = STRATEGIES[experiment.pairs.strategy]
    if strategy.decides_winner:
        return f"A small language model, {small}, was tuned on pairs of its own samples ({strategy.words}). {measured}"
    return (
        f"A small language model, {small}, was tuned to write what {reward_words.source(reward)} scores higher (the "
        f"gold reward{says})."
    )


def _steering(experiment: Experiment) -> list[str]:
    """A sentence on what steered the large model; none where nothing did."""
    sources: dict[str, None] = {}
    for decoder in experiment.guide.decoders:
        if decoder.best_of is not None or decoder.model != "large":
            continue
        if decoder.guided_by_pair or any(term.tuned is None for term in decoder.terms):
            sources["what tuning changed in it"] = None
        if any(term.tuned is not None for term in decoder.terms):
            sources["the difference of other models"] = None
        if decoder.guided_by_gold:
            sources["the gold reward itself"] = None
        for value in decoder.value:
            if not (value.uses_pair or value.uses_gold):
                sources[f"the function {value.function}" if value.function else value.words] = None
    if not sources:
        return []
    large = _names(experiment)[experiment.base.name]
    what = " or ".join(sources)
    return [f"{what[0].upper()}{what[1:]} then steered {large}, a model left as it was, while that wrote."]


def brief(experiment: Experiment, rows: Sequence[Row], seconds: float) -> list[tuple[str, list[str]]]:
    """Four questions, each with statements that answer it; `seconds` is the wall time of the whole run."""
    found = findings(experiment, rows)
    return [
        (
            "What was run",
            [_decoding(experiment, rows), _tuning(experiment), reward_words.definition(experiment.reward)],
        ),
        ("By how much", _by_how_much(experiment, rows, found)),
        ("How surely", _how_surely(experiment, rows, found)),
        ("At what cost", [*map(_cost, found), f"The whole run, training included: {duration(seconds)} of wall time."]),
    ]


def table_columns(experiment: Experiment, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of an experiment's table."""
    return columns_of(rows, large=experiment.large is not None, prompted=experiment.guide.unprompted is None)


def prompts_of(rows: Sequence[Row]) -> int:
    """How many prompts every decoder was given."""
    return max((row.prompts + row.left_out + row.set_aside for row in rows), default=0)


def _names(experiment: Experiment) -> dict[str, str]:
    tuned = experiment.guide.tuned
    return short_names([experiment.base.name, experiment.small.name, *([tuned.name] if tuned is not None else [])])


def _decoding(experiment: Experiment, rows: Sequence[Row]) -> str:
    data, guide, names = experiment.data, experiment.guide, _names(experiment)
    small, tuned = experiment.small.name, guide.tuned or experiment.small
    models = {"large": experiment.base.name, "untuned": small, "tuned": tuned.name}
    used = list(dict.fromkeys(names[models[each.model]] for each in guide.decoders if each.best_of is None))
    sampling = guide.sampling
    filters = (f", top-k {sampling.top_k}" if sampling.top_k else "") + (
        f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    )
    limits = f"up to {guide.max_new_tokens} tokens, at temperature {sampling.temperature:g}{filters}"
    if guide.unprompted is not None:
        return (
            f"{' and '.join(used)} wrote {guide.unprompted:,} texts with each decoder, from nothing but a start token, "
            f"of {limits}."
        )
    low, high = data.prompt_words
    prompts = f"the first {low} to {high} words of held-out {data.reviews} reviews"
    if data.instructions is not None:
        prompts = f"held-out instructions of {data.instructions.name}"
    elif data.preferences is not None:
        prompts = f"from the test split of {data.preferences}"
    did = "continued" if data.instructions is None else "answered"
    return (
        f"{' and '.join(used)} {did} the same {prompts_of(rows) or data.test_prompts:,} prompts ({prompts}) by "
        f"{limits}."
    )


def _tuning(experiment: Experiment) -> str:
    if experiment.guide.tuned is not None:
        tuned = experiment.guide.tuned
        adapter = f" with the adapter {tuned.adapter}" if tuned.adapter is not None else ""
        return f"The tuned model is {tuned.name}{adapter}, over {experiment.small.name}; nothing was tuned here."
    tune, pairs = experiment.tune, experiment.pairs
    source = f"the pairs of {experiment.data.preferences}"
    if experiment.data.preferences is None:
        source = f"pairs of its own samples ({STRATEGIES[pairs.strategy].words})"
    weights = "all its weights" if tune.lora is None else f"a LoRA adapter of rank {tune.lora.rank}"
    first = ""
    if experiment.sft is not None:
        first = f"first trained on the text of {experiment.data.sft_reviews:,} {experiment.data.reviews} reviews, then "
    loss = f"{LOSSES[tune.loss].words} at beta {tune.beta:g}"
    return f"The small model was {first}tuned by {loss} on {source}, in {weights}."


def _by_how_much(experiment: Experiment, rows: Sequence[Row], found: Sequence[Finding]) -> list[str]:
    if not found:
        return [NOTHING]
    # a bare logit of 0 says nothing of what reads as positive
    tone = reward_words.tone(experiment.reward) if experiment.reward.definition == "margin" else None
    sentences = [_how_many(each, tone) if tone else _how_high(each) for each in found]
    guide = experiment.guide
    oracles = {
        oracle.name: guide.decoder(oracle.best_of or "")
        for row in rows
        if row.headroom is not None and (oracle := oracle_of(guide, guide.decoder(row.decoder))) is not None
    }
    reached = [each.row for each in found if each.row.headroom is not None and each.row.headroom > 0]
    for name, source in oracles.items():
        shares = "".join(f"; {row.decoder} reaches {percent(row.headroom)} of its gain" for row in reached)
        samples = source.width * source.successors
        sentences.append(f"The mark to reach is {name}, the gold reward's own pick from {samples} samples{shares}.")
    odds = reward_words.odds(experiment.reward)
    return sentences if odds is None else [*sentences, odds]


def _how_many(finding: Finding, tone: reward_words.Tone) -> str:
    return (
        f"{finding.row.decoder} over {finding.reference.decoder}: {percent(finding.row.positive)} instead of "
        f"{percent(finding.reference.positive)} of the responses read as {tone}."
    )


def _how_high(finding: Finding) -> str:
    return (
        f"{finding.row.decoder} over {finding.reference.decoder}: a mean reward of {number(finding.row.reward)} "
        f"instead of {number(finding.reference.reward)}."
    )


def _how_surely(experiment: Experiment, rows: Sequence[Row], found: Sequence[Finding]) -> list[str]:
    settings, noun = experiment.evaluate, "prompts" if experiment.guide.unprompted is None else "responses"
    judged = [
        f"{row.decoder} {interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high)}"
        for row in (each.row for each in found)
        if row.judge is not None
    ]
    same = reward_words.tone(experiment.reward) == "positive"
    does = "checks it" if same else "says how positive the responses read, whatever the gold reward measures"
    checked = (
        f"A second judge, trained apart and asked neither in tuning nor in search, {does}"
        f"{'. Gains on its own scale: ' if judged else ''}{', '.join(judged)}."
    )
    return [
        f"Brackets are {100 * settings.confidence:g} % intervals from {settings.bootstrap:,} bootstrap resamples of "
        f"the {prompts_of(rows):,} {noun}; a change is clear where its interval leaves out 0.",
        NO_JUDGE if any(row.judge is None for row in rows) else checked,
        f"All of it is one run, with seed {experiment.seed}.",
    ]


def _cost(finding: Finding) -> str:
    row, base = finding.row, finding.reference
    parts = [f"{duration(row.seconds)} instead of {duration(base.seconds)} for a prompt"]
    if base.flops > 0:
        ratio = row.flops / base.flops
        parts.insert(0, "about the same arithmetic" if 0.95 < ratio < 1.05 else f"{times(ratio)} the arithmetic")
    if row.fluency is not None and base.fluency is not None:
        parts.append(f"fluency {number(row.fluency)} instead of {number(base.fluency)}")
    parts.append(f"diversity {number(row.diversity)} instead of {number(base.diversity)}")
    return f"{row.decoder} over {base.decoder}: {', '.join(parts)}."
