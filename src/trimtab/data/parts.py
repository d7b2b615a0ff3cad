"""The data of a run: reviews for the reward and the judge, and prompts to tune, validate and test on."""

from collections.abc import Mapping, Sequence

from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.data.instructions import instructions_identity, load_instructions, split_instructions
from trimtab.data.reviews import load_reviews, split_reviews
from trimtab.errors import DataError
from trimtab.records import Pair, Prompt, Review


def data_identity(config: DataConfig, assets: Assets) -> dict[str, str]:
    """Hashes of the data sets that a configuration names.

    Raises:
        AssetError: no data set has such a name.
    """
    identity = {} if config.reviews is None else {"reviews": assets.identity(assets.dataset(config.reviews))}
    if config.instructions is not None:
        identity["instructions"] = instructions_identity(config.instructions, assets)
    return identity


def draw_parts(config: DataConfig, assets: Assets, seed: int) -> Mapping[str, Sequence[Review | Prompt]]:
    """The records of each part that the configuration has data for, by the part's name.

    Raises:
        AssetError, DataError: data cannot be read, or there is too little.
    """
    parts: dict[str, Sequence[Review | Prompt]] = {}
    if config.reviews is not None:
        parts |= split_reviews(load_reviews(assets, config.reviews), config, seed)
    if config.instructions is not None:
        parts |= split_instructions(load_instructions(config.instructions, assets), config, seed)
    return parts


def prompts_to_test(pairs: Sequence[Pair], config: DataConfig) -> list[Prompt]:
    """The first `data.test_prompts` distinct prompts of a preference data set's test split.

    Raises:
        DataError: the split has fewer.
    """
    prompts = list({repr(pair.prompt): pair.prompt for pair in pairs if pair.split == "test"}.values())
    count = config.test_prompts
    if len(prompts) < count:
        raise DataError(
            f"{config.preferences} has {len(prompts)} test prompts and data.test_prompts asks for {count}: lower it "
            f"to {len(prompts)}, or give a data set with a test split"
        )
    return [Prompt(f"test-{number:05d}", text) for number, text in enumerate(prompts[:count])]
