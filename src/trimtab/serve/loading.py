"""What is served: the models, the decoders and the reward of a finished run, of a file, or of a few options."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment, parse_experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.errors import ConfigurationError, RunError, TrimtabError, faults_in
from trimtab.models.emulated import emulate
from trimtab.models.roles import Role, Roles
from trimtab.pipeline.decoded import ARTIFACTS
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.memory import decoding_rows
from trimtab.pipeline.reports import EXPERIMENT
from trimtab.pipeline.step import Plan
from trimtab.rewards.load import load_reward
from trimtab.serve.model_names import EXAMPLES, ModelNames, decoder_named, decoders_of
from trimtab.serve.shared_reward import SharedReward
from trimtab.store.artifacts import RunDirectory
from trimtab.store.files import is_sealed

MAX_NEW_TOKENS = 256  # of an answer of models that come without a run
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An experiment, and the folders of the artifacts that it serves from, by step: `sft`, `tune` and `reward`."""

    experiment: Experiment
    folders: Mapping[str, Path] = field(default_factory=dict)


def of_run(run: Path) -> Source:
    """The experiment that a run's report is of, with what it made.

    Raises:
        RunError: the run has no report, or an older one, or an artifact of it is not whole.
    """
    report = run / "report"
    try:
        experiment = Experiment.model_validate_json((report / EXPERIMENT).read_text(encoding="utf-8"))
        names = json.loads((report / ARTIFACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{run} is no finished run with {report / EXPERIMENT}: give a run directory such as runs/quickstart, and "
            "finish it first by `trimtab run` (what is made already is used again)"
        ) from None
    except (OSError, ValueError) as error:  # pydantic's error is a ValueError
        reason = faults_in(error, EXPERIMENT) if isinstance(error, ValidationError) else error
        raise RunError(f"{report} cannot be read ({reason}): write it again by `trimtab run`") from None
    folders = {step: run / name for step, name in names.items() if step in ("sft", "tune", "reward")}
    for folder in folders.values():
        if not is_sealed(folder):
            raise RunError(f"{folder} is not whole: make it again by `trimtab run`")
    return Source(experiment, folders)


def of_file(path: Path, runs: Path, assets: Assets) -> Source:
    """The experiment in a file; what it tunes and trains must lie in the folder `runs` already.

    Raises:
        ConfigurationError: the file cannot be read, or anything in it is wrong.
        RunError: a model that it tunes has not been tuned.
    """
    experiment = load_experiment(path)
    made = [step for step in steps(experiment) if step.stage in ("sft", "tune")]
    if not made:
        return Source(experiment)
    plan = Plan(made, RunDirectory(runs / experiment.name, create=False), assets)
    for step in made:
        if not plan.artifacts[step].whole:
            raise RunError(
                f"{path} tunes a model, which {runs / experiment.name} does not hold: run `trimtab tune {path}` first, "
                "or name a tuned one in guide.tuned"
            )
    rewards = {step.name: plan.artifacts[step].folder for step in plan.steps if step.stage == "reward"}
    return Source(experiment, {step.stage: plan.artifacts[step].folder for step in made} | rewards)


def of_models(large: str, tuned: str | None, untuned: str | None, template: str) -> Source:
    """A large model, and the pair that guides it, each as `load` takes a name.

    Raises:
        ConfigurationError: the pair lacks one, or a name is wrong.
    """
    if (tuned is None) != (untuned is None):
        raise ConfigurationError("a guide is two models: give both --tuned and --untuned, or neither")
    guide: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS}
    values: dict[str, Any] = {"name": "serve", "large": {"name": large, "template": template}, "guide": guide}
    if tuned is not None:
        values["small"] = {"name": untuned, "template": template}
        guide["tuned"] = {"name": tuned}
    return Source(parse_experiment(values, origin="--large, --tuned and --untuned"))


class Served:
    """The loaded models, and which decoders they can serve.

    Raises:
        ConfigurationError: the large model is behind an endpoint.
        AssetError, ModelError: a model cannot be loaded.
    """

    def __init__(self, source: Source, assets: Assets, name: str | None = None) -> None:
        self.experiment, self._folders, self._assets = source.experiment, source.folders, assets
        large = self.experiment.large
        if large is not None and large.endpoint is not None:
            raise ConfigurationError(
                f"{large.name} is behind an endpoint, which clients can ask themselves: name a model that runs here"
            )
        self.models = self._models()
        self.roles = Roles(self.models, assets)
        for role in self.models:
            self.roles[role]  # loads it
        decoded: Literal["large", "untuned"] = "untuned" if large is None else "large"
        config = self.models[decoded]
        own = {label: decoder for label, decoder in decoders_of(self.experiment.guide).items() if self._serves(decoder)}
        examples = (label for label in EXAMPLES if label not in own)
        self.names = ModelNames(
            name or config.name.rstrip("/").rpartition("/")[2],
            own,
            tuple(label for label in examples if self._serves(_named(label, decoded))),
            decoded,
            self.missing,
        )

    @cached_property
    def gold(self) -> SharedReward | None:
        """The gold reward; None where the experiment trains one and this has not been done."""
        config, folder = self.experiment.reward, self._folders.get("reward")
        if config.training is not None and folder is None:
            return None
        return SharedReward(lambda: load_reward(config, self._assets, folder))

    @property
    def conversations(self) -> bool:
        """Whether every model has a chat template."""
        return all(self.roles[role].vocabulary.tokenizer.chat_template is not None for role in self.models)

    def rows(self, setting: int | Literal["auto"]) -> int:
        """How many rows are decoded at once; `auto`: what the memory holds, by the estimates of `trimtab run`."""
        if setting != "auto":
            return setting
        guide = self.experiment.guide.model_copy(update={"rows": "auto"})
        experiment = self.experiment.model_copy(update={"guide": guide})
        widest = DecoderConfig(width=4, successors=4, chunk=5) if "tuned" in self.models else DecoderConfig()
        return decoding_rows(experiment, widest, self._assets)

    def missing(self, decoder: DecoderConfig) -> str | None:
        """What a decoder needs and is not loaded, in words; None where it can be served."""
        needs = {
            "a large model": decoder.model == "large" and "large" not in self.models,
            "a tuned model": decoder.uses_tuned and "tuned" not in self.models,
            "an untuned model": decoder.uses_small and "untuned" not in self.models,
            "the gold reward": decoder.guided_by_gold and self.gold is None,
            "a budget of FLOPs, which depends on prompts": decoder.budget is not None,
        }
        return next((what for what, lacking in needs.items() if lacking), None)

    def _serves(self, decoder: DecoderConfig) -> bool:
        """Whether the decoder can be served; a decoder of the run that cannot is named in the log."""
        lacking = self.missing(decoder)
        if lacking is None and decoder.beta is not None:
            try:
                emulate(self.roles[decoder.model], [(self.roles["tuned"], self.roles["untuned"], decoder.beta)])
            except TrimtabError:
                lacking = "models with one vocabulary"
        if lacking is not None:
            _log.info("%s is not listed: it needs %s", decoder.name, lacking)
        return lacking is None

    def _models(self) -> dict[Role, ModelConfig]:
        """The models by role. The small model is loaded where a tuned one makes it a guide, or nothing else is."""
        experiment = self.experiment
        models: dict[Role, ModelConfig] = {}
        tuned = self._trained("tune") or experiment.guide.tuned
        if experiment.large is not None:
            models["large"] = experiment.large
        if tuned is not None or experiment.large is None:
            models["untuned"] = self._trained("sft") or experiment.small
        if tuned is not None:
            models["tuned"] = tuned
        return models

    def _trained(self, step: str) -> ModelConfig | None:
        """The small model with the weights that a step has trained; None where the source has no such step."""
        if step not in self._folders:
            return None
        folder = self._folders[step] / "model"
        return self.experiment.small.model_copy(update={"name": str(folder), "adapter": None, "allow_pickle": False})


def _named(label: str, model: Literal["large", "untuned"]) -> DecoderConfig:
    decoder = decoder_named(label, model)
    assert decoder is not None, label
    return decoder
