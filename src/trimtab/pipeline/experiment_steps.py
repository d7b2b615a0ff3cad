"""The list of steps of an experiment, from its data to the report, as pure data.

>>> from trimtab.config.experiment import Experiment
>>> [step.name for step in steps(Experiment(name="demo"))]  # doctest: +NORMALIZE_WHITESPACE
['data', 'reward', 'judge', 'guide base', 'evaluate base', 'synthesize tuning', 'synthesize validation', 'pairs',
 'tune', 'report']
"""

from functools import partial
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.errors import ConfigurationError
from trimtab.pipeline import flops, makers, memory
from trimtab.pipeline.stages import COMMAND_WORDS
from trimtab.pipeline.step import Code, DatasetName, Step, with_needs

STAGES = list(COMMAND_WORDS)


def steps(experiment: Experiment) -> list[Step]:
    """All steps of an experiment, each after those that it needs; nothing is made, loaded or read."""
    data = Step("data", makers.data, parts={"data": experiment.data, "seed": experiment.seed})
    reward = _reward(experiment, data)
    judges = _judges(experiment, data)
    untuned = _sft(experiment, data)
    samples = tuple(_synthesize(experiment, split, (data, reward, *untuned)) for split in _sampled_splits(experiment))
    pairs = _pairs(experiment, samples)
    tuned = _tune(experiment, (*pairs, *untuned))
    decoded: dict[str, Step] = {}
    # a best_of decoder reads another decoder's step, which therefore comes first
    for decoder in sorted(experiment.guide.decoders, key=lambda decoder: decoder.best_of is not None):
        decoded[decoder.name] = _guide(experiment, decoder, data, reward, untuned, pairs, tuned, decoded)
    first: list[Step] = []
    rest: list[Step] = []
    for decoder in experiment.guide.decoders:  # each is measured as soon as it has decoded, so that the table fills
        guide = decoded[decoder.name]
        part = first if decoder.plain and not decoder.uses_tuned and guide.need("pairs") is None else rest
        source = [] if decoder.best_of is None or decoded[decoder.best_of] in rest else [decoded[decoder.best_of]]
        part += [*source, guide, _evaluate(experiment, guide, reward, judges, untuned)]
    rest += [
        _divergence(experiment, decoder, decoded[decoder.name], untuned, tuned) for decoder in _diverging(experiment)
    ]
    trials = _trials(experiment, data, reward, pairs)
    # what needs no tuning comes before it: a run has its first numbers early
    line = list(dict.fromkeys([data, *trials, reward, *judges, *untuned, *first, *samples, *pairs, *tuned, *rest]))
    needs = tuple(sorted(line, key=lambda step: STAGES.index(step.stage)))
    return [*line, Step("report", makers.report, execution={"experiment": experiment}, needs=needs)]


def up_to(experiment: Experiment, until: str) -> list[Step]:
    """The steps of a stage and of those before it.

    Raises:
        ConfigurationError: the experiment has no step of this stage.
    """
    line = steps(experiment)
    if until == "sft" and experiment.sft is None:
        raise ConfigurationError(
            f"{experiment.name} takes the small model as it is: give the experiment a part sft to train it on reviews"
        )
    stages = {step.stage for step in line}
    if until in ("synthesize", "pairs", "tune") and until not in stages and not experiment.tunes:
        raise ConfigurationError(
            f"guide.tuned names a tuned model, so that `trimtab {until}` has nothing to make: run guide"
        )
    if until not in stages:
        known = ", ".join(stage for stage in STAGES if stage in stages)
        raise ConfigurationError(f"{experiment.name} has nothing to {until}: its stages are {known}")
    return [step for step in line if STAGES.index(step.stage) <= STAGES.index(until)]


def _reward(experiment: Experiment, data: Step) -> Step:
    """The gold reward: trained on reviews, or ready to use."""
    if experiment.reward.training is None:
        # its identity has no seed, so that decoders of runs with different seeds can be compared
        return Step("reward", makers.ready_reward, parts={"reward": experiment.reward}, code=_reward_code(experiment))
    return Step(
        "reward", makers.trained_reward, parts={"reward": experiment.reward, "seed": experiment.seed},
        execution=_checkpoints(experiment), code=_reward_code(experiment), needs=(data,),
        flops=partial(flops.of_reward, experiment),
    )  # fmt: skip


def _trials(experiment: Experiment, data: Step, reward: Step, pairs: tuple[Step, ...]) -> list[Step]:
    """A first call of the user's functions and of a reward service, each with the steps that it needs.

    Else a fault in them would show when the first texts are scored, perhaps after hours of tuning.
    """
    source, on_pairs = _test_prompts(experiment, data, pairs)
    test = {"unprompted": experiment.guide.unprompted, **on_pairs}
    stage, trials = "pairs" if on_pairs else "reward", []
    if experiment.reward.training is None and "model" not in experiment.reward.entry.reads:
        trials.append(
            Step(
                stage, makers.try_reward, "trial reward", "trial", parts={"reward": experiment.reward, **test},
                code=_reward_code(experiment), needs=(*source, reward),
            )
        )  # fmt: skip
    values = [value.function for decoder in experiment.guide.decoders for value in decoder.value]
    for function in sorted(set(filter(None, values))):
        parts = {"function": function, **test}
        trials.append(
            Step(stage, makers.try_value, f"trial {function}", "trial", parts, code=(Code(function),), needs=source)
        )
    return with_needs(trials)


def _test_prompts(
    experiment: Experiment, data: Step, pairs: tuple[Step, ...]
) -> tuple[tuple[Step, ...], dict[str, Any]]:
    """The steps that hold the test prompts, and the part `data` where these are the prompts of preference pairs."""
    if experiment.guide.unprompted is not None:
        return (), {}
    return (pairs, {"data": experiment.data}) if experiment.data.tests_on_pairs else ((data,), {})


def _judges(experiment: Experiment, data: Step) -> tuple[Step, ...]:
    """The second judge, where the experiment has one."""
    if experiment.judge is None:
        return ()
    parts = {"judge": experiment.judge, "seed": experiment.seed}
    return (Step("reward", makers.judge, "judge", "judge", parts, needs=(data,)),)


def _sft(experiment: Experiment, data: Step) -> tuple[Step, ...]:
    """Supervised fine-tuning of the small model, where the experiment asks for it."""
    if experiment.sft is None:
        return ()
    step = Step(
        "sft", makers.sft, parts={"small": experiment.small, "sft": experiment.sft, "seed": experiment.seed},
        execution=_checkpoints(experiment), needs=(data,), memory=partial(memory.of_sft, experiment),
        flops=partial(flops.of_sft, experiment),
    )  # fmt: skip
    return (step,)


def _synthesize(experiment: Experiment, split: str, needs: tuple[Step, ...]) -> Step:
    """The untuned model's responses to the prompts of one split, with their rewards."""
    return Step(
        "synthesize", makers.synthesize, f"synthesize {split}",
        parts={"small": experiment.small, "synthesize": experiment.synthesize, "reward": experiment.reward,
               "split": split, "seed": experiment.seed},
        execution={"rows": partial(memory.synthesis_rows, experiment)}, needs=needs, decodes=True,
        memory=partial(memory.of_sampling, experiment), flops=partial(flops.of_synthesis, experiment, split),
    )  # fmt: skip


def _pairs(experiment: Experiment, samples: tuple[Step, ...]) -> tuple[Step, ...]:
    """Preference pairs: those of a data set, or pairs of the samples; none where nothing is tuned."""
    if experiment.data.preferences is not None:
        existing = DatasetName(experiment.data.preferences)
        return (Step("pairs", makers.existing_pairs, parts={"preferences": existing}),)
    if not experiment.tunes:
        return ()
    parts = {"pairs": experiment.pairs, "data": experiment.data, "seed": experiment.seed,
             "unprompted": experiment.synthesize.unprompted}  # fmt: skip
    code = (Code(experiment.pairs.strategy, "strategy"),)
    return (Step("pairs", makers.pairs, parts=parts, code=code, needs=samples),)


def _tune(experiment: Experiment, needs: tuple[Step, ...]) -> tuple[Step, ...]:
    """Preference tuning of the small model; none where the experiment names a tuned one, or needs none."""
    if not experiment.tunes:
        return ()
    tune = experiment.tune
    step = Step(
        "tune", makers.tune,
        parts={"small": experiment.small, "tune": tune, "seed": experiment.seed if tune.seed is None else tune.seed},
        execution=_checkpoints(experiment), code=(Code(tune.loss, "loss"),), needs=needs,
        memory=partial(memory.of_tuning, experiment), flops=partial(flops.of_tuning, experiment),
    )  # fmt: skip
    return (step,)


def _checkpoints(experiment: Experiment) -> dict[str, float]:
    """How often a training saves a checkpoint, which changes nothing of its result."""
    return {"checkpoint_seconds": experiment.checkpoint_seconds}


def _guide(
    experiment: Experiment,
    decoder: DecoderConfig,
    data: Step,
    reward: Step,
    untuned: tuple[Step, ...],
    pairs: tuple[Step, ...],
    tuned: tuple[Step, ...],
    decoded: dict[str, Step],
) -> Step:
    """The generations of one decoder on the test prompts."""
    guide, name = experiment.guide, f"guide {decoder.name}"
    if decoder.best_of is not None:
        source = guide.decoder(decoder.best_of)
        # candidates of a large model alone come from one model; emulated fine-tuning adds the small pair
        roles = ("large", "untuned", "tuned") if source.model != "large" or source.terms else ("large",)
        parts: dict[str, Any] = {"reward": experiment.reward, "roles": list(roles)}
        return Step("guide", makers.best_of, name, parts=parts, needs=(decoded[decoder.best_of], reward))
    plain = guide.model_copy(update={"decoders": (), "tuned": None})
    parts = {"decoder": decoder, "guide": plain, "seed": experiment.seed}
    source_of_prompts, on_pairs = _test_prompts(experiment, data, pairs)
    parts |= on_pairs
    needs = [*source_of_prompts]
    if decoder.model == "large":
        parts["large"] = experiment.large
    if decoder.uses_small:
        parts["small"] = experiment.small
        needs += untuned
    if decoder.uses_tuned:
        parts |= {} if guide.tuned is None else {"tuned": guide.tuned}
        needs += tuned
    if decoder.guided_by_gold:
        parts["reward"] = experiment.reward
        needs.append(reward)
    for number, term in enumerate(decoder.emulate):
        parts |= {} if term.tuned is None else {f"tuned_{number}": term.tuned}
        parts |= {} if term.untuned is None else {f"untuned_{number}": term.untuned}
    if decoder.budget is not None:  # the budget chooses what the decoder leaves out: no width differs from `width: 1`
        parts["given"] = sorted({"width", "successors", "chunk"} & decoder.model_fields_set)
    code = [Code(value.function) if value.function is not None else Code(value.by, "value") for value in decoder.value]
    return Step(
        "guide", makers.guide, name, parts=parts, execution={"rows": partial(memory.decoding_rows, experiment)},
        code=tuple(code), needs=tuple(needs), decodes=True, memory=partial(memory.of_decoding, experiment, decoder),
        flops=partial(flops.of_decoding, experiment, decoder),
    )  # fmt: skip


def _evaluate(
    experiment: Experiment, guide: Step, reward: Step, judges: tuple[Step, ...], untuned: tuple[Step, ...]
) -> Step:
    """The scores of one decoder's generations."""
    large, name = experiment.large, guide.name.removeprefix("guide ")
    parts: dict[str, Any] = {"decoder": name, "large": large, "reward": experiment.reward}
    needs = (guide, reward, *judges)
    if large is not None and large.endpoint is not None:  # without log-probabilities, fluency is not measured
        parts["log_probabilities"] = large.endpoint.log_probabilities
    if large is None:
        parts["small"], needs = experiment.small, (*needs, *untuned)
    flops_of = partial(flops.of_scoring, experiment)
    return Step("evaluate", makers.evaluate, f"evaluate {name}", parts=parts, needs=needs, flops=flops_of)


def _divergence(
    experiment: Experiment, decoder: DecoderConfig, guide: Step, untuned: tuple[Step, ...], tuned: tuple[Step, ...]
) -> Step:
    """The divergence of the tuned model from the untuned one, on the tuned model's responses."""
    parts: dict[str, Any] = {"samples": experiment.evaluate.kl_samples, "small": experiment.small}
    parts |= {} if experiment.guide.tuned is None else {"tuned": experiment.guide.tuned}
    name, needs = f"evaluate {decoder.name} (KL)", (guide, *tuned, *untuned)
    return Step("evaluate", makers.divergence, name, "divergence", parts, needs=needs)


def _sampled_splits(experiment: Experiment) -> tuple[str, ...]:
    """The splits whose prompts the untuned model responds to; none where pairs, or a tuned model, exist already."""
    return () if experiment.data.preferences or not experiment.tunes else ("tuning", "validation")


def _diverging(experiment: Experiment) -> list[DecoderConfig]:
    """The decoders that sample the tuned model as it is, where the experiment measures its divergence."""
    if not experiment.evaluate.kl_samples:
        return []
    return [decoder for decoder in experiment.guide.decoders if decoder.plain and decoder.model == "tuned"]


def _reward_code(experiment: Experiment) -> tuple[Code, ...]:
    """The code of a plug-in's reward kind; a function's is a part of its file's identity."""
    return () if experiment.reward.by is not None else (Code(experiment.reward.definition, "reward kind"),)
