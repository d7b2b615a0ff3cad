"""The head of the page, for a reader who does not know the run: what was run, by how much, how surely, at what cost.

>>> lead(Experiment.model_validate({"name": "demo", "small": {"name": "me/tiny"}}))[:40]
'A small language model, tiny, was tuned '
"""

from collections.abc import Sequence

from trimtab.config.experiment import Experiment
from trimtab.evaluation.evaluate import Row
from trimtab.evaluation.marks import oracle_of
from trimtab.preferences.strategies import STRATEGIES
from trimtab.report import reward_words
from trimtab.report.between import between
from trimtab.report.columns import Column, columns_of
from trimtab.report.missing_values import NO_JUDGE
from trimtab.report.verdict import MIN_PROMPTS, NOTHING, Finding, findings
from trimtab.report.wording import NOISE_SHARE, duration, interval, number, percent, short_names, times
from trimtab.training.losses import LOSSES


def table_columns(experiment: Experiment, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of an experiment's table."""
    return columns_of(
        rows,
        large=experiment.large is not None,
        prompted=experiment.guide.unprompted is None,
        zero=bool(experiment.reward.entry.zero),
    )


def prompts_of(rows: Sequence[Row]) -> int:
    """The number of prompts that every decoder decoded."""
    return max((row.prompts + row.left_out + row.set_aside for row in rows), default=0)


def lead(experiment: Experiment) -> str:
    """What was tuned and how, what is measured, and which model was steered."""
    return f"{_origin(experiment)}{_steering(experiment)}"


def brief(experiment: Experiment, rows: Sequence[Row], seconds: float) -> list[tuple[str, list[str]]]:
    """Four questions, each with sentences that answer it; `seconds` is the wall time of the whole run."""
    compared = findings(experiment, rows)
    run = [_decoding(experiment, rows), _tuning(experiment), reward_words.definition(experiment.reward)]
    whole = f"The whole run, training included: {duration(seconds)} of wall time."
    return [
        ("What was run", run),
        ("By how much", _by_how_much(experiment, rows, compared)),
        ("How surely", _how_surely(experiment, rows, compared)),
        ("At what cost", [*map(_cost, compared), whole]),
    ]


def _names(experiment: Experiment) -> dict[str, str]:
    models = (experiment.base, experiment.small, experiment.guide.tuned)
    return short_names(model.name for model in models if model is not None)


def _origin(experiment: Experiment) -> str:
    """Where the tuned model comes from, and what the gold reward is."""
    reward, names, tuned = experiment.reward, _names(experiment), experiment.guide.tuned
    source, meaning, small = reward_words.source(reward), reward_words.measures(reward), names[experiment.small.name]
    gold = "the gold reward" if meaning is None else f"the gold reward: {meaning}"
    if tuned is not None:
        name = names[tuned.name]
        adapted = "" if tuned.adapter is None else f" with the adapter {tuned.adapter}"
        origin = f"{name}{adapted}" + (
            f", a model tuned elsewhere from {small}" if name != small else ", was tuned elsewhere"
        )
    elif experiment.data.preferences is not None:
        origin = f"{small}, was tuned on the preference pairs of {experiment.data.preferences}"
    elif (strategy := STRATEGIES[experiment.pairs.strategy]).decides_winner:
        origin = f"{small}, was tuned on pairs of its own samples ({strategy.words})"
    else:
        return f"A small language model, {small}, was tuned to write what {source} scores higher ({gold})."
    return f"A small language model, {origin}. Responses are measured here by {source} ({gold})."


def _steering(experiment: Experiment) -> str:
    """A sentence on what steered the large model; empty where nothing did."""
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
        return ""
    what = " or ".join(sources)
    large = _names(experiment)[experiment.base.name]
    large = f"{large} itself, untuned," if experiment.steers_itself else large
    return f" {what[0].upper()}{what[1:]} then steered {large} while it decoded; its weights did not change."


def _decoding(experiment: Experiment, rows: Sequence[Row]) -> str:
    data, guide, names = experiment.data, experiment.guide, _names(experiment)
    small, tuned = experiment.small.name, guide.tuned or experiment.small
    models = {"large": experiment.base.name, "untuned": small, "tuned": tuned.name}
    writers = " and ".join(
        dict.fromkeys(names[models[decoder.model]] for decoder in guide.decoders if decoder.best_of is None)
    )
    sampling = guide.sampling
    limits = f"up to {guide.max_new_tokens} tokens, at temperature {sampling.temperature:g}"
    limits += f", top-k {sampling.top_k}" if sampling.top_k else ""
    limits += f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    if guide.unprompted is not None:
        texts = f"{guide.unprompted:,} texts with each decoder"
        return f"{writers} wrote {texts}, from nothing but a start token, of {limits}."
    low, high = data.prompt_words
    prompts = f"the first {low} to {high} words of held-out {data.reviews} reviews"
    if data.instructions is not None:
        prompts = f"held-out instructions of {data.instructions.name}"
    elif data.preferences is not None:
        prompts = f"from the test split of {data.preferences}"
    verb = "continued" if data.instructions is None else "answered"
    return f"{writers} {verb} the same {prompts_of(rows) or data.test_prompts:,} prompts ({prompts}) by {limits}."


def _tuning(experiment: Experiment) -> str:
    tune, data, tuned = experiment.tune, experiment.data, experiment.guide.tuned
    if tuned is not None:
        adapter = f" with the adapter {tuned.adapter}" if tuned.adapter is not None else ""
        return f"The tuned model is {tuned.name}{adapter}, over {experiment.small.name}; nothing was tuned here."
    source = f"the pairs of {data.preferences}"
    if data.preferences is None:
        source = f"pairs of its own samples ({STRATEGIES[experiment.pairs.strategy].words})"
    first = ""
    if experiment.sft is not None:
        first = f"first trained on the text of {data.sft_reviews:,} {data.reviews} reviews, then "
    loss = f"{LOSSES[tune.loss].words} at beta {tune.beta:g}"
    weights = "all its weights" if tune.lora is None else f"a LoRA adapter of rank {tune.lora.rank}"
    return f"The small model was {first}tuned by {loss} on {source}, in {weights}."


def _by_how_much(experiment: Experiment, rows: Sequence[Row], compared: Sequence[Finding]) -> list[str]:
    if not compared:
        return [NOTHING]
    # only the sign of a margin says whether a text reads as positive; that of a bare logit does not
    tone = reward_words.tone(experiment.reward) if experiment.reward.definition == "margin" else None
    sentences = []
    for row, base in ((finding.row, finding.reference) for finding in compared):
        change = f"a mean reward of {number(row.reward)} instead of {number(base.reward)}"
        if tone is not None:
            share = f"{percent(row.positive)} instead of {percent(base.positive)}"
            change = f"{share} of the responses read as {tone}"
        sentences.append(f"{row.decoder} over {base.decoder}: {change}.")
    guide = experiment.guide
    oracles = {
        oracle.name: guide.decoder(oracle.best_of or "")
        for row in rows
        if row.headroom is not None and (oracle := oracle_of(guide, guide.decoder(row.decoder))) is not None
    }
    reached = [finding.row for finding in compared if (finding.row.headroom or 0) > 0]
    shares = "".join(f"; {row.decoder} reaches {percent(row.headroom)} of its gain" for row in reached)
    for name, source in oracles.items():
        samples = source.width * source.successors
        sentences.append(f"The mark to reach is {name}, the gold reward's own pick from {samples} samples{shares}.")
    if not any(finding.few for finding in compared):
        sentences += between(experiment, rows)
    odds = reward_words.odds(experiment.reward)
    return sentences if odds is None else [*sentences, odds]


def _how_surely(experiment: Experiment, rows: Sequence[Row], compared: Sequence[Finding]) -> list[str]:
    evaluate, noun = experiment.evaluate, "prompts" if experiment.guide.unprompted is None else "responses"
    judgement = NO_JUDGE
    if all(row.judge is not None for row in rows):
        same = reward_words.tone(experiment.reward) == "positive"
        does = "checks it" if same else "has nothing to do with the gold reward"
        gains = ", ".join(
            f"{row.decoder} {interval(row.judge_gain, row.judge_gain_low, row.judge_gain_high)}"
            for row in (finding.row for finding in compared)
        )
        judgement = f"A second judge, used neither in tuning nor in search, {does}: {reward_words.judge(experiment)}"
        judgement += f". Gains on its own scale: {gains}." if gains else "."
    clear = "a change is clear where its interval leaves out 0"
    if any(finding.few for finding in compared):
        clear = f"from fewer than {MIN_PROMPTS} such intervals are too narrow, and no change is called clear"
    return [
        f"Brackets are {100 * evaluate.confidence:g} % intervals from {evaluate.bootstrap:,} bootstrap resamples of "
        f"the {prompts_of(rows):,} {noun}; {clear}.",
        judgement,
        f"All numbers come from one run, with seed {experiment.seed}.",
    ]


def _cost(finding: Finding) -> str:
    row, base = finding.row, finding.reference
    parts = []
    if base.flops > 0:
        ratio = row.flops / base.flops
        parts.append("about the same arithmetic" if 0.95 < ratio < 1.05 else f"{times(ratio)} the arithmetic")
    parts.append(_seconds(finding))
    if row.fluency is not None and base.fluency is not None:
        parts.append(f"fluency {number(row.fluency)} instead of {number(base.fluency)}")
    parts.append(f"diversity {number(row.diversity)} instead of {number(base.diversity)}")
    return f"{row.decoder} over {base.decoder}: {', '.join(parts)}."


def _seconds(finding: Finding) -> str:
    """Both wall times, and whether their difference says anything about the decoders."""
    row, base = finding.row, finding.reference
    slower, faster = max(row.seconds, base.seconds), min(row.seconds, base.seconds)
    both = f"{duration(row.seconds)} and {duration(base.seconds)} for a prompt"
    if finding.of_tuning and 0.95 * base.flops <= row.flops <= 1.05 * base.flops:
        return f"{both} (what differs is noise: both do the same arithmetic)"
    if slower <= (1 + NOISE_SHARE) * faster:
        return f"{both} (equal within noise)"
    return f"{duration(row.seconds)} instead of {duration(base.seconds)} for a prompt"
