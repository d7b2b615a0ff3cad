"""Stop strings that hold special tokens, which texts are given without: found, cut before, held back in streams."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import llama
from token_kinds import kind_of_tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import vocabulary_of
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.search.chunk_beam import Search
from trimtab.search.guide import Guide
from trimtab.search.guided_model import GuidedModel
from trimtab.search.proposer import Fork, LanguageModelProposer
from trimtab.search.stop_strings import Written
from trimtab.search.value import RewardValue

KINDS = ("byte-level", "byte-fallback", "word pieces", "unigram")
PROMPTS = [Prompt("0", "the film"), Prompt("1", "I really liked")]
SAMPLING = SamplingConfig(temperature=1.5, top_k=0)
STOPS = {
    "a special token": ["<|user|>"],
    "a letter, then a special token": ["e<|user|>", "t<|user|>", "s<|user|>", " <|user|>"],
    "a special token, then a letter": ["<|user|>a", "<|user|>.", "<|user|>t", "<|user|> "],
    "two special tokens": ["<|user|><|user|>", "<|bot|><|user|>"],
    "an added token that is shown": ["<eot>"],
    "letters beside one": ["<|user|><|bot|>e", "th"],
}
SEARCHES = {
    "sampling": Search(max_new_tokens=20),
    "best of 24": Search(successors=24, max_new_tokens=20, keep=24),
    "beams": Search(3, 3, 2, 20),
    "groups": Search(4, 2, 3, 20, groups=2),
}


@cache
def base(kind: str, seed: int = 0) -> CachedModel:
    """A model that writes special tokens often."""
    made = kind_of_tokenizer(kind)
    made.add_special_tokens({"additional_special_tokens": ["<|bot|>", "<|user|>"]})
    model = llama(seed, len(made))
    often = made.convert_tokens_to_ids(["<|user|>", "<|bot|>", "<eot>"])
    model.lm_head.weight.data[often] *= 2.5
    model.generation_config.eos_token_id = None
    return CachedModel(model, vocabulary_of(model, made, None), "{prompt}")


def spelled(vocabulary: Vocabulary, prompt: list[int], ids: list[int]) -> tuple[str, list[int]]:
    """A response with its special tokens, piece by piece, and for each character its place in the text without."""
    text, whole, places = "", "", []
    for count, token in enumerate(ids, start=1):
        longer = vocabulary.decode_response(prompt, ids[:count])
        new = vocabulary.tokenizer.convert_ids_to_tokens(token) if longer == text else longer[len(text) :]
        hidden = longer == text
        if hidden and token not in vocabulary.tokenizer.added_tokens_decoder:
            continue  # a part of a character
        places += [len(text) + (0 if hidden else number) for number in range(len(new))]
        text, whole = longer, whole + new
    return whole, places


def wanted(vocabulary: Vocabulary, prompt: list[int], ids: list[int], stop: list[str]) -> int | None:
    """Where the first of the stop strings begins in the text of these ids."""
    text = vocabulary.decode_response(prompt, ids)
    whole, places = spelled(vocabulary, prompt, ids)
    found = [text.find(each) for each in stop if each in text]
    found += [places[whole.find(each)] for each in stop if each in whole and "|" in each]
    return min(found, default=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("stop", STOPS)
def test_responses_end_at_the_first_stop_string_and_are_cut_before_it(kind: str, search: str, stop: str) -> None:
    model, strings = base(kind), STOPS[stop]
    vocabulary = model.vocabulary
    value = RewardValue(FunctionReward(lambda texts: [float(-len(text)) for text in texts]))
    found = SEARCHES[search].run(PROMPTS, LanguageModelProposer(model, SAMPLING, 0, stop=strings), value)
    for each in (each for group in found for each in group):
        first = wanted(vocabulary, each.prompt_ids, each.token_ids, strings)
        whole = vocabulary.decode_response(each.prompt_ids, each.token_ids)
        assert each.text == whole[:first]
        assert each.finish == "eos" or (each.finish == "stop") == (first is not None)
        assert wanted(vocabulary, each.prompt_ids, each.token_ids[:-1], strings) is None, "it went on behind a stop"
    if search == "best of 24" and stop in ("a special token", "an added token that is shown"):
        assert sum(each.finish == "stop" for group in found for each in group) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", STOPS)
def test_a_stream_holds_back_what_a_stop_string_may_cut(kind: str, stop: str) -> None:
    value = RewardValue(FunctionReward(lambda texts: [float(-len(text)) for text in texts]))
    for seed in range(3):
        for search in (SEARCHES["sampling"], SEARCHES["beams"]):
            guided = GuidedModel(base(kind), value, search, SAMPLING, tuple(STOPS[stop]), seed)
            assert "".join(guided.stream("the film")) == guided.generate("the film")


LETTERS = "etaoinsrlm ."


@pytest.mark.parametrize(
    "strings",
    [["<|user|>"], [f"{each}<|user|>" for each in LETTERS], [f"<|user|>{each}" for each in LETTERS], ["e"], ["<eot>"]],
)
def test_a_chunk_ends_at_a_string_that_holds_a_special_token(strings: list[str]) -> None:
    """Also at one that began in the chunk before; no later and no sooner."""
    model, width = base("byte-level"), 64
    proposer = LanguageModelProposer(model, SAMPLING, 0, chunk_ends=strings)
    state = proposer.start([Prompt(str(number), "the film") for number in range(width)], 40)
    read, forks = proposer.prompt_ids(state)[0], [Fork(number, 0, []) for number in range(width)]

    def ends(ids: list[int], begun: int) -> bool:
        view = spelled if "|" in strings[0] else lambda *given: (model.vocabulary.decode_response(*given[1:]), [])
        whole, before = (view(model.vocabulary, read, part)[0] for part in (ids, ids[:begun]))
        return any(whole.find(each, max(0, len(before) - len(each) + 1)) >= 0 for each in strings)

    early = 0
    for _ in range(2):
        state, grown = proposer.propose(state, forks, 6)
        longer = [[*fork.token_ids, *more.token_ids] for fork, more in zip(forks, grown, strict=True)]
        for fork, more, ids in zip(forks, grown, longer, strict=True):
            begun, full = len(fork.token_ids), len(more.token_ids) == 6 or more.finish is not None
            assert full or ends(ids, begun)
            assert not any(ends(ids[:count], begun) for count in range(begun + 1, len(ids)))
            early += not full
        forks = [Fork(more.row, 0, ids) for more, ids in zip(grown, longer, strict=True) if more.row is not None]
    assert early > 2


def test_emulated_fine_tuning_and_one_string_alone() -> None:
    """A sum of models stops as a model does, and one string is not taken for its letters."""
    model = base("byte-level")
    summed: LanguageModel = emulate(model, [(base("byte-level", 1), base("byte-level", 2), 0.5)])
    found = Search(successors=24, max_new_tokens=20, keep=24).run(
        PROMPTS, LanguageModelProposer(summed, SAMPLING, 0, stop=["<|user|>"]), None
    )
    number = model.vocabulary.tokenizer.convert_tokens_to_ids("<|user|>")
    ends = [each for group in found for each in group if number in each.token_ids]
    assert ends and all(each.finish == "stop" and each.token_ids[-1] == number for each in ends)
    steered = Guide.by_reward(lambda texts: [0.0 for _ in texts]).steer(model, search=Search(), stop="<|user|>")
    assert steered.stop == ("<|user|>",)
    with pytest.raises(ConfigurationError, match="stop holds an empty text"):
        Guide.by_reward(lambda texts: [0.0 for _ in texts]).steer(model, search=Search(), stop=["a", ""])


NAMES = st.sampled_from(["<|a|>", "<|b|>"])


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.one_of(st.sampled_from("xyz"), NAMES), max_size=10),
    strings=st.lists(
        st.lists(st.one_of(st.sampled_from("xyz"), NAMES), min_size=1, max_size=3).map("".join), max_size=3
    ),
)
def test_cutting_and_holding_back_are_what_the_pieces_say(pieces: list[str], strings: list[str]) -> None:
    """What has been held back covers every place at which a longer response is cut; a whole one is cut at the first."""

    def written(parts: list[str]) -> Written:
        text, special = "", []
        for part in parts:
            if len(part) > 1:
                special.append((len(text), part))
            else:
                text += part
        return Written(text, tuple(special))

    settled = ""
    for count in range(len(pieces) + 1):
        now = written(pieces[:count])
        assert now.cut_before(strings).startswith(settled)
        if now.has_new(strings, Written("")):
            break
        assert now.cut_before(strings) == now.text
        settled = now.held_back(strings)
