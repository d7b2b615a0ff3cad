"""What the names of an experiment stand for, found before anything has run for minutes.

Loads tokenizers and instructions at most, never weights; imports modules of value functions.

    >>> check_models(experiment, Assets(), until="report")                              # doctest: +SKIP
"""

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.fields import CHAT
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.search import TermConfig
from trimtab.data.instructions import load_instructions
from trimtab.errors import ConfigurationError, VocabularyError
from trimtab.models.chat import ChatTemplate
from trimtab.models.emulated import check_one_vocabulary
from trimtab.models.load import default_device, load_tokenizer, pick_dtype
from trimtab.models.vocabulary import Vocabulary
from trimtab.plugins.user_functions import named_function
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.load import reward_identity
from trimtab.training.trackers import check_trackers


def check_models(experiment: Experiment, assets: Assets, until: str) -> None:
    """Find the models that the stages up to `until` need.

    Raises:
        AssetError: a name resolves to nothing that may be read.
        ModelError: a model is to be shown conversations and has no chat template.
        VocabularyError: a decoder adds logits of models with unlike vocabularies.
        ConfigurationError: a value or the reward names a function that is not there or takes other arguments; the
            prompts are conversations and a model is to be shown texts; a tracker is not installed; or a stage is asked
            for that has nothing to do.
        DataError: instructions cannot be read.
    """
    if until in ("synthesize", "pairs", "tune") and not experiment.tunes:
        raise ConfigurationError(f"guide.tuned names a tuned model, so that there is nothing to {until}: run guide")
    if until == "data":
        return
    _check_conversations(experiment, assets)
    model_identity(experiment.reward, assets)
    if experiment.reward.function is not None:
        FunctionReward(named_function(experiment.reward.function), experiment.reward.function)
    if until == "reward":
        return
    _check_shown(experiment.small, assets)
    if until not in ("sft", "synthesize", "pairs") and experiment.tunes:
        check_trackers(experiment.tune.trackers)  # no hash holds them: what is used again has not asked for them
    if until in ("sft", "synthesize", "pairs", "tune"):
        return
    _check_shown(experiment.base, assets)
    if experiment.guide.tuned is not None:
        _check_shown(experiment.guide.tuned, assets)
        _check_guide(experiment.guide.tuned, experiment.small, assets)
    for decoder in experiment.guide.decoders:
        for value in decoder.value:
            if value.function is not None:
                FunctionReward(named_function(value.function), value.function)
        for term in decoder.terms:
            _check_term(experiment, decoder, term, assets)


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


def _check_shown(config: ModelConfig, assets: Assets) -> None:
    """Find a model, and the chat template of one that is to be shown conversations."""
    model_identity(config, assets)
    if config.chat:
        ChatTemplate(load_tokenizer(assets.model(config.name, allow_pickle=config.allow_pickle)))


def _check_term(experiment: Experiment, decoder: DecoderConfig, term: TermConfig, assets: Assets) -> None:
    """Raise VocabularyError unless the models of a term of EFT have the vocabulary of the one they are added to."""
    base = experiment.base if decoder.model == "large" else experiment.small
    tuned = experiment.guide.tuned or experiment.small
    for other in {term.tuned or tuned, term.untuned or experiment.small} - {base}:
        _check_shown(other, assets)
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


def model_identity(config: ModelConfig | RewardConfig, assets: Assets) -> list[str]:
    """Which files the names of a configuration stand for, and the element type that they are computed in.

    Raises:
        AssetError: a name resolves to nothing that may be read.
    """
    if isinstance(config, RewardConfig):
        return reward_identity(config, assets)
    if config.endpoint is not None:
        return []  # what a server holds cannot be seen from here
    found = [assets.identity(assets.model(config.name, allow_pickle=config.allow_pickle))]
    if config.adapter is not None:
        found.append(assets.identity(assets.adapter(config.adapter)))
    return [*found, str(pick_dtype(config.dtype, default_device()))]
