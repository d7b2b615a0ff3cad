"""The list of steps of an experiment: the whole line, from reviews to the report, as pure data.

>>> from trimtab.config.experiment import Experiment
>>> [step.name for step in steps(Experiment(name="demo"))]  # doctest: +NORMALIZE_WHITESPACE
['data', 'reward', 'judge', 'synthesize tuning', 'synthesize validation', 'pairs', 'tune', 'guide base',
 'evaluate base', 'report']
"""

from functools import partial
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.errors import ConfigurationError
from trimtab.pipeline import flops, makers, memory
from trimtab.pipeline.step import Code, DatasetName, Step


def steps(experiment: Experiment) -> list[Step]:
    """All steps of an experiment, each after those that it needs; nothing is made, loaded or read."""
    seed, small, tune = experiment.seed, experiment.small, experiment.tune
    saving = {"checkpoint_seconds": experiment.checkpoint_seconds}

    data = Step("data", makers.data, parts={"data": experiment.data, "seed": seed})
    # a reward that is ready is one under all seeds, so that decoders of two seeds can be compared
    reward = Step("reward", makers.ready_reward, parts={"reward": experiment.reward}, code=_reward_code(experiment))
    if experiment.reward.training is not None:
        reward = Step(
            "reward", makers.trained_reward, parts={"reward": experiment.reward, "seed": seed}, execution=saving,
            needs=(data,), flops=partial(flops.of_reward, experiment),
        )  # fmt: skip
    first = [data, reward]
    if experiment.data.reviews is not None:
        parts = {"judge": experiment.judge, "seed": seed}
        first.append(Step("reward", makers.judge, "judge", "judge", parts, needs=(data,)))
    untuned: tuple[Step, ...] = ()
    if experiment.sft is not None:
        untuned = (
            Step(
                "sft", makers.sft, parts={"small": small, "sft": experiment.sft, "seed": seed}, execution=saving,
                needs=(data,), memory=partial(memory.of_sft, experiment), flops=partial(flops.of_sft, experiment),
            ),
        )  # fmt: skip
    samples = tuple(
        Step(
            "synthesize", makers.synthesize, f"synthesize {split}",
            parts={"small": small, "synthesize": experiment.synthesize, "reward": experiment.reward, "split": split,
                   "seed": seed},
            execution={"rows": partial(memory.synthesis_rows, experiment)}, needs=(data, reward, *untuned),
            decodes=True, memory=partial(memory.of_sampling, experiment),
            flops=partial(flops.of_synthesis, experiment, split),
        )
        for split in _sampled_splits(experiment)
    )  # fmt: skip
    pairs: tuple[Step, ...] = ()
    tuned: tuple[Step, ...] = ()
    if experiment.data.preferences is not None:
        existing = DatasetName(experiment.data.preferences)
        pairs = (Step("pairs", makers.existing_pairs, parts={"preferences": existing}),)
    elif experiment.tunes:
        parts = {"pairs": experiment.pairs, "data": experiment.data, "seed": seed,
                 "unprompted": experiment.synthesize.unprompted}  # fmt: skip
        code = (Code(experiment.pairs.strategy, "strategy"),)
        pairs = (Step("pairs", makers.pairs, parts=parts, code=code, needs=samples),)
    if experiment.tunes:
        tuned = (
            Step(
                "tune", makers.tune,
                parts={"small": small, "tune": tune, "seed": seed if tune.seed is None else tune.seed},
                execution=saving, code=(Code(tune.loss, "loss"),), needs=(*pairs, *untuned),
                memory=partial(memory.of_tuning, experiment), flops=partial(flops.of_tuning, experiment),
            ),
        )  # fmt: skip
    decoded: dict[str, Step] = {}
    for decoder in sorted(experiment.guide.decoders, key=lambda each: each.best_of is not None):
        decoded[decoder.name] = _guide(experiment, decoder, data, reward, untuned, pairs, tuned, decoded)
    guides = [decoded[decoder.name] for decoder in experiment.guide.decoders]
    judges = tuple(first[2:])
    scores = [_evaluate(experiment, guide, reward, judges, untuned) for guide in guides]
    scores += [
        _divergence(experiment, decoder, decoded[decoder.name], untuned, tuned) for decoder in _diverging(experiment)
    ]
    line = [*first, *untuned, *samples, *pairs, *tuned, *guides, *scores]
    return [*line, Step("report", makers.report, execution={"experiment": experiment}, needs=tuple(line))]


def up_to(experiment: Experiment, until: str) -> list[Step]:
    """The steps up to the last one of a stage.

    Raises:
        ConfigurationError: the experiment has no step of this stage.
    """
    line = steps(experiment)
    if until == "sft" and experiment.sft is None:
        raise ConfigurationError(
            f"{experiment.name} takes the small model as it is: give the experiment a part sft to train it on reviews"
        )
    if until in ("synthesize", "pairs", "tune") and not experiment.tunes:
        raise ConfigurationError(f"guide.tuned names a tuned model, so that there is nothing to {until}: run guide")
    numbers = [number for number, step in enumerate(line) if step.stage == until]
    if not numbers:
        stages = ", ".join(dict.fromkeys(step.stage for step in line))
        raise ConfigurationError(f"{experiment.name} has nothing to {until}: its stages are {stages}")
    return line[: numbers[-1] + 1]


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
        # a large model alone did the sampling; under EFT, or without it, the small ones did their part
        roles = ("large", "untuned", "tuned") if source.model != "large" or source.terms else ("large",)
        parts: dict[str, Any] = {"reward": experiment.reward, "roles": list(roles)}
        return Step("guide", makers.best_of, name, parts=parts, needs=(decoded[decoder.best_of], reward))
    plain = guide.model_copy(update={"decoders": (), "tuned": None})
    parts = {"decoder": decoder, "guide": plain, "seed": experiment.seed}
    needs: list[Step] = []
    if guide.unprompted is None:
        needs += pairs if experiment.data.tests_on_pairs else (data,)
        parts |= {"data": experiment.data} if experiment.data.tests_on_pairs else {}
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
    if decoder.budget is not None:  # `width: 1` and no width differ in nothing else
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
    if large is not None and large.endpoint is not None:  # without them fluency is not measured
        parts["log_probabilities"] = large.endpoint.log_probabilities
    if large is None:
        parts["small"], needs = experiment.small, (*needs, *untuned)
    flops_of = partial(flops.of_scoring, experiment)
    return Step("evaluate", makers.evaluate, f"evaluate {name}", parts=parts, needs=needs, flops=flops_of)


def _divergence(
    experiment: Experiment, decoder: DecoderConfig, guide: Step, untuned: tuple[Step, ...], tuned: tuple[Step, ...]
) -> Step:
    """How far the tuned model is from the untuned one, on its own responses."""
    parts: dict[str, Any] = {"samples": experiment.evaluate.kl_samples, "small": experiment.small}
    parts |= {} if experiment.guide.tuned is None else {"tuned": experiment.guide.tuned}
    name, needs = f"evaluate {decoder.name} (KL)", (guide, *tuned, *untuned)
    return Step("evaluate", makers.divergence, name, "divergence", parts, needs=needs)


def _sampled_splits(experiment: Experiment) -> tuple[str, ...]:
    """The prompts that the untuned model is sampled on; none where pairs, or a tuned model, exist already."""
    return () if experiment.data.preferences or not experiment.tunes else ("tuning", "validation")


def _diverging(experiment: Experiment) -> list[DecoderConfig]:
    """The decoders that sample the tuned model as it is, where its divergence is asked for."""
    if not experiment.evaluate.kl_samples:
        return []
    return [decoder for decoder in experiment.guide.decoders if decoder.plain and decoder.model == "tuned"]


def _reward_code(experiment: Experiment) -> tuple[Code, ...]:
    return () if experiment.reward.by is not None else (Code(experiment.reward.definition, "reward kind"),)
