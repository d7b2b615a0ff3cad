"""Every template style: what is rendered, one beginning, a boundary that does not merge, turns that end."""

import logging

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chat_styles import STYLES, chat_tokenizer
from tiny import CORPUS, full_log_probabilities, llama, tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.errors import ModelError
from trimtab.evaluation.fluency import fluency_under
from trimtab.models.cached_model import CachedModel
from trimtab.models.chat import ChatTemplate, Turn
from trimtab.models.roles import vocabulary_of
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Generation, Message, Pair, Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from trimtab.training.tokens import encode_pairs

TURNS: list[Message] = [
    {"role": "user", "content": "A film?"},
    {"role": "assistant", "content": "Any."},
    {"role": "user", "content": "Which"},
]
SYSTEM: list[Message] = [{"role": "system", "content": "Be brief."}]
ALL = pytest.mark.parametrize("style", STYLES)

RENDERED = {
    "chatml": "<|im_start|>user\nA film?<|im_end|>\n<|im_start|>assistant\nAny.<|im_end|>\n<|im_start|>user\nWhich"
    "<|im_end|>\n<|im_start|>assistant\n",
    "llama-3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nA film?<|eot_id|><|start_header_id|>"
    "assistant<|end_header_id|>\n\nAny.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhich<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<bos><start_of_turn>user\nA film?<end_of_turn>\n<start_of_turn>model\nAny.<end_of_turn>\n<start_of_turn>"
    "user\nWhich<end_of_turn>\n<start_of_turn>model\n",
    "llama-2": "<s>[INST] A film? [/INST] Any. </s><s>[INST] Which [/INST]",
    "zephyr": "<s><|user|>\nA film?</s>\n<|assistant|>\nAny.</s>\n<|user|>\nWhich</s>\n<|assistant|>\n",
    "openchat": "<s>GPT4 Correct User: A film?<|end_of_turn|>GPT4 Correct Assistant: Any.<|end_of_turn|>GPT4 Correct "
    "User: Which<|end_of_turn|>GPT4 Correct Assistant:",
    "deepseek": "<|begin_of_text|><|User|>A film?<|Assistant|>Any.<|end_of_sentence|><|User|>Which"
    "<|Assistant|><think>\n",
    "phi": "<|user|>\nA film?<|end|>\n<|assistant|>\nAny.<|end|>\n<|user|>\nWhich<|end|>\n<|assistant|>\n",
    "mistral-1": "<s>[INST] A film? [/INST] Any.</s>[INST] Which [/INST]",
    "mistral-3": "<s>[INST] A film?[/INST] Any.</s>[INST] Which[/INST]",
    "mistral-tekken": "<s>[INST]A film?[/INST]Any.</s>[INST]Which[/INST]",
}
RENDERED["qwen-3"] = RENDERED["marked"] = RENDERED["chatml"]


def shown(style: str, ids: list[int]) -> str:
    """Ids as text, special tokens and all."""
    return str(chat_tokenizer(style).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def squeezed(text: str) -> str:
    """The text without white space, which some tokenizers put before every piece of text."""
    return "".join(text.split())


@ALL
def test_several_turns_read_as_the_template_says(style: str) -> None:
    ids = Vocabulary(chat_tokenizer(style), chat=True).encode_prompt(TURNS, "chat")
    assert squeezed(shown(style, ids)) == squeezed(RENDERED[style])
    if not STYLES[style].spaced:
        assert shown(style, ids) == RENDERED[style]


@ALL
def test_a_text_begins_once(style: str) -> None:
    """Templates that print the beginning meet tokenizers that put it, and templates that do not print it, too."""
    made = chat_tokenizer(style)
    one = Vocabulary(made).encode_prompt(TURNS[:1], "chat")
    if STYLES[style].bos is None:
        assert made.bos_token_id is None
    else:
        assert one[0] == made.bos_token_id and one.count(made.bos_token_id) == 1
        whole = ChatTemplate(made).conversation_ids([*TURNS[:1], {"role": "assistant", "content": "Any."}])
        assert whole[0] == made.bos_token_id and whole.count(made.bos_token_id) == 1


@ALL
def test_a_string_is_one_message_of_the_user(style: str) -> None:
    vocabulary = Vocabulary(chat_tokenizer(style))
    assert vocabulary.encode_prompt("A film?", "chat") == vocabulary.encode_prompt(TURNS[:1], "{prompt}")


@ALL
def test_a_system_message_is_seen_and_the_conversation_has_its_own_way(
    style: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a template refuses or leaves out system messages, the first message of the user begins with it."""
    made = chat_tokenizer(style)
    with caplog.at_level(logging.WARNING):
        given = Vocabulary(made, system="Be brief.").encode_prompt(TURNS, "chat")
    assert given == Vocabulary(made, system="Be long.").encode_prompt([*SYSTEM, *TURNS], "chat")
    text = shown(style, given)
    assert text.count("Be brief.") == 1 and text.index("Be brief.") < text.index("A film?")
    assert (caplog.messages == []) == STYLES[style].takes_system
    if not STYLES[style].takes_system:
        assert "Be brief.\n\nA film?" in text
    assert "Be brief." not in shown(style, Vocabulary(made).encode_prompt(TURNS, "chat"))


@ALL
def test_the_templates_end_of_turn_ends_a_text_whatever_the_tokenizer_calls_its_end(style: str) -> None:
    made = chat_tokenizer(style)
    end = made.convert_tokens_to_ids(STYLES[style].turn_end)
    assert Vocabulary(made, eos_ids=[7]).eos_ids == {end, made.eos_token_id, 7}
    assert Vocabulary(made, chat=True).end_id == end
    assert Vocabulary(made).end_id == made.eos_token_id  # a plain text ends with the end of texts


@ALL
def test_the_boundary_does_not_merge_with_the_response(style: str) -> None:
    """Whatever a response begins with, its ids are its own, the prompt's stay, and its text comes back."""
    vocabulary = Vocabulary(chat_tokenizer(style), chat=True)
    prompt = vocabulary.encode_prompt(TURNS, "chat")
    texts = ["Which", " Which", "\nWhich", "\n\n", "I really liked", " I really", "«é»", "", "assistant\n"]
    for text, ids in zip(texts, vocabulary.encode_responses(texts), strict=True):
        assert ids == vocabulary.encode_response(text)
        assert vocabulary.decode_response(prompt, ids) == text


def test_a_response_is_not_taken_for_a_texts_beginning() -> None:
    """Tokenizers like Llama 2's put a space before whatever they encode; behind a prompt it would be one too many."""
    spaced = chat_tokenizer("llama-2")
    assert spaced.decode(spaced.encode("film", add_special_tokens=False)) == " film"
    assert spaced.decode(Vocabulary(spaced).encode_response("film")) == "film"


def test_sentencepiece_keeps_the_boundary_too() -> None:
    """Its tokenizers write a space as a character and put one before every text, which a response must not get."""
    base = Tokenizer(models.BPE(unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    base.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], show_progress=False)
    base.train_from_iterator([*CORPUS, "User:\nAssistant:\n"], trainer)
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>"))
    prompt = vocabulary.encode_prompt("I really\n", "{prompt}")
    for text in ("film", " film", "the story is good", " the  story"):
        assert vocabulary.decode_response(prompt, vocabulary.encode_response(text)) == text


def test_an_open_answer_is_continued() -> None:
    vocabulary = Vocabulary(chat_tokenizer("chatml"))
    begun: list[Message] = [*TURNS, {"role": "assistant", "content": "The one"}]
    assert shown("chatml", vocabulary.encode_prompt(begun, "chat")) == RENDERED["chatml"] + "The one"


def test_a_refusal_and_a_missing_template_are_one_line() -> None:
    made = chat_tokenizer("gemma")
    made.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match=r"tiny-gemma's chat template refuses .*roles must alternate"):
        ChatTemplate(made).prompt_ids(TURNS)
    with pytest.raises(ModelError, match=r"tiny-320 has no chat template: save one as chat_template\.jinja"):
        Vocabulary(tokenizer()).encode_prompt(TURNS, "chat")


def test_guide_and_base_read_one_conversation_each_in_its_own_template() -> None:
    """Across tokenizers and templates, values are those of the guides' own rendering, and end at their own turn's."""

    def model(style: str, seed: int, size: int) -> CachedModel:
        made = llama(seed, size)
        made.generation_config.eos_token_id = [*range(20, 60)]
        vocabulary = vocabulary_of(made, chat_tokenizer(style, size), None, chat=True)
        return CachedModel(made, vocabulary, "chat", name=style)

    base, tuned, untuned = model("llama-3", 0, 330), model("chatml", 1, 340), model("chatml", 2, 340)
    assert base.vocabulary.eos_ids == {*range(20, 60), base.vocabulary.end_id, base.vocabulary.tokenizer.eos_token_id}
    search = Search(width=2, successors=2, chunk=3, max_new_tokens=9)
    proposer = LanguageModelProposer(base, SamplingConfig(temperature=1.0), seed=0)
    hypotheses = search.run([Prompt("p", TURNS)], proposer, ImplicitValue(tuned, untuned, base))[0]
    end = tuned.vocabulary.end_id
    assert "eos" in {each.finish for each in hypotheses}
    for each in hypotheses:
        assert shown("llama-3", each.prompt_ids) == RENDERED["llama-3"]
        ids = tuned.vocabulary.encode_response(each.text) + ([end] if each.finish == "eos" else [])
        sums = []
        for guide in (tuned, untuned):
            read = guide.vocabulary.encode_prompt(TURNS, "chat")
            with torch.no_grad():
                logs = torch.log_softmax(guide.model(torch.tensor([read + ids])).logits[0], dim=-1)
            sums.append(sum(float(logs[len(read) - 1 + place, token]) for place, token in enumerate(ids)))
        assert each.value == pytest.approx(sums[0] - sums[1], abs=1e-9)


@pytest.mark.parametrize("base_style", ["chatml", "llama-2", "qwen-3"])
@ALL
def test_guides_read_an_answer_as_their_own_template_writes_it(style: str, base_style: str) -> None:
    """Whatever the base's template puts before an answer, and the guide's around it, stands there once and its own."""

    def model(name: str, seed: int) -> CachedModel:
        made = llama(seed, 340)
        return CachedModel(made, vocabulary_of(made, chat_tokenizer(name), None, chat=True), "chat", name=name)

    base, tuned, untuned = model(base_style, 0), model(style, 1), model(style, 2)
    value = ImplicitValue(tuned, untuned, base)
    value.same_vocabulary = False
    pair = Pair("p", TURNS, ["An oak.", "A bush."], 0, [], 0.5, [], [], [True, True])
    row = encode_pairs([pair], tuned.vocabulary, "chat", 512, 340).rows[0]
    before = STYLES[base_style].before or ""
    state = value.start([Prompt("p", TURNS)], room=60)
    for text, finish in ((before, None), (f"{before}An o", None), (f"{before}An oak.", "eos")):
        state, (found,) = value.advance(state, [0], [Hypothesis(Prompt("p", TURNS), [], [5], text, finish)])
    read = tuned.vocabulary.encode_prompt(TURNS, "chat")
    sums = [sum(full_log_probabilities(each.model, read, row.chosen_ids)) for each in (tuned, untuned)]
    assert found == pytest.approx(sums[0] - sums[1], abs=1e-9)


@ALL
def test_fluency_is_of_the_answer_as_the_bases_template_writes_it(style: str) -> None:
    made = llama(0, 340)
    base = CachedModel(made, vocabulary_of(made, chat_tokenizer(style), None, chat=True), "chat")
    pair = Pair("p", TURNS, ["An oak.", "A bush."], 0, [], 0.5, [], [], [False, False])
    row = encode_pairs([pair], base.vocabulary, "chat", 512, 340).rows[0]
    read = base.vocabulary.encode_prompt(TURNS, "chat")
    wanted = sum(full_log_probabilities(made, read, row.chosen_ids))
    for text in {"An oak.", f"{STYLES[style].before or ''}An oak."}:
        logs, counts = fluency_under(base, [Generation("p", TURNS, 0, [], [], text, "eos")])
        assert counts == [len(row.chosen_ids)] and logs == pytest.approx([wanted], abs=1e-9)


def test_a_text_that_brings_a_thought_gets_no_empty_one() -> None:
    turn = Turn(before="<think>\n\n</think>\n\n", after=" ")
    thought = "<think>\nhm\n</think>\n\nAn oak."
    assert turn.written(thought, ended=False) == thought and turn.written(thought, ended=True) == f"{thought} "
    assert (
        turn.written("An oak.", ended=False)
        == f"{turn.before}An oak."
        == turn.written(turn.before + "An oak.", ended=False)
    )
    assert Turn(before=" ").written(" An", ended=False) == Turn(before=" ").written("An", ended=False) == " An"
    assert turn.written("", ended=False) == ""


def test_tool_calls_that_a_template_leaves_out_are_refused() -> None:
    call = {"type": "function", "function": {"name": "plant", "arguments": {"tree": "oak"}}}
    talk = [*TURNS[:1], {"role": "assistant", "content": "", "tool_calls": [call]}, TURNS[2]]
    made = chat_tokenizer("chatml")
    with pytest.raises(ModelError, match=r"tiny-chatml's chat template leaves out tool_calls: write what matters into"):
        Vocabulary(made).encode_prompt(talk, "chat")  # type: ignore[arg-type]
    made.chat_template = made.chat_template.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls | string }}")
    assert "plant" in made.decode(Vocabulary(made).encode_prompt(talk, "chat"))  # type: ignore[arg-type]
