"""The prompts of a run, read before it begins: whether there are enough, how many, and how long they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from trimtab.assets.resolve import Assets
from trimtab.assets.rows import Sample
from trimtab.config.data import DataConfig
from trimtab.data.instructions import load_instructions, split_instructions
from trimtab.data.parts import data_identity, prompts_to_test
from trimtab.data.reviews import load_reviews, split_reviews
from trimtab.records import Pair, Prompt, PromptInput, Review

SAMPLE_ROWS = 5000
"""Rows of a file that are read: a large data set is read whole by its own step, which is a run's first."""
BYTES_A_TOKEN = 3  # of a text in UTF-8: English has about 4, many other languages 2 to 3
CHAT_TOKENS = 24  # what a chat template writes around a message


@dataclass(frozen=True)
class KnownPrompts:
    """Prompts to tune on (those to validate on included) and to test on.

    `whole`: all rows were read, so that these are the run's own; else they are prompts of the same files. `pairs`: how
    many preference pairs a data set brings for training, None where pairs are made. `responses`: their texts.
    """

    tuning: tuple[PromptInput, ...] = ()
    test: tuple[PromptInput, ...] = ()
    whole: bool = True
    pairs: int | None = None
    responses: tuple[str, ...] = ()


def known_prompts(config: DataConfig, seed: int, assets: Assets) -> KnownPrompts:
    """The prompts of a configuration's data sets, of each of which at most `SAMPLE_ROWS` rows a file are read.

    Raises:
        AssetError, DataError: data cannot be found or read, or there is too little.
    """
    identity = {} if config.preferences is None else {"pairs": assets.identity(assets.dataset(config.preferences))}
    return _known(config, seed, assets, tuple({**data_identity(config, assets), **identity}.items()))


@lru_cache(maxsize=8)  # the cells of a study, and several estimates, ask for the same data
def _known(config: DataConfig, seed: int, assets: Assets, identity: tuple[tuple[str, str], ...]) -> KnownPrompts:
    sample, known = Sample(SAMPLE_ROWS), KnownPrompts()
    if config.reviews is not None:
        reviews = load_reviews(assets, config.reviews, sample)
        known = _cut_from(reviews, config, seed, sample.cut)
    if config.instructions is not None:
        prompts = load_instructions(config.instructions, assets, sample)
        if sample.cut:
            known = KnownPrompts(_texts(prompts), _texts(prompts))
        else:
            parts = split_instructions(prompts, config, seed)
            known = KnownPrompts(_texts([*parts["tuning"], *parts["validation"]]), _texts(parts["test"]))
    if config.preferences is not None:
        known = _with_pairs(known, config, assets, sample)
    return replace(known, whole=not sample.cut)


def _cut_from(reviews: Sequence[Review], config: DataConfig, seed: int, cut: bool) -> KnownPrompts:
    """Prompts cut from reviews."""
    if not cut:
        parts = split_reviews(reviews, config, seed)
        tuning = [prompt for name in ("tuning", "validation") for prompt in parts[name] if isinstance(prompt, Prompt)]
        return KnownPrompts(_texts(tuning), _texts([one for one in parts["test"] if isinstance(one, Prompt)]))
    words = config.prompt_words[1]
    texts = tuple(" ".join(review.text.split(maxsplit=words)[:words]) for review in reviews)
    return KnownPrompts(texts, texts)


def _with_pairs(known: KnownPrompts, config: DataConfig, assets: Assets, sample: Sample) -> KnownPrompts:
    """The prompts with those of the preference data set in the place of those to tune on, and perhaps to test on."""
    from trimtab.preferences.dataset import read_dataset  # late: it takes a while, and few experiments need it

    assert config.preferences is not None
    pairs = read_dataset(assets.dataset(config.preferences), sample=sample)
    test = known.test
    if config.tests_on_pairs:
        test = _texts(prompts_to_test(pairs, config)) if not sample.cut else _prompts_of(pairs, "test")
    train = [pair for pair in pairs if pair.split == "train"]
    responses = tuple(text for pair in pairs if pair.split != "test" for text in pair.responses)
    return KnownPrompts(
        (*_prompts_of(pairs, "train"), *_prompts_of(pairs, "validation")), test, pairs=len(train), responses=responses
    )


def _prompts_of(pairs: Sequence[Pair], split: str) -> tuple[PromptInput, ...]:
    return tuple({repr(pair.prompt): pair.prompt for pair in pairs if pair.split == split}.values())


def _texts(prompts: Sequence[Prompt]) -> tuple[PromptInput, ...]:
    return tuple(prompt.text for prompt in prompts)


def about_tokens(prompt: PromptInput) -> int:
    """An estimate of a prompt's tokens, rather too many than too few.

    >>> about_tokens("Here is a film that"), about_tokens([{"role": "user", "content": "Name a tree."}])
    (7, 28)
    """
    if isinstance(prompt, str):
        return -(-len(prompt.encode()) // BYTES_A_TOKEN)
    return sum(CHAT_TOKENS + about_tokens(str(message["content"])) for message in prompt)
