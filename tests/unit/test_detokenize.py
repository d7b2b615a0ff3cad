"""Texts of tokens only grow: whole characters stay, an unfinished last one waits, and ends are no part of them."""

import codecs
import itertools
import zlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tiny import llama
from token_kinds import KINDS, WHOLE_TEXTS, kind_of_tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.roles import vocabulary_of
from trimtab.models.vocabulary import Vocabulary
from trimtab.rewards.function import FunctionReward
from trimtab.search.chunk_beam import Search
from trimtab.search.guided_model import GuidedModel
from trimtab.search.value import RewardValue

ALL = pytest.mark.parametrize("kind", KINDS)
SPELLING = pytest.mark.parametrize("kind", WHOLE_TEXTS)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(alphabet=st.sampled_from("a th.é€😀𒎗\ufffd▁\n"), max_size=12)


@ALL
@MANY
@given(data=st.data())
def test_the_text_of_more_tokens_begins_with_that_of_fewer(kind: str, data: st.DataObject) -> None:
    """Of any ids whatever, special ones and such as the tokenizer does not have among them."""
    vocabulary = Vocabulary(kind_of_tokenizer(kind))
    ids = st.lists(st.integers(0, len(vocabulary.tokenizer) + 3), max_size=14)
    prompt, response = data.draw(ids), data.draw(ids)
    texts = [vocabulary.decode_response(prompt, response[:count]) for count in range(len(response) + 1)]
    assert texts[0] == ""
    for count, (before, after) in enumerate(itertools.pairwise(texts)):
        assert after.startswith(before), (response[: count + 1], before, after)


@ALL
@MANY
@given(data=st.data())
def test_many_responses_are_decoded_as_each_alone(kind: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary(kind_of_tokenizer(kind))
    ids = st.lists(st.integers(0, len(vocabulary.tokenizer) - 1), max_size=9)
    rows = data.draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
    together = vocabulary.decode_responses([prompt for prompt, _ in rows], [response for _, response in rows])
    assert together == [vocabulary.decode_response(*row) for row in rows]


@SPELLING
@MANY
@given(text=TEXTS, prompt=st.sampled_from(["so a", "so 😀", "a\n", "é"]))
def test_whole_characters_stay_wherever_a_response_is_cut(kind: str, text: str, prompt: str) -> None:
    vocabulary = Vocabulary(kind_of_tokenizer(kind))
    assume("▁" not in text or "fallback" not in kind)  # which is how these write a space
    ids, read = vocabulary.encode_response(text), vocabulary.encode_prompt(prompt, "{prompt}")
    assert vocabulary.decode_response(read, ids) == text, "a response comes back, a U+FFFD that it holds, too"
    tokens = vocabulary.tokenizer.convert_ids_to_tokens(ids)
    for count in range(len(ids)):
        written = text.encode()[: sum(_size(kind, token) for token in tokens[:count])]
        assert vocabulary.decode_response(read, ids[:count]) == written.decode(errors="ignore")


def _size(kind: str, token: str) -> int:
    """The bytes that a token stands for."""
    if "level" in kind:
        return len(token)  # each character is a byte
    return 1 if token.startswith("<0x") else len(token.replace("▁", " ").encode())


@pytest.mark.parametrize("kind", ["byte-fallback", "byte-fallback that strips"])
@MANY
@given(pieces=st.lists(st.sampled_from(["a", "é".encode(), "😀".encode(), b"\xe2", b"\x82", b"\xff", b"\xf0\x9f"])))
def test_bytes_that_are_no_character_leave_their_neighbours(kind: str, pieces: list[str | bytes]) -> None:
    """A run of byte tokens is read as SentencePiece reads it: character by character, each lost byte one U+FFFD."""
    made = kind_of_tokenizer(kind)
    vocabulary, letters = Vocabulary(made), made.get_vocab()
    ids, wanted, run = [], "", b""
    for piece in pieces:
        if isinstance(piece, str):
            ids.append(letters[piece])
            wanted, run = wanted + _lossy(run, final=True) + piece, b""
        else:
            ids += [letters[f"<0x{byte:02X}>"] for byte in piece]
            run += piece
    wanted += _lossy(run, final=False)
    for prompt in ("so a", "so 😀"):
        assert vocabulary.decode_response(vocabulary.encode_prompt(prompt, "{prompt}"), ids) == wanted


def _lossy(run: bytes, *, final: bool) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    text = decoder.decode(run, final=final)
    return "".join("\ufffd" if 0xDC80 <= ord(character) <= 0xDCFF else character for character in text)


@ALL
@pytest.mark.parametrize("end", ["<eot>", "eos"])
def test_an_end_token_is_no_part_of_the_text(kind: str, end: str) -> None:
    """Also where the tokenizer does not flag it as special, and so would show it."""
    made = kind_of_tokenizer(kind)
    number = made.eos_token_id if end == "eos" else made.convert_tokens_to_ids("<eot>")
    vocabulary = Vocabulary(made, [number])
    read, ids = vocabulary.encode_prompt("the film", "{prompt}"), vocabulary.encode_response(" the film")
    text = vocabulary.decode_response(read, ids)
    assert text.strip() == "the film"
    assert vocabulary.decode_response(read, [*ids, number]) == text
    assert vocabulary.decode_response(read, [number]) == ""


SEARCHES = {
    "sampling": Search(max_new_tokens=14),
    "beams": Search(2, 2, 3, 14),
    "groups": Search(2, 2, 3, 14, groups=2),
    "best of 3": Search(successors=3, max_new_tokens=14),
}


@ALL
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("stop", [(), ("e", "\ufffd\ufffd"), ("a<|user|>", "<|user|>.", "th")])
def test_a_streams_pieces_are_the_text_of_generate(kind: str, search: str, stop: tuple[str, ...]) -> None:
    made = kind_of_tokenizer(kind)
    size, often = len(made), made.convert_tokens_to_ids(["<|user|>", "<eot>"])
    reward = RewardValue(FunctionReward(lambda texts: [float(zlib.crc32(text.encode()) % 97) for text in texts]))
    for seed in range(2):
        model = llama(seed, size)
        model.lm_head.weight.data[often] *= 2
        model.generation_config.eos_token_id = [often[1]]
        base = CachedModel(model, vocabulary_of(model, made, None), "{prompt}")
        guided = GuidedModel(base, reward, SEARCHES[search], SamplingConfig(temperature=2.0, top_k=0), stop, seed)
        for prompt in ("so 😀", "the film"):
            text = guided.generate(prompt)
            assert "".join(guided.stream(prompt)) == text
            assert not any(each in text for each in (*stop, "<eot>", "<|user|>"))
