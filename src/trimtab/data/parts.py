"""The data of a run: reviews for the reward and the judge, and prompts to tune, validate and test on.

>>> draw_parts(DataConfig(), Assets(), seed=0)["test"][0]                           # doctest: +SKIP
Prompt(id='test-00000', text='This film', source='8f2a...')
"""

from collections.abc import Mapping, Sequence

from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.data.instructions import instructions_identity, load_instructions, split_instructions
from trimtab.data.reviews import load_reviews, split_reviews
from trimtab.errors import DataError
from trimtab.records import Pair, Prompt, Review


def data_identity(config: DataConfig, assets: Assets) -> dict[str, str]:
    """What the names of a configuration's data stand for.

    Raises:
        AssetError: a name resolves to nothing.
    """
    found = {} if config.reviews is None else {"reviews": assets.identity(assets.dataset(config.reviews))}
    if config.instructions is not None:
        found["instructions"] = instructions_identity(config.instructions, assets)
    return found


def draw_parts(config: DataConfig, assets: Assets, seed: int) -> Mapping[str, Sequence[Review | Prompt]]:
    """The records of each part, by its name; those that there is nothing for are not among them.

    Raises:
        AssetError, DataError: data cannot be read, or there is too little.
    """
    parts: dict[str, Sequence[Review | Prompt]] = {}
    if config.reviews is not None:
        parts |= vars(split_reviews(load_reviews(assets, config.reviews), config, seed))
    if config.instructions is not None:
        parts |= split_instructions(load_instructions(config.instructions, assets), config, seed)
    return parts


def prompts_to_test(pairs: Sequence[Pair], config: DataConfig) -> list[Prompt]:
    """The first different prompts of a preference data set's test split.

    Raises:
        DataError: there are too few.
    """
    tested = [pair.prompt for pair in pairs if pair.split == "test"]
    first = list({repr(prompt): prompt for prompt in tested}.values())
    wanted = config.test_prompts
    if len(first) < wanted:
        raise DataError(
            f"{config.preferences} has {len(first)} test prompts and data.test_prompts asks for {wanted}: lower it to "
            f"{len(first)}, or give a data set with a test split"
        )
    return [Prompt(f"test-{number:05d}", text) for number, text in enumerate(first[:wanted])]
