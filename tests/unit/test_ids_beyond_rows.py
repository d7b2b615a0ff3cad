"""Tokenizers and embeddings of unlike sizes: padded rows, tokens added to one model alone, tokens without a row.

Qwen2.5 pads its embeddings to 151,936 or 152,064 rows under one tokenizer of 151,665 tokens; fine-tunes add tokens, and
not all resize the embeddings."""

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import trimtab
from identities import EXACT
from tiny import llama, tokenizer
from trimtab.config.training import SftConfig, TuneConfig
from trimtab.errors import ModelError, VocabularyError
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.open_model import load
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Pair, Prompt
from trimtab.search.guide import Guide
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from trimtab.training.job import TrainingJob
from trimtab.training.preference import tune
from trimtab.training.saved_model import able_to_pad
from trimtab.training.sft import fine_tune

SIZE = 320
SAMPLING = trimtab.SamplingConfig(temperature=1.3, top_k=0)
PROMPTS = [Prompt("a", "I really"), Prompt("b", "This was the")]
SEARCHES = [
    trimtab.Search(successors=4, max_new_tokens=8, keep=4),
    trimtab.Search(2, 2, 3, 8),
    trimtab.Search(2, 2, 3, 8, groups=2),
]
Added = tuple[tuple[str, bool], ...]
ADDED: list[Added] = [
    (),
    (("[PAD]", True),),
    (("<think>", False),),
    (("<|im_start|>", True), ("<|im_end|>", True)),
    (("[PAD]", True), ("<think>", False)),
]
ROWS = [320, 321, 322, 352]


def with_added(added: Added, size: int = SIZE) -> PreTrainedTokenizerFast:
    """A tokenizer with further tokens, each special or not."""
    made = copy.deepcopy(tokenizer(size))
    for text, special in added:
        made.add_tokens([text], special_tokens=special)
    return made


@functools.cache
def model(seed: int, rows: int, added: Added = (), size: int = SIZE) -> CachedModel:
    """A random model that likes the ids from `size` on."""
    held = llama(seed, rows)
    with torch.no_grad():
        held.lm_head.weight[size:] *= 2
    return CachedModel(held, Vocabulary(with_added(added, size), range(40, 52)), name=f"model-{seed}")


def as_read(each: Hypothesis, base: CachedModel, guides: Sequence[CachedModel]) -> list[int]:
    """The ids that a pair of guides reads where the base wrote `each`: docs/search-settings.md, spelled out."""
    tokens = [{i: t for t, i in one.vocabulary.tokenizer.get_vocab().items()} for one in (base, *guides)]
    rows = min(one.model.config.vocab_size for one in guides)

    def known(token: int) -> bool:
        return token < rows and len({names.get(token) for names in tokens}) == 1

    def readable(token: int) -> bool:
        return token < rows and tokens[1].get(token) == tokens[2].get(token)

    ids: list[int] = []
    for place, token in enumerate(each.token_ids):
        if known(token):
            ids.append(token)
        elif place == len(each.token_ids) - 1 and each.finish == "eos":
            ids += [0]
        else:
            text = base.vocabulary.tokenizer.decode([token], skip_special_tokens=True)
            ids += filter(readable, guides[0].vocabulary.tokenizer.encode(text, add_special_tokens=False))
    return ids


@torch.no_grad()
def log_p(one: CachedModel, prompt: str, response: Sequence[int], rows: int) -> float:
    """log p of a response by transformers alone, over the first `rows` ids."""
    ids = one.vocabulary.encode_prompt(prompt, "{prompt}")
    logits = one.model(input_ids=torch.tensor([[*ids, *response]]), use_cache=False).logits[0, :, :rows]
    logs = torch.log_softmax(logits, -1)
    return sum(float(logs[len(ids) - 1 + place, token]) for place, token in enumerate(response))


sizes = st.sampled_from(ROWS)
some_added = st.sampled_from(ADDED)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, some_added, some_added, some_added, st.sampled_from(SEARCHES))
def test_values_are_those_of_transformers_over_the_rows_that_both_guides_have(
    base_rows: int, tuned_rows: int, untuned_rows: int, base_added: Added, tuned_added: Added, untuned_added: Added,
    search: trimtab.Search,
) -> None:  # fmt: skip
    """Fault: a base wider than its guides ended best-of-N and CBS in an IndexError."""
    base = model(0, base_rows, base_added)
    tuned, untuned = model(1, tuned_rows, tuned_added), model(2, untuned_rows, untuned_added)
    value = ImplicitValue(tuned, untuned, base)
    assert value.same_vocabulary
    rows = min(tuned_rows, untuned_rows)
    found = search.run(PROMPTS, LanguageModelProposer(base, SAMPLING, 3), value)
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            ids = as_read(each, base, (tuned, untuned))
            expected = log_p(tuned, prompt.text, ids, rows) - log_p(untuned, prompt.text, ids, rows)
            assert abs(each.value - expected) < EXACT


def test_ids_that_the_guides_lack_are_drawn_in_these_tests() -> None:
    drawn = {
        token
        for base in (model(0, 352), model(0, 322, ADDED[4]))
        for group in SEARCHES[0].run(PROMPTS, LanguageModelProposer(base, SAMPLING, 3), None)
        for each in group
        for token in each.token_ids
    }
    assert any(token >= 322 for token in drawn) and {320, 321} & drawn


@settings(max_examples=25, deadline=None)
@given(sizes, some_added, some_added)
def test_values_across_tokenizers_read_what_the_guides_have_rows_for(rows: int, ours: Added, theirs: Added) -> None:
    """A token that the base writes as text may be one that was added to the guide's tokenizer without a row."""
    base, tuned, untuned = model(0, 352, ours, 300), model(1, rows, theirs), model(2, rows, theirs)
    value = ImplicitValue(tuned, untuned, base)
    assert not value.same_vocabulary
    found = SEARCHES[1].run(PROMPTS, LanguageModelProposer(base, SAMPLING, 3), value)
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            ids = [token for token in tuned.vocabulary.encode_response(each.text) if token < rows]
            ids += [0] if each.finish == "eos" else []
            expected = log_p(tuned, prompt.text, ids, rows) - log_p(untuned, prompt.text, ids, rows)
            assert abs(each.value - expected) < EXACT


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, sizes, some_added, some_added)
def test_eft_is_the_sum_over_the_ids_that_all_models_have(
    base_rows: int, tuned_rows: int, untuned_rows: int, base_added: Added, guide_added: Added
) -> None:
    base = model(0, base_rows, base_added)
    tuned, untuned = model(1, tuned_rows, guide_added), model(2, untuned_rows, guide_added)
    emulated = emulate(base, [(tuned, untuned, 0.7)])
    found = emulated.next_logits(emulated.start(["I really"], room=1))[0]
    width = min(base_rows, tuned_rows, untuned_rows)
    assert found.shape == (width,) and emulated.vocab_size == width
    ids = torch.tensor([base.vocabulary.encode_prompt("I really", "{prompt}")])
    with torch.no_grad():
        parts = [one.model(input_ids=ids).logits[0, -1, :width] for one in (base, tuned, untuned)]
    ours, theirs = ({i: t for t, i in each.vocabulary.tokenizer.get_vocab().items()} for each in (base, tuned))
    alike = torch.tensor([ours.get(token) == theirs.get(token) for token in range(width)])
    expected = parts[0] + 0.7 * (parts[1] - parts[2])
    assert (found - expected)[alike].abs().max() < EXACT
    assert not found[~alike].isfinite().any()
    guide = Guide(tuned, untuned)
    for search in (trimtab.Search(max_new_tokens=6), SEARCHES[1]):
        guided = guide.steer(base, search=search, sampling=SAMPLING, beta=0.7)
        text = guided.generate("I really")
        assert "".join(guided.stream("I really")) == text
        drawn = {token for each in guided.hypotheses(["I really"])[0] for token in each.token_ids}
        assert all(token < width and alike[token] for token in drawn)


def test_eft_without_the_bases_end_token_is_one_line() -> None:
    ended = with_added(ADDED[3])
    ended.eos_token = "<|im_end|>"
    base = CachedModel(llama(0, 322), Vocabulary(ended), name="chatty")
    with pytest.raises(VocabularyError, match=r"chatty's end token <\|im_end\|> \(id 321\) is none of model-1's"):
        emulate(base, [(model(1, 320), model(2, 320), 1.0)])
    # with the tokens in its tokenizer and no rows for them, too
    with pytest.raises(VocabularyError, match="no text would end"):
        emulate(base, [(model(1, 320, ADDED[3]), model(2, 320, ADDED[3]), 1.0)])


def test_the_end_of_a_base_alone_is_read_as_the_guides_end() -> None:
    ended = with_added(ADDED[3])
    ended.eos_token = "<|im_end|>"
    held = llama(0, 322)
    with torch.no_grad():
        held.lm_head.weight[321] *= 3
    base = CachedModel(held, Vocabulary(ended), name="chatty")
    tuned, untuned = model(1, 320), model(2, 320)
    search = trimtab.Search(successors=20, max_new_tokens=8, keep=20)
    found = search.run(PROMPTS, LanguageModelProposer(base, SAMPLING, 3), ImplicitValue(tuned, untuned, base))
    finished = [(prompt, each) for prompt, group in zip(PROMPTS, found, strict=True) for each in group]
    assert any(each.finish == "eos" and each.token_ids[-1] == 321 for _, each in finished)
    for prompt, each in finished:
        ids = as_read(each, base, (tuned, untuned))
        expected = log_p(tuned, prompt.text, ids, 320) - log_p(untuned, prompt.text, ids, 320)
        assert abs(each.value - expected) < EXACT


@pytest.mark.parametrize(("base_rows", "guide_rows"), [(352, 320), (320, 352), (352, 352)])
@pytest.mark.parametrize("search", SEARCHES)
def test_streams_and_rewards_do_not_mind_the_rows(base_rows: int, guide_rows: int, search: trimtab.Search) -> None:
    pair = Guide(model(1, guide_rows), model(2, guide_rows))
    for guide in (pair, Guide.by_reward(lambda texts: [float(len(text)) for text in texts])):
        guided = guide.steer(model(0, base_rows), search=dataclasses.replace(search, keep=1), sampling=SAMPLING)
        assert "".join(guided.stream("I really")) == guided.generate("I really")


def test_vocabularies_are_one_but_for_added_and_padding_tokens() -> None:
    plain = Vocabulary(tokenizer(320))
    assert plain.unlike_ids(Vocabulary(with_added(ADDED[4]))) == {320, 321}
    assert Vocabulary(with_added(ADDED[1])).unlike_ids(Vocabulary(with_added(ADDED[2]))) == {320}
    assert Vocabulary(with_added(ADDED[1])).unlike_ids(Vocabulary(with_added(ADDED[4]))) == {321}
    assert plain.unlike_ids(Vocabulary(tokenizer(300))) is None  # merges that the other has not
    padded = copy.deepcopy(tokenizer(320)).backend_tokenizer.to_str().replace('"merges"', '"merges"', 1)
    padded = padded.replace('"vocab":{', '"vocab":{"[PAD320]":320,"[PAD321]":321,', 1)
    from tokenizers import Tokenizer

    filled = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(padded), eos_token="<end>")
    assert filled.get_vocab()["[PAD321]"] == 321
    assert plain.unlike_ids(Vocabulary(filled)) == {320, 321}


CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
USES = {
    "a prompt": ("Film [PAD] I", "{prompt}"),
    "a template": ("Film", "[PAD] {prompt}"),
    "a chat template": ("Film", "chat"),
    "a conversation": ([{"role": "user", "content": "Film"}], "{prompt}"),
}


def chatty(size: int = SIZE) -> PreTrainedTokenizerFast:
    made = with_added((("[PAD]", True), ("<|im_start|>", True), ("<|im_end|>", True)), size)
    made.pad_token = "[PAD]"
    made.chat_template = CHAT
    return made


@pytest.mark.parametrize("role", ["base", "guide"])
@pytest.mark.parametrize("use", USES)
def test_a_token_without_a_row_that_is_used_is_one_line(use: str, role: str) -> None:
    prompt, template = USES[use]
    lacking = load(llama(0), chatty(), template=template)
    whole = load(llama(0, 323), chatty(), template=template)
    pairs = {"base": (lacking, whole), "guide": (whole, lacking)}
    base, guide = pairs[role]
    guided = Guide(guide, guide).steer(base, search=SEARCHES[1], sampling=SAMPLING)
    with pytest.raises(
        ModelError, match=r"has id 32\d in the tokenizer of .*below 320 only: leave it out of"
    ) as caught:
        guided.generate(prompt)
    assert "\n" not in str(caught.value) and "resize" in str(caught.value)


@settings(max_examples=20, deadline=None)
@given(some_added, st.sampled_from(["I really", "Film", "[PAD", "x"]), st.booleans())
def test_a_token_without_a_row_that_is_not_used_changes_nothing(added: Added, prompt: str, resized: bool) -> None:
    plain = load(llama(0), with_added(()))
    more = load(llama(0), with_added(added))
    guides = Guide(model(1, 352 if resized else 320, added), model(2, 320))
    texts = [guides.steer(base, search=SEARCHES[1], sampling=SAMPLING).generate(prompt) for base in (plain, more)]
    assert texts[0] == texts[1]


def test_an_end_token_without_a_row_gives_way_to_the_models_own() -> None:
    added = chatty()
    added.eos_token = "<|im_end|>"
    one = load(llama(0), added)
    assert one.vocabulary.eos_ids == {0} and one.vocabulary.end_id == one.vocabulary.turn_end_id == 0


@pytest.mark.parametrize("pad", ["[PAD]", None, "<end>"])
def test_padding_is_an_id_that_the_model_has(pad: str | None) -> None:
    made = with_added((("[PAD]", True),))
    made.pad_token = pad
    assert able_to_pad(made, 7, 320).pad_token_id == {"[PAD]": 7, None: 7, "<end>": 0}[pad]
    assert able_to_pad(made, 7, 321).pad_token_id == {"[PAD]": 320, None: 7, "<end>": 0}[pad]
    assert made.pad_token == pad


def text_pairs(split: str) -> list[Pair]:
    texts = [" is great and long", " bad"]
    return [
        Pair(f"p{n}", "Film " * n, [texts[0] * n, texts[1]], n % 2, [], 0.5, [], [], [True, True], split)
        for n in range(1, 5)
    ]  # type: ignore[arg-type]


def tuned_with(tokenizer: PreTrainedTokenizerFast, pairs=text_pairs) -> dict:
    config = TuneConfig(epochs=1, batch_size=2, evaluations=1, lora={"rank": 2})
    with tempfile.TemporaryDirectory() as folder:
        model, job = llama(3, dtype=torch.float32), TrainingJob(Path(folder))
        return tune(pairs("train"), pairs("validation"), model, tokenizer, config, job)


def test_tuning_does_not_mind_a_padding_token_without_a_row() -> None:
    """Fault: an IndexError; and padding is masked, so which id it is plays no part."""
    losses = []
    for pad in ("[PAD]", "<end>", "<start>"):
        made = with_added((("[PAD]", True),))
        made.pad_token = pad
        losses.append(tuned_with(made)["eval_loss"])
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=1e-6)


def test_tuning_on_a_token_without_a_row_is_one_line() -> None:
    def pairs(split: str) -> list[Pair]:
        return [dataclasses.replace(each, prompt="Film [PAD]") for each in text_pairs(split)]

    with pytest.raises(ModelError, match=r"\[PAD\] has id 320 in the tokenizer of the small model"):
        tuned_with(with_added((("[PAD]", True),)), pairs)


def test_fine_tuning_does_not_mind_a_padding_token_without_a_row(tmp_path: Path) -> None:
    made = with_added((("[PAD]", True),))
    made.pad_token = "[PAD]"
    config = SftConfig(epochs=1, batch_size=2, max_length=32, packing=False)
    texts = ["A fine film.", "Bad. Really bad, all of it."] * 2
    fitted = llama(3, dtype=torch.float32)
    assert fine_tune(texts, texts, fitted, made, config, TrainingJob(tmp_path))["steps"] > 0
    made.bos_token = "[PAD]"
    with pytest.raises(ModelError, match=r"\[PAD\] has id 320"):
        fine_tune(texts, texts, llama(3, dtype=torch.float32), made, config, TrainingJob(tmp_path))


@pytest.mark.parametrize("rows", [(320, 384), (384, 320)])
def test_a_head_and_embeddings_of_unlike_sizes(rows: tuple[int, int]) -> None:
    """A head of more ids than there are embeddings wrote ids that could not be read: an IndexError in the middle."""
    embeddings, predicted = rows
    model = llama(1, embeddings)
    torch.manual_seed(0)
    model.lm_head = torch.nn.Linear(32, predicted, bias=False).double().requires_grad_(False)
    with torch.no_grad():
        model.lm_head.weight[320:] *= 50  # likely, where they can be written at all
    language = load(model.eval(), tokenizer())
    assert language.vocab_size == 320 and isinstance(language, CachedModel)
    assert language.next_logits(language.start_ids([[1, 40]], room=2)).shape == (1, 320)
    steered = Guide.by_reward(lambda texts: [0.0 for _ in texts]).steer(language, search=SEARCHES[0])
    for hypothesis in steered.hypotheses(["I really"], 8)[0]:
        assert max(hypothesis.token_ids) < 320


@pytest.mark.parametrize("ends", [[0, 3], (0, 3), torch.tensor([0, 3])])
def test_end_tokens_are_read_however_they_are_listed(ends: Sequence[int] | torch.Tensor) -> None:
    model = llama(1)
    model.generation_config.eos_token_id = ends
    assert load(model, tokenizer()).vocabulary.eos_ids == {0, 3}


@pytest.mark.parametrize("ends", ["0", ["<end>"], 0.5, [True]])
def test_an_end_token_that_is_no_id_is_one_line(ends: object) -> None:
    model = llama(1)
    model.generation_config.eos_token_id = ends
    with pytest.raises(ModelError, match="ends a text: eos_token_id is an id, or a list of ids"):
        load(model, tokenizer())


def test_a_negative_id_is_one_line() -> None:
    with pytest.raises(ModelError, match="-1 is no token id"):
        load(llama(1), tokenizer()).start_ids([[5, -1]], room=2)
