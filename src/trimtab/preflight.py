"""What the names of an experiment stand for, found before anything has run for minutes.

Loads tokenizers at most, never weights.

    >>> check_models(experiment, Assets(), until="report")                              # doctest: +SKIP
"""

from trimtab.assets.resolve import Assets, identity
from trimtab.experiment import Experiment, ModelConfig, RewardConfig
from trimtab.models.emulated import check_one_vocabulary
from trimtab.models.load import default_device, load_tokenizer, pick_dtype
from trimtab.models.vocabulary import Vocabulary


def check_models(experiment: Experiment, assets: Assets, until: str) -> None:
    """Find the models that the stages up to `until` need.

    Raises:
        AssetError: a name resolves to nothing that may be read.
        VocabularyError: a decoder adds logits of models with unlike vocabularies.
    """
    if until == "data":
        return
    model_identity(experiment.reward, assets)
    if until == "reward":
        return
    model_identity(experiment.small, assets)
    if until in ("synthesize", "pairs", "tune"):
        return
    model_identity(experiment.large, assets)
    if any(decoder.model == "large" and decoder.beta is not None for decoder in experiment.guide.decoders):
        large, small = (
            Vocabulary(load_tokenizer(assets.model(each.name, allow_pickle=each.allow_pickle)))
            for each in (experiment.large, experiment.small)
        )
        check_one_vocabulary(experiment.large.name, large, experiment.small.name, small)


def model_identity(config: ModelConfig | RewardConfig, assets: Assets) -> list[str]:
    """Which files the names of a configuration stand for, and the element type that they are computed in.

    Raises:
        AssetError: a name resolves to nothing that may be read.
    """
    if isinstance(config, RewardConfig):
        return [identity(assets.model(config.model, allow_pickle=config.allow_pickle))]
    found = [identity(assets.model(config.name, allow_pickle=config.allow_pickle))]
    if config.adapter is not None:
        found.append(identity(assets.adapter(config.adapter)))
    return [*found, str(pick_dtype(config.dtype, default_device()))]
