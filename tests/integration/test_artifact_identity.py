"""What an artifact is made from is in its hash, and nothing else: each stage runs over a configuration that notes what
is read of it; then every field that was read is changed, and the artifact must bear another name.

Fields that change no result (`EXECUTION`) must leave every name as it is.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carried import carry_out_steps
from chat_styles import chat_tokenizer
from tiny import llama
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.data import InstructionsConfig
from trimtab.config.experiment import Experiment
from trimtab.config.file import is_study, load_experiment
from trimtab.config.models import Config, EndpointConfig, ModelConfig
from trimtab.config.reward import RewardTrainingConfig
from trimtab.config.search import EarlyRejection, TermConfig, ValueConfig
from trimtab.config.training import LoraSettings, SftConfig
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.step import Plan
from trimtab.store.artifacts import RunDirectory
from trimtab.study.study_file import load_study

SMALL, LARGE, OTHER = "HuggingFaceTB/SmolLM2-135M-Instruct", "openai-community/gpt2-xl", "lvwerra/gpt2-imdb"
INSTRUCTIONS = InstructionsConfig(name="trimtab/instructions")
FUNCTION = """
def bright(prompts, responses):
    return [response.count("e") for response in responses]

def other(prompts, responses):
    return [0.0] * len(responses)
"""
BASE: dict[str, Any] = {
    "name": "noted", "small": {"name": SMALL}, "large": {"name": LARGE, "template": "Film: {prompt}"},
    "checkpoint_seconds": 0,
    "data": {
        "reward_reviews": 40, "reward_heldout": 20, "judge_reviews": 20, "tuning_prompts": 6, "validation_prompts": 4,
        "test_prompts": 4,
    },
    "synthesize": {"samples": 4, "max_new_tokens": 6, "rows": 16},
    "tune": {"lora": {"rank": 2, "top_layers": 1}, "batch_size": 4, "evaluations": 1, "logging_steps": 1},
}  # fmt: skip
READY = {"model": "lvwerra/distilbert-imdb", "positive_label": "POSITIVE", "max_length": 64}
TRAINED = {
    "max_length": 64,
    "training": {"snippet_words": [4, 10], "batch_size": 8, "frozen_layers": 1},
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "every kind of search": {
        **BASE,
        "reward": TRAINED,
        "guide": {
            "max_new_tokens": 6,
            "rows": 16,
            "decoders": [
                {"model": "large"},
                {"successors": 4},
                {"best_of": "bon-4"},
                {"width": 2, "successors": 2, "chunk": 3, "value": [{"by": "implicit"}, {"by": "reward"}]},
                {"successors": 4, "value": {"by": "bright.py:bright", "per_token": True}, "name": "bright"},
                {"successors": 4, "reject": {"share": 0.5, "at": [2]}, "name": "rejecting"},
                {"successors": 4, "vote": "(film)", "n_best": 2, "name": "voting"},
                {"model": "large", "budget": 5e6, "chunk": 3},
                {"model": "untuned"},
                {"model": "tuned"},
                {"model": "untuned", "beta": 1.0},
                {"emulate": [{"weight": 0.5, "tuned": {"name": OTHER}}], "name": "one-term-of-small"},
            ],
        },
        "evaluate": {"bootstrap": 100, "kl_samples": 2},
    },
    "pairs of others, after training on reviews": {
        **BASE,
        "reward": READY,
        "data": {**BASE["data"], "preferences": "ZHZisZZ/imdb_preference", "sft_reviews": 20, "sft_heldout": 8},
        "sft": {"lora": {"rank": 2, "top_layers": 1}, "batch_size": 8, "evaluations": 1, "max_length": 16},
        "guide": {"max_new_tokens": 6, "rows": 8, "decoders": [{"successors": 2}, {"model": "tuned"}]},
    },
    "without prompts and a large model": {
        **BASE,
        "reward": READY,
        "large": None,
        "small": {"name": SMALL, "start_token": "<start>"},
        "synthesize": {**BASE["synthesize"], "unprompted": True},
        "pairs": {"strategy": "margin", "margin": {"quantile": 0.2}, "total": 8},
        "guide": {
            "max_new_tokens": 6, "rows": 8, "unprompted": 4,
            "decoders": [{"model": "untuned"}, {"model": "tuned"}],
        },
        "evaluate": {"bootstrap": 100, "kl_samples": 2},
    },
    "tuned elsewhere": {
        **{part: values for part, values in BASE.items() if part not in ("synthesize", "tune")},
        "reward": {"by": "bright.py:bright"},
        "guide": {
            "max_new_tokens": 6, "rows": 8, "tuned": {"name": OTHER},
            "decoders": [
                {"successors": 2}, {"model": "tuned"}, {"model": "untuned", "beta": 1.0},
                {"emulate": [{"weight": 0.5, "tuned": {"name": SMALL}, "untuned": {"name": LARGE}}]},
            ],
        },
        "evaluate": {"bootstrap": 100, "kl_samples": 2},
    },
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "ModelConfig.name": OTHER, "Experiment.seed": 7, "Experiment.large": ModelConfig(name=OTHER),
    "Experiment.sft": SftConfig(lora=LoraSettings(rank=2)), "template": "Review: {prompt}", "dtype": "float64",
    "start_token": "<end>", "system": "Be kind.", "attention": "eager", "quantization": "8bit",
    "RewardConfig.model": "openai-community/gpt2-xl", "RewardConfig.template": "{prompt} {response}",
    "definition": "positive_logit", "positive_label": "NEGATIVE", "tokenizer": OTHER, "tuned": ModelConfig(name=OTHER),
    "untuned": ModelConfig(name=SMALL, template="Some: {prompt}"), "stop": ("q",), "rows": 5, "unprompted": 3,
    "DecoderConfig.model": "untuned", "chunk": 2, "beta": 0.5, "n_best": 1, "pool": 3, "budget": 1e7, "vote": "(a)",
    "duplicates": "drop", "reject": EarlyRejection(at=(1,)), "chunk_ends": ("e",), "at": (1, 3),
    "emulate": (TermConfig(weight=2.0),), "DecoderConfig.value": (ValueConfig(by="reward"),),
    "ValueConfig.steps": "sum", "ValueConfig.by": "reward", "lora": LoraSettings(rank=1), "top_layers": 2,
    "loss": "hinge", "optimizer": "rmsprop",
    "schedule": "cosine", "strategy": "random", "labels": "bradley_terry", "total": 5, "prompt_words": (3, 9),
    "snippet_words": (5, 9), "quantile": 0.4, "deviations": 0.5, "Threshold.value": 0.5,
    "DataConfig.preferences": "ZHZisZZ/imdb_preference", "DataConfig.reviews": None, "instructions": INSTRUCTIONS,
    "RewardConfig.training": RewardTrainingConfig(), "RewardConfig.by": "bright.py:other",
    "TuneConfig.seed": 3,
}  # fmt: skip
"""Another value of fields that are no numbers, under their part where a name has several meanings."""
SECOND: dict[str, Any] = {"model": "tuned", "by": "implicit", "name": LARGE, "preferences": None}
"""Yet another, where that is the present one."""
UNTRIED = {"name", "adapter", "endpoint", "best_of", "allow_pickle"}
"""Fields of which this has no other value to try; `best_of` names an input, and `allow_pickle` is a permission."""
EXECUTION: dict[str, Any] = {
    "checkpoint_seconds": 5.0,
    "small.device_map": "cpu",
    "large.device_map": "cpu",
    "large.gpu_memory": 4.0,
    "guide.tuned.device_map": "cpu",
    "guide.decoders.11.emulate.0.tuned.device_map": "cpu",
    "reward.timeout": 5.0,
    "reward.attempts": 1,
    "reward.key_variable": "KEY",
    "tune.trackers": ("tensorboard",),
    "tune.logging_steps": 50,
    "sft.logging_steps": 50,
    "evaluate.bootstrap": 500,
    "evaluate.confidence": 0.5,
    "evaluate.examples": 1,
    "evaluate.threshold": None,
    "evaluate.columns": ("reward",),
}
"""Fields that change no result, with another value of each."""


class Notes:
    """Which fields of an experiment each stage reads, by their dotted names."""

    def __init__(self, experiment: Experiment) -> None:
        self.read: dict[str, set[str]] = {}
        self._stages: list[str] = []
        self._places: dict[int, str] = {}
        self._copies: list[Config] = []
        for place, part in parts_of(experiment):
            self._places.setdefault(id(part), place)

    @contextlib.contextmanager
    def of(self, stage: str) -> Iterator[None]:
        self._stages.append(stage)
        try:
            yield
        finally:
            self._stages.pop()

    def hashed(self, part: object) -> Iterator[str]:
        """The dotted names of what a step's identity holds of a part; of a plain value nothing that could be read."""
        if isinstance(part, Config):
            place = self._places[id(part)]
            for name in type(part).model_fields:
                if name not in part.execution:
                    yield f"{place}.{name}".lstrip(".")
                    yield from self.hashed(vars(part)[name])
        elif isinstance(part, tuple):
            for each in part:
                yield from self.hashed(each)

    @contextlib.contextmanager
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Inside, reading a field of the experiment, or of a copy of a part of it, is noted."""
        notes, copy = self, Config.model_copy

        def noted(part: Config, name: str) -> Any:
            if name in type(part).model_fields and notes._stages and (place := notes._places.get(id(part))) is not None:
                notes.read.setdefault(notes._stages[-1], set()).add(f"{place}.{name}".lstrip("."))
            return object.__getattribute__(part, name)

        def copied(part: Config, *, update: Any = None, deep: bool = False) -> Config:
            made = copy(part, update=update, deep=deep)
            if id(part) in notes._places:
                notes._places[id(made)] = notes._places[id(part)]
                notes._copies.append(made)  # while it lives its id is its own
            return made

        with monkeypatch.context() as patch:
            patch.setattr(Config, "__getattribute__", noted, raising=False)
            patch.setattr(Config, "model_copy", copied)
            yield


def parts_of(value: Any, place: str = "") -> Iterator[tuple[str, Config]]:
    """All parts of a configuration and what lies in them, with their dotted names."""
    if isinstance(value, Config):
        yield place, value
        for name in type(value).model_fields:
            yield from parts_of(vars(value)[name], f"{place}.{name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from parts_of(each, f"{place}.{number}")


def at(value: Any, place: str) -> Any:
    """The field of a dotted name."""
    for name in place.split("."):
        value = value[int(name)] if isinstance(value, tuple) else vars(value)[name]
    return value


def changed(part: Any, place: str, value: Any) -> Any:
    """A copy in which the field of a dotted name has this value."""
    name, _, rest = place.partition(".")
    if isinstance(part, tuple):
        number = int(name)
        return (*part[:number], changed(part[number], rest, value), *part[number + 1 :])
    new = changed(vars(part)[name], rest, value) if rest else value
    return part.model_copy(update={name: new})


def another(part: str, name: str, value: Any) -> Any:
    """Another value of a field of a part of this class."""
    for known in (f"{part}.{name}", name):
        if known in OTHERS:
            return OTHERS[known] if OTHERS[known] != value else SECOND[name]
    if isinstance(value, bool):
        return not value
    assert isinstance(value, int | float), f"give another value of {part}.{name}, which is {value!r}"
    return value + 1


def digests(experiment: Experiment, folder: Path, assets: Assets) -> dict[str, str]:
    """The digest of every step of an experiment, by what progress calls it."""
    plan = Plan(steps(experiment)[:-1], RunDirectory(folder), assets)
    return {step.name: artifact.digest for step, artifact in plan.artifacts.items()}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    folder = tmp_path_factory.mktemp("hub")
    return Assets(cache=folder / "cache", path_map=tiny_hub(folder))


@pytest.fixture(autouse=True)
def beside_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bright.py").write_text(FUNCTION)


def ran(
    experiment: Experiment, folder: Path, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Run all steps but the report. Gives what each has read, and what its identity and those of its needs hold."""
    unnoted, experiment = experiment, experiment.model_copy(deep=True)  # parts that are defaults are shared by all
    notes = Notes(experiment)
    with notes.taken(monkeypatch):
        plan = Plan(steps(experiment)[:-1], RunDirectory(folder), assets)
        identified: dict[str, set[str]] = {}
        for step in plan.steps:
            identified[step.name] = {place for part in step.parts.values() for place in notes.hashed(part)}
            identified[step.name] |= {place for need in step.needs for place in identified[need.name]}
        for step in plan.steps:
            # nothing that an earlier step has loaded hides what this one reads
            with notes.of(step.name):
                carry_out_steps(plan, assets, [step], experiment=unnoted)
    return notes.read, identified


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_what_a_stage_reads_is_in_its_hash(
    kind: str, tmp_path: Path, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.model_validate(EXPERIMENTS[kind])
    read, _ = ran(experiment, tmp_path / "run", assets, monkeypatch)
    before = digests(experiment, tmp_path / "plan", assets)
    assert set(read) <= set(before) and len(read) >= 5
    leaks, tried = [], 0
    for place in sorted({place for places in read.values() for place in places}):
        if place in EXECUTION or holds_parts(at(experiment, place)):
            continue
        above, _, name = place.rpartition(".")
        owner = type(at(experiment, above)) if above else Experiment
        if name in owner.execution or (
            name in UNTRIED and not place.endswith(("small.name", "large.name", "tuned.name"))
        ):
            continue
        other = changed(experiment, place, another(owner.__name__, name, at(experiment, place)))
        after = digests(other, tmp_path / "plan", assets)
        leaks += [f"{stage}: {place}" for stage in read if place in read[stage] and before[stage] == after.get(stage)]
        tried += 1
    assert not leaks and tried > 20, "\n".join(leaks)


SMALLER: dict[str, Any] = {
    "checkpoint_seconds": 0, "guide.max_new_tokens": 6, "guide.rows": 16, "guide.unprompted": 4,
    "evaluate.bootstrap": 100, "evaluate.kl_samples": 2, "data.test_prompts": 3, "data.reward_reviews": 40,
    "data.reward_heldout": 20, "data.judge_reviews": 20, "data.tuning_prompts": 6, "data.validation_prompts": 4,
    "data.sft_reviews": 12, "data.sft_heldout": 6, "sft.max_length": 16, "sft.epochs": 1.0, "sft.batch_size": 4,
    "synthesize.max_new_tokens": 6, "synthesize.rows": 16, "synthesize.samples": 4, "pairs.total": 8,
    "tune.epochs": 1.0, "tune.batch_size": 4, "tune.evaluations": 1, "tune.lora.rank": 2,
    "tune.lora.top_layers": 1,     "sft.lora.top_layers": 1,
    "reward.max_length": 64, "reward.training.snippet_words": (4, 10),
    "reward.training.batch_size": 8, "reward.training.frozen_layers": 1,
}  # fmt: skip
"""Little work: where an experiment has such a field, and says something in it."""


@pytest.mark.parametrize("file", sorted(cli.SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_steps_of_a_shipped_experiment_read_what_their_identities_hold(
    file: Path, tmp_path: Path, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_enough(file)
    if experiment.small.chat:
        assets = speaking(tmp_path / "hub")
    read, identified = ran(experiment, tmp_path / "run", assets, monkeypatch)
    assert len(read) >= 5 and sum(map(len, read.values())) > 40
    leaks = [
        f"{step}: {place}"
        for step, places in read.items()
        for place in sorted(places - identified[step])
        if not holds_parts(at(experiment, place)) and not changes_nothing(experiment, place)
    ]
    assert not leaks, "\n".join(leaks)


def speaking(folder: Path) -> Assets:
    """SmolLM2's name stands for a tiny model with a chat template of its kind."""
    llama(3, 340).float().save_pretrained(folder / "smol")
    chat_tokenizer("chatml").save_pretrained(folder / "smol")
    (folder / "paths.yaml").write_text(f"{SMALL}: {folder / 'smol'}\n", encoding="utf-8")
    return Assets(cache=folder / "cache", path_map=folder / "paths.yaml")


def changes_nothing(experiment: Experiment, place: str) -> bool:
    """Whether the field is one of its part that change no result."""
    part, _, name = place.rpartition(".")
    return part != "" and name in type(at(experiment, part)).execution


def small_enough(file: Path) -> Experiment:
    """A shipped experiment, or the first run of a shipped study, with little data and short texts."""
    experiment = (
        load_study(file, (), cli.experiment_file).runs[0].experiment if is_study(file) else load_experiment(file)
    )
    for place, value in SMALLER.items():
        with contextlib.suppress(KeyError, TypeError):  # a part that this experiment does not have
            if at(experiment, place) not in (None, 0):
                experiment = changed(experiment, place, value)
    return experiment


def holds_parts(value: Any) -> bool:
    """Whether this is a part of a configuration, or several, whose own fields are noted."""
    return isinstance(value, Config) or (isinstance(value, tuple) and any(isinstance(each, Config) for each in value))


@pytest.mark.parametrize("place", EXECUTION)
def test_what_changes_no_result_is_in_no_hash(place: str, tmp_path: Path, assets: Assets) -> None:
    tried = 0
    for values in EXPERIMENTS.values():
        experiment = Experiment.model_validate(values)
        try:
            other = changed(experiment, place, EXECUTION[place])
        except (AttributeError, IndexError):  # a part that this experiment does not have
            continue
        assert digests(other, tmp_path, assets) == digests(experiment, tmp_path, assets)
        tried += 1
    assert tried


@pytest.mark.parametrize("field", sorted(EndpointConfig.model_fields))
def test_where_a_model_is_served_is_in_no_hash_of_a_text(field: str, tmp_path: Path, assets: Assets) -> None:
    """Only the scores depend on whether the server gives log-probabilities, which fluency is measured by."""
    served = {"name": "served", "endpoint": {"url": "http://here/v1"}}
    guide = {"decoders": [{"model": "large"}, {"successors": 2}]}
    before = Experiment.model_validate({**BASE, "reward": READY, "large": served, "guide": guide})
    others = {"url": "http://there/v1", "key_variable": "KEY", "log_probabilities": True}
    after = digests(changed(before, f"large.endpoint.{field}", others.get(field, 7)), tmp_path, assets)
    told_apart = {stage for stage, digest in digests(before, tmp_path, assets).items() if after[stage] != digest}
    assert told_apart == ({"evaluate base", "evaluate bon-2"} if field == "log_probabilities" else set())


def test_equal_decoders_share_their_texts_and_each_has_its_scores(tmp_path: Path, assets: Assets) -> None:
    decoders = [{"model": "untuned"}, {"model": "untuned", "name": "again"}]
    found = digests(Experiment.model_validate({**BASE, "guide": {"decoders": decoders}}), tmp_path, assets)
    assert found["guide untuned"] == found["guide again"] and found["evaluate untuned"] != found["evaluate again"]


def test_a_budget_tells_a_width_of_one_from_none(tmp_path: Path, assets: Assets) -> None:
    """Of what is given a budget keeps, so that `width: 1` is best-of-N, and without it there may be beams."""
    decoders = [{"budget": 1e9, "name": "free"}, {"budget": 1e9, "width": 1, "name": "one"}]
    found = digests(Experiment.model_validate({**BASE, "guide": {"decoders": decoders}}), tmp_path, assets)
    assert found["guide free"] != found["guide one"]


def test_a_ready_reward_is_one_under_all_seeds(tmp_path: Path, assets: Assets) -> None:
    """So that decoders of two seeds can be compared; what is drawn differs with the seed."""
    one, two = (
        digests(Experiment.model_validate({**BASE, "reward": READY, "seed": seed}), tmp_path, assets) for seed in (0, 1)
    )
    assert {stage for stage in one if one[stage] == two[stage]} == {"reward"}
    one, two = (
        digests(Experiment.model_validate({**BASE, "reward": TRAINED, "seed": seed}), tmp_path, assets)
        for seed in (0, 1)
    )
    assert one["reward"] != two["reward"]
