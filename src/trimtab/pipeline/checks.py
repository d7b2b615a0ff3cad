"""What steps name is found, and fits together, before anything has run for minutes.

Loads tokenizers and instructions at most, never weights; imports modules of users' functions.
"""

from collections.abc import Iterable

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.fields import CHAT
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.search import TermConfig
from trimtab.config.training import TuneConfig
from trimtab.data.instructions import load_instructions
from trimtab.errors import ConfigurationError, VocabularyError
from trimtab.models.chat import ChatTemplate
from trimtab.models.emulated import check_one_vocabulary
from trimtab.models.load import load_tokenizer
from trimtab.models.vocabulary import Vocabulary
from trimtab.pipeline.step import Step, files_of
from trimtab.plugins.user_functions import named_function
from trimtab.rewards.function import FunctionReward
from trimtab.training.trackers import check_trackers


def check_steps(steps: Iterable[Step], experiment: Experiment, assets: Assets) -> None:
    """Find what the parts of these steps name: models, chat templates, functions and trackers.

    Raises:
        AssetError: a name resolves to nothing that may be read.
        ModelError: a model is to be shown conversations and has no chat template.
        VocabularyError: a decoder adds logits of models with different vocabularies.
        ConfigurationError: a value or the reward names a function that is not there or takes other arguments; the
            prompts are conversations and a model is shown texts; or a tracker is not installed.
        DataError: instructions cannot be read.
    """
    parts = dict.fromkeys(part for step in steps for part in step.parts.values() if isinstance(part, _CHECKED))
    if parts:
        _check_conversations(experiment, assets)
    if any(isinstance(part, DecoderConfig) for part in parts) and experiment.guide.tuned is not None:
        _check_model(experiment.guide.tuned, assets)
        _check_guide(experiment.guide.tuned, experiment.small, assets)
    for part in parts:
        if isinstance(part, ModelConfig):
            _check_model(part, assets)
        elif isinstance(part, RewardConfig):
            files_of(part, assets)
            _check_function(part.function)
        elif isinstance(part, TuneConfig):
            check_trackers(part.trackers)  # no identity holds them: a tuned model that is used again has none
        elif isinstance(part, DecoderConfig):
            for value in part.value:
                _check_function(value.function)
            for term in part.terms:
                _check_term(experiment, part, term, assets)


_CHECKED = (ModelConfig, RewardConfig, TuneConfig, DecoderConfig)


def _check_conversations(experiment: Experiment, assets: Assets) -> None:
    """Raise ConfigurationError where instructions are lists of messages and a model is not shown conversations."""
    config = experiment.data.instructions
    if config is None or all(isinstance(prompt.text, str) for prompt in load_instructions(config, assets)):
        return
    for part, model in (("small", experiment.small), ("large", experiment.large)):
        if model is not None and not model.chat:
            raise ConfigurationError(
                f"the prompts of {config.name} are conversations and {part}.template is {model.template!r}: write "
                f"{part}.template: {CHAT}"
            )


def _check_model(config: ModelConfig, assets: Assets) -> None:
    """Find a model's files, and its chat template where it is shown conversations."""
    files_of(config, assets)
    if config.chat:
        ChatTemplate(load_tokenizer(assets.model(config.name, allow_pickle=config.allow_pickle)))


def _check_function(name: str | None) -> None:
    if name is not None:
        FunctionReward(named_function(name), name)


def _check_term(experiment: Experiment, decoder: DecoderConfig, term: TermConfig, assets: Assets) -> None:
    """Raise VocabularyError unless the models of a term of EFT have the vocabulary of the one they are added to."""
    base = experiment.base if decoder.model == "large" else experiment.small
    tuned = experiment.guide.tuned or experiment.small
    for other in {term.tuned or tuned, term.untuned or experiment.small} - {base}:
        _check_model(other, assets)
        check_one_vocabulary(base.name, _vocabulary(base, assets), other.name, _vocabulary(other, assets))


def _check_guide(tuned: ModelConfig, untuned: ModelConfig, assets: Assets) -> None:
    """Raise VocabularyError unless a guide's two models have one vocabulary."""
    if _vocabulary(tuned, assets).unlike_ids(_vocabulary(untuned, assets)) is None:
        raise VocabularyError(
            f"a guide compares two models token by token, and {tuned.name} and {untuned.name} have unlike "
            "vocabularies: give as small the untuned model that guide.tuned was made from"
        )


def _vocabulary(config: ModelConfig, assets: Assets) -> Vocabulary:
    return Vocabulary(load_tokenizer(assets.model(config.name, allow_pickle=config.allow_pickle)))
