"""Text pairs are trained on as the tokens that the chat template writes: the answer whole, ended once, and no more."""

from typing import Any

import pytest

from chat_styles import STYLES, chat_tokenizer
from trimtab.errors import ModelError
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Message, Pair
from trimtab.training.tokens import PairTokens, encode_pairs

TALKS: dict[str, list[Message]] = {
    "one turn": [{"role": "user", "content": "A film?"}],
    "several turns": [
        {"role": "user", "content": "A film?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nAny."},
        {"role": "user", "content": " Which\n"},
    ],
}
ANSWERS = [
    "An oak.",
    "I",
    " I really",
    "\nI",
    "\n\n",
    "liked \n",
    "«é» 好",
    "a\nb  c",
    "<think>\nhm\n</think>\n\nThe oak",
]
ALL = pytest.mark.parametrize("style", STYLES)


def row(style: str, prompt: str | list[Message], answers: list[str], ended: bool = True) -> PairTokens:
    pair = Pair("p", prompt, answers, 0, [], 0.5, [], [], [ended, ended])
    encoded = encode_pairs([pair], Vocabulary(chat_tokenizer(style), chat=True), "chat", 512, 340)
    return encoded.rows[0]


def whole(style: str, talk: list[Message], answer: str) -> list[int]:
    """The whole conversation by transformers alone, begun by the tokenizer's start token once."""
    made = chat_tokenizer(style)
    text = made.apply_chat_template([*talk, {"role": "assistant", "content": answer}], tokenize=False)
    ids = [int(token) for token in made.encode(text, add_special_tokens=False)]
    return ids if not STYLES[style].starts or ids[0] == made.bos_token_id else [int(made.bos_token_id), *ids]


@ALL
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_tokens_are_those_of_the_whole_conversation(style: str, talk: str, answer: str) -> None:
    made, found = chat_tokenizer(style), row(style, TALKS[talk], [answer, "Some other"])
    end = made.convert_tokens_to_ids(STYLES[style].turn_end)
    ids, wanted = found.prompt_ids + found.chosen_ids, whole(style, TALKS[talk], answer)
    assert wanted[: len(ids)] == ids
    assert ids[-1] == end and end not in wanted[len(ids) :], "the end of the turn, and nothing behind it"
    assert found.chosen_ids.count(end) == 1


@ALL
@pytest.mark.parametrize("talk", TALKS)
def test_an_answer_stands_behind_what_decoding_reads(style: str, talk: str) -> None:
    """All that the template writes behind the generation prompt, as the empty thought of Qwen3, is the answer's."""
    made, found = chat_tokenizer(style), row(style, TALKS[talk], ["An oak.", "A bush."])
    before, opened = STYLES[style].before, Vocabulary(made, chat=True).encode_prompt(TALKS[talk], "chat")
    end = {"llama-2": " "}.get(style, "") + STYLES[style].turn_end
    shown = made.decode(found.chosen_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if before is None:  # answers have no thought, which the generation prompt opens
        assert found.prompt_ids == opened[: len(found.prompt_ids)] and shown == f"An oak.{end}"
        assert made.decode(opened[len(found.prompt_ids) :]) == "<think>\n"
    else:
        assert found.prompt_ids == opened
        assert shown.replace(" ", "") == f"{before}An oak.{end}".replace(" ", "")
        assert STYLES[style].spaced or shown == f"{before}An oak.{end}"


@ALL
def test_an_answer_that_was_cut_has_no_end(style: str) -> None:
    cut, ended = (row(style, TALKS["one turn"], ["An oak", "A bush"], each) for each in (False, True))
    size = len(cut.chosen_ids)
    assert cut.prompt_ids == ended.prompt_ids and cut.chosen_ids == ended.chosen_ids[:size]
    left = chat_tokenizer(style).decode(ended.chosen_ids[size:], skip_special_tokens=False)
    assert left.strip() == STYLES[style].turn_end


@ALL
@pytest.mark.parametrize("behind", ["", "\n", " "])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("ended", [False, True])
def test_an_end_that_the_text_brings_counts_once(style: str, behind: str, times: int, ended: bool) -> None:
    """Data made for trainers that append nothing closes its answers with the end token's text."""
    made = chat_tokenizer(style)
    for name in {STYLES[style].turn_end, STYLES[style].eos}:
        texts = [f"An oak.{name * times}{behind}", f"A bush.{name * times}{behind}"]
        assert row(style, TALKS["one turn"], texts, ended) == row(style, TALKS["one turn"], ["An oak.", "A bush."])
        plain = [
            Pair("p", "Name a tree.", each, 0, [], 0.5, [], [], [True, True])
            for each in (texts, ["An oak.", "A bush."])
        ]
        assert len({str(encode_pairs([each], Vocabulary(made), "{prompt}", 64, 340).rows) for each in plain}) == 1


@ALL
def test_an_answer_goes_on_within_an_open_turn(style: str) -> None:
    begun: list[Message] = [*TALKS["one turn"], {"role": "assistant", "content": "The"}]
    found = row(style, begun, [" one", " other"])
    ids, wanted = found.prompt_ids + found.chosen_ids, whole(style, TALKS["one turn"], "The one")
    assert wanted[: len(ids)] == ids
    assert found.prompt_ids == Vocabulary(chat_tokenizer(style), chat=True).encode_prompt(begun, "chat")


def test_a_template_without_an_end_token_is_closed_by_the_tokenizers() -> None:
    made = chat_tokenizer("chatml")
    made.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n###\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    pair = Pair("p", TALKS["one turn"], ["An oak.", "A bush."], 0, [], 0.5, [], [], [True, True])
    found = encode_pairs([pair], Vocabulary(made, chat=True), "chat", 64, 340).rows[0]
    assert made.decode(found.prompt_ids) == "user: A film?\n###\nassistant: "
    assert made.decode(found.chosen_ids, skip_special_tokens=False) == "An oak.\n###\n<|endoftext|>"


def test_sampled_ids_are_trained_on_as_they_were_sampled() -> None:
    """They go on behind the generation prompt itself, whatever the template would write there."""
    pair = Pair("p", TALKS["one turn"], ["a", "b"], 1, [], 0.5, [8, 9], [[5, 6], [7]], [True, False])
    found = encode_pairs([pair], Vocabulary(chat_tokenizer("qwen-3"), chat=True), "chat", 64, 340).rows[0]
    assert found == PairTokens([8, 9], [7], [5, 6])


def test_where_both_open_a_thought_the_answer_begins_within_it() -> None:
    """The generation prompt opens a thought, and answers have an empty one: what differs is the answer's."""
    made = chat_tokenizer("chatml")
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think></think>' if m.role == 'assistant' }}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    found = encode_pairs(
        [Pair("p", TALKS["one turn"], ["An oak.", "A bush."], 0, [], 0.5, [], [], [True, True])],
        Vocabulary(made, chat=True), "chat", 512, 340,
    ).rows[0]  # fmt: skip
    assert made.decode(found.prompt_ids).endswith("<|im_start|>assistant\n<think>")
    assert made.decode(found.chosen_ids) == "</think>An oak.<|im_end|>"


@pytest.mark.parametrize("closing", ["<|eot_id|><|im_end|>", "<|im_end|>", "<|im_end|>\n<|eot_id|>", "<|eot_id|>\n"])
def test_a_turn_ends_at_the_tokenizers_end_where_several_tokens_close_it(closing: str) -> None:
    """As <|END_RESPONSE|><|END_OF_TURN_TOKEN|> does for Command R; what comes on another line is not the turn's."""
    made = chat_tokenizer("chatml")
    made.eos_token = "<|im_end|>"
    made.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + closing + "{% endfor %}"
    row_of = [Pair("p", TALKS["one turn"], ["An oak.", "A bush."], 0, [], 0.5, [], [], [True, True])]
    found = encode_pairs(row_of, Vocabulary(made, chat=True), "chat", 512, 340).rows[0]
    assert made.decode(found.chosen_ids).endswith("An oak." + closing.split("\n")[0])


@pytest.mark.parametrize("style", ["chatml", "llama-2", "qwen-3"])
def test_a_template_that_takes_parts_alone_is_given_parts(style: str) -> None:
    """As templates of models that see images do: a text for content would leave nothing of it, without a word."""
    made, plain = chat_tokenizer(style), row(style, TALKS["several turns"], ["An oak.", "A bush."])
    written = "(m.content | map(attribute='text') | join)"
    made.chat_template = made.chat_template.replace("m.content", written)
    pairs = [Pair("p", TALKS["several turns"], ["An oak.", "A bush."], 0, [], 0.5, [], [], [True, True])]
    assert encode_pairs(pairs, Vocabulary(made, chat=True), "chat", 512, 340).rows == [plain]


def test_parts_are_one_text_for_a_template_that_takes_texts() -> None:
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "film?"}]
    talk: Any = [{"role": "user", "content": parts}]
    vocabulary = Vocabulary(chat_tokenizer("chatml"), chat=True)
    assert vocabulary.encode_prompt(talk, "chat") == vocabulary.encode_prompt(TALKS["one turn"], "chat")
    talk[0]["content"] = [*parts, {"type": "image", "url": "a.png"}]
    with pytest.raises(ModelError, match=r"takes only texts, not .*: drop the other parts"):
        vocabulary.encode_prompt(talk, "chat")
