"""What makes each step's artifact: a function from its inputs and its parts of the configuration to files.

A function gets the parts that its step declares, by name. Heavy libraries are imported where a function runs, so that
the list of steps can be read at once.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.config.data import DataConfig
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.models import ModelConfig
from trimtab.config.pairs import PairsConfig, SynthesizeConfig
from trimtab.config.reward import JudgeConfig, RewardConfig
from trimtab.config.training import SftConfig, TuneConfig
from trimtab.errors import DataError
from trimtab.pipeline.step import DatasetName, Decoding
from trimtab.records import Generation, Pair, Prompt, Review
from trimtab.store.blocks import block_size
from trimtab.store.files import write_json, write_records, write_text

if TYPE_CHECKING:
    from trimtab.pipeline.workspace import Job
    from trimtab.rewards.reward import Scorer
    from trimtab.training.job import TrainingJob


def data(job: "Job", data: DataConfig, seed: int) -> None:
    """Reviews for the reward, the judge and the small model, and prompts to tune, validate and test on."""
    from trimtab.data.parts import draw_parts

    for name, records in draw_parts(data, job.workspace.assets, seed).items():
        if records:
            write_records(job.folder / f"{name}.jsonl", records)


def ready_reward(job: "Job", reward: RewardConfig) -> None:
    """A note that the gold reward is ready: nothing is trained."""
    write_json(job.folder / "report.json", {reward.kind: reward.label})


def try_reward(job: "Job", reward: RewardConfig, unprompted: int | None, data: DataConfig | None = None) -> None:
    """A note that the gold reward gives numbers."""
    _try(job, job.reward(reward), unprompted, data)


def try_value(job: "Job", function: str, unprompted: int | None, data: DataConfig | None = None) -> None:
    """A note that a function that values candidates gives numbers."""
    from trimtab.rewards.function import FunctionReward

    _try(job, FunctionReward(function), unprompted, data)


def _try(job: "Job", scorer: "Scorer", unprompted: int | None, data: DataConfig | None) -> None:
    """Have two test prompts scored, each with a short response. Numbers are not kept, since they may change."""
    from trimtab.rewards.reward import name_of
    from trimtab.rewards.reward_values import scores_of, warn_if_none_is_scored

    prompts = [prompt.text for prompt in _test_prompts(job, unprompted, data)[: len(TRIED)]]
    responses = list(TRIED[: len(prompts)])
    warn_if_none_is_scored(scorer, responses, scores_of(scorer, prompts, responses))
    write_json(job.folder / "tried.json", {"tried": name_of(scorer)})


TRIED = (" It is good.", " It is bad.")
"""Responses that a run's rewards are first called with."""


@contextlib.contextmanager
def _training(
    job: "Job", seed: int, checkpoint_seconds: float, trackers: Path | None = None
) -> "Iterator[TrainingJob]":
    """Where a training writes and reports. The memory that it has freed goes back to the system at the end."""
    from trimtab.models.allocator import give_back_freed_memory
    from trimtab.training.checkpoints import Saving
    from trimtab.training.job import TrainingJob

    yield TrainingJob(job.folder, seed, job.advance, Saving(job.work, checkpoint_seconds), trackers)
    give_back_freed_memory()


def trained_reward(job: "Job", reward: RewardConfig, seed: int, checkpoint_seconds: float) -> None:
    """The gold reward: a classifier trained on reviews."""
    from trimtab.training.reward import train_reward

    train, heldout = (job.input("data").records(Review, name) for name in ("reward_train", "reward_heldout"))
    with _training(job, seed, checkpoint_seconds) as training:
        train_reward(train, heldout, reward, job.workspace.assets, training)


def judge(job: "Job", judge: JudgeConfig, seed: int) -> None:
    """The second judge, fitted on reviews of its own."""
    from trimtab.rewards.judge import fit_judge

    train, heldout = (job.input("data").records(Review, name) for name in ("judge_train", "reward_heldout"))
    fitted, report = fit_judge(train, heldout, seed, judge.snippet_words)
    fitted.save(job.folder)
    write_json(job.folder / "report.json", report)


def sft(job: "Job", small: ModelConfig, sft: SftConfig, seed: int, checkpoint_seconds: float) -> None:
    """The small model trained on reviews, an ordinary folder under `model`: the untuned model of all that follows."""
    from trimtab.models.load import load_causal_lm
    from trimtab.training.sft import fine_tune

    job.workspace.empty()
    model, tokenizer = load_causal_lm(small, job.workspace.assets)
    train, heldout = (
        [review.text for review in job.input("data").records(Review, name)] for name in ("sft_train", "sft_heldout")
    )
    with _training(job, seed, checkpoint_seconds) as training:
        summary = fine_tune(train, heldout, model, tokenizer, sft, training, small.start_token)
    write_json(job.folder / "summary.json", summary)


def synthesize(
    job: "Job",
    small: ModelConfig,
    synthesize: SynthesizeConfig,
    reward: RewardConfig,
    split: str,
    seed: int,
    rows: Callable[..., int],
) -> Decoding:
    """Generations of the untuned small model, scored by the gold reward."""
    from trimtab.preferences import synthesize as synthesis

    gold, roles = job.reward(reward), job.roles(small)
    prompts = synthesis.synthesis_prompts(synthesize, job.input("data").records(Prompt, split))
    synthesis.check_some_fit(prompts, synthesize, roles["untuned"])
    size = block_size(rows(job.workspace.assets, job.jobs), synthesize.samples)
    decoder = synthesis.sampler(synthesize, roles, seed)
    return Decoding(prompts, decoder.decode, size, partial(synthesis.scored, config=synthesize, reward=gold))


def pairs(job: "Job", pairs: PairsConfig, data: DataConfig, seed: int, unprompted: bool) -> None:
    """Preference pairs of both splits, as records and as a `datasets` folder.

    The thresholds of both are those of the training samples. Where all samples share one prompt, there are as many
    validation pairs for a sample as there are training pairs.
    """
    from trimtab.preferences.dataset import write_dataset
    from trimtab.preferences.pairs import make_pairs, resolve_bounds

    train, validation = (artifact.records(Generation) for artifact in job.inputs.values())
    if not any(math.isfinite(math.nan if one.reward is None else one.reward) for one in train):
        sampled = job.step.need("synthesize")
        assert sampled is not None, job.step.name
        raise DataError(
            f"the reward {sampled.parts['reward'].label} gave none of {len(train)} responses a finite number: mend it"
        )
    bounds = resolve_bounds(train, pairs)
    made = make_pairs(train, pairs, seed, "train", bounds)
    if unprompted and pairs.total is not None:
        share = math.ceil(pairs.total * data.validation_prompts / data.tuning_prompts)
        pairs = pairs.model_copy(update={"total": share})
    made += make_pairs(validation, pairs, seed, "validation", bounds)
    write_dataset(made, job.folder / "dataset")
    without_reward = sum(not math.isfinite(generation.reward or 0.0) for generation in [*train, *validation])
    _write_pairs(job, made, without_reward)


def existing_pairs(job: "Job", preferences: DatasetName) -> None:
    """The preference pairs of an existing data set."""
    from trimtab.preferences.dataset import read_dataset

    _write_pairs(job, read_dataset(job.workspace.assets.dataset(preferences.name)), 0)


def _write_pairs(job: "Job", pairs: Sequence[Pair], responses_set_aside: int) -> None:
    from trimtab.preferences.pairs import summarize

    write_records(job.folder / "records.jsonl", pairs)
    summary = summarize([pair for pair in pairs if pair.split == "train"])
    write_json(job.folder / "summary.json", {**summary, "responses_set_aside": responses_set_aside})


def tune(job: "Job", small: ModelConfig, tune: TuneConfig, seed: int, checkpoint_seconds: float) -> None:
    """The tuned small model, an ordinary folder under `model`."""
    from trimtab.models.load import load_causal_lm
    from trimtab.training import preference

    job.workspace.empty()
    records = job.input("pairs").records(Pair)
    train, validation = ([pair for pair in records if pair.split == split] for split in ("train", "validation"))
    model, tokenizer = load_causal_lm(job.roles(small).config("untuned"), job.workspace.assets)
    with _training(job, seed, checkpoint_seconds, job.run / "trackers" / job.folder.stem) as training:
        summary = preference.tune(train, validation, model, tokenizer, tune, training, small)
    if job.main:
        write_json(job.folder / "summary.json", summary)


def guide(
    job: "Job",
    decoder: DecoderConfig,
    guide: GuideConfig,
    seed: int,
    rows: Callable[..., int],
    *,
    small: ModelConfig | None = None,
    large: ModelConfig | None = None,
    tuned: ModelConfig | None = None,
    reward: RewardConfig | None = None,
    data: DataConfig | None = None,
    **terms: Any,
) -> Decoding:
    """Generations of the test prompts by one decoder. `terms` are in the decoder's configuration already."""
    from trimtab.search.decoders import Decoder, within_its_budget

    prompts, roles = _test_prompts(job, guide.unprompted, data), job.roles(small, large, tuned)
    settled = within_its_budget(decoder, guide.max_new_tokens, roles, prompts)
    gold = None if reward is None else partial(job.reward, reward)
    ready = Decoder(settled, guide, seed, roles, gold, job.observe)
    ready.check_some_fit(prompts)
    size = block_size(rows(settled, job.workspace.assets, job.jobs), settled.width * settled.successors)
    return Decoding(prompts, ready.decode, size)


def _test_prompts(job: "Job", unprompted: int | None, data: DataConfig | None) -> list[Prompt]:
    """Prompts cut from test reviews, or instructions; those of an existing data set's test split; or empty ones."""
    from trimtab.data.parts import prompts_to_test

    if unprompted is not None:
        return [Prompt(f"unprompted-{number:05d}", "") for number in range(unprompted)]
    if data is not None:
        return prompts_to_test(job.input("pairs").records(Pair), data)
    return job.input("data").records(Prompt, "test")


def best_of(job: "Job", reward: RewardConfig, roles: list[str]) -> None:
    """The candidates of another decoder with the highest gold reward; `roles` are the models that sampled them."""
    from trimtab.evaluation.scoring import best_of as best

    gold, source = job.reward(reward), job.input("guide")
    started, before = time.monotonic(), gold.flops
    write_records(job.folder / "records.jsonl", best(source.records(Generation), gold))
    spent = {role: flops for role, flops in source.summary("cost").items()
             if role in roles or role not in ("large", "tuned", "untuned")}  # fmt: skip
    write_json(job.folder / "cost.json", {**spent, "reward": gold.flops - before})
    seconds = json.loads((source.folder / "decode_seconds.json").read_text())
    write_json(job.folder / "decode_seconds.json", seconds + time.monotonic() - started)


def evaluate(
    job: "Job",
    decoder: str,
    large: ModelConfig | None,
    reward: RewardConfig,
    small: ModelConfig | None = None,
    log_probabilities: bool | None = None,
) -> None:
    """The scores of one decoder's generations: gold reward, second judge, and fluency under the unguided base."""
    from trimtab.evaluation.coverage import set_aside
    from trimtab.evaluation.fluency import fluency_served, fluency_under
    from trimtab.evaluation.scoring import Fluency, score_decoder

    generations, roles = job.input("guide").records(Generation), job.roles(small, large)
    judge = job.inputs.get("judge")
    fluency: Fluency
    if large is not None and roles.served is not None:
        fluency = partial(fluency_served, roles.served)
    else:
        fluency = partial(fluency_under, roles["untuned" if large is None else "large"])
    second = None if judge is None else job.workspace.judge(judge.folder)
    scores = score_decoder(decoder, generations, job.reward(reward), second, fluency)
    write_records(job.folder / "records.jsonl", scores)
    aside = set_aside(decoder, generations, scores)
    write_text(job.folder / "set_aside.jsonl", (json.dumps(asdict(entry)) + "\n" for entry in aside))


def divergence(job: "Job", samples: int, small: ModelConfig, tuned: ModelConfig | None = None) -> None:
    """The divergence of the tuned model from the untuned one, on the first of the tuned model's responses."""
    from trimtab.evaluation.divergence import divergence as measured

    roles, responses = job.roles(small, tuned=tuned), job.input("guide").records(Generation)[:samples]
    write_json(job.folder / "summary.json", asdict(measured(responses, roles["tuned"], roles["untuned"], job.advance)))


def report(job: "Job", experiment: Experiment) -> Any:
    """Tables, figures and the page; gives the `Results` that they show."""
    from trimtab.pipeline.results import write_results

    return write_results(job, experiment)
