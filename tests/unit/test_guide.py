"""Steering from Python: models that someone holds, texts and streams, any guide, the numbers of the search itself."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import trimtab
from completions_server import serving
from tiny import language_model, llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab.errors import AssetError, ConfigurationError, ModelError, VocabularyError
from trimtab.models.cached_model import CachedModel
from trimtab.search.guide import Guide
from trimtab.search.guided_model import GuidedModel
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

SEARCHES = {
    "base": trimtab.Search(max_new_tokens=14),
    "best of 5": trimtab.Search(successors=5, max_new_tokens=14),
    "CBS": trimtab.Search(3, 2, 2, 14),
    "one beam": trimtab.Search(1, 3, 2, 14),
    "groups": trimtab.Search(4, 2, 2, 14, groups=2),
    "pool": trimtab.Search(3, 2, 2, 14, pool=2),
    "vote": trimtab.Search(3, 2, 2, 14, vote=r"\w"),
}
SAMPLING = trimtab.SamplingConfig(temperature=1.0, top_k=0)
PROMPTS = ["I really", "This was the", "Here is"]


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide(language_model(5), language_model(6))


@pytest.fixture(scope="module")
def base() -> CachedModel:
    return language_model(0, ends=range(40, 60))


def steered(guide: Guide, base: CachedModel, name: str = "CBS", **settings: object) -> GuidedModel:
    return guide.steer(base, search=SEARCHES[name], sampling=SAMPLING, **settings)


def test_models_that_someone_holds_are_used_as_they_are() -> None:
    """Without a copy, and they generate afterwards what they did before."""
    held, ids = llama(0), torch.tensor([tokenizer().encode("I really")])
    before = held.generate(ids, do_sample=False, max_new_tokens=8).tolist()
    large = trimtab.load(held, tokenizer())
    assert {w.data_ptr() for w in large.model.parameters()} == {w.data_ptr() for w in held.parameters()}
    guide = Guide(trimtab.load(llama(5), tokenizer()), trimtab.load(llama(6), tokenizer()))
    text = guide.steer(large, search=SEARCHES["CBS"], sampling=SAMPLING).generate("I really")
    proposer = LanguageModelProposer(language_model(0), SAMPLING, 0)
    value = ImplicitValue(language_model(5), language_model(6), proposer.model)
    ((found,),) = trimtab.Search(3, 2, 2, 14, keep=1).run([trimtab_prompt("I really")], proposer, value)
    assert text == found.text and text
    assert held.generate(ids, do_sample=False, max_new_tokens=8).tolist() == before


def trimtab_prompt(text: str):
    from trimtab.search.guided_model import _numbered

    return _numbered([text])[0]


def test_a_loaded_model_brings_its_tokenizer_where_its_folder_has_one(tmp_path: Path) -> None:
    folder = save_causal_lm(tmp_path / "model", llama(3))
    assert trimtab.load(AutoModelForCausalLM.from_pretrained(folder)).vocabulary.tokenizer.get_vocab() == (
        tokenizer().get_vocab()
    )
    assert trimtab.load(str(folder), template="A review: {prompt}").template == "A review: {prompt}"
    with pytest.raises(ModelError, match=r"the tokenizer of a model without a name is not found: give trimtab\.load"):
        trimtab.load(llama(3))
    with pytest.raises(ModelError, match="give the model first, then its tokenizer"):
        trimtab.load(tokenizer(), llama(3))
    with pytest.raises(AssetError, match="nowhere"):
        trimtab.load(str(tmp_path / "nowhere"))


def test_an_adapter_that_someone_holds_guides_as_its_merged_model_does(base: CachedModel) -> None:
    model = llama(6)
    torch.manual_seed(1)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    merged = copy.deepcopy(adapted).merge_and_unload()
    untuned = trimtab.load(model, tokenizer())
    texts = [
        Guide(trimtab.load(tuned, tokenizer()), untuned).steer(base, search=SEARCHES["CBS"]).generate(PROMPTS)
        for tuned in (adapted, merged)
    ]
    assert texts[0] == texts[1]
    assert "lora" in str(adapted)  # what was given is as it was


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("stop", [(), ("e", "the worst"), (" a", "i")])
def test_a_stream_gives_the_text_of_generate(guide: Guide, base: CachedModel, name: str, stop: tuple[str, ...]) -> None:
    """Each piece was final when it was given: nothing is taken back, and a half stop string is not given."""
    guided = steered(guide, base, name, stop=stop)
    for prompt in PROMPTS:
        pieces = list(guided.stream(prompt))
        assert "".join(pieces) == guided.generate(prompt)
        assert all(pieces)


def test_a_stream_comes_piece_by_piece(guide: Guide, base: CachedModel) -> None:
    assert len(list(steered(guide, base, "base").stream("I really"))) > 4
    endless = language_model(0)
    assert len(list(steered(guide, endless, "one beam").stream("I really"))) > 2
    assert len(list(steered(guide, endless, "best of 5").stream("I really"))) == 1
    stream = steered(guide, base, "base").stream("I really", max_new_tokens=100)
    assert isinstance(stream, Iterator) and next(stream)  # before the rest is decoded


def test_prompts_are_one_or_several_strings_or_conversations(guide: Guide) -> None:
    chatty = copy.deepcopy(tokenizer())
    chatty.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}A:"
    guided = guide.steer(trimtab.load(llama(0), chatty), search=trimtab.Search(successors=2))
    pair = Guide.by_reward(lambda texts: [len(text) for text in texts])
    guided = pair.steer(trimtab.load(llama(0), chatty), search=trimtab.Search(successors=2, max_new_tokens=8))
    talk = [{"role": "user", "content": "I really"}]
    one = guided.generate(talk)
    assert isinstance(one, str) and guided.generate([talk, "I really"]) == [one, guided.generate("I really")]
    assert "".join(guided.stream(talk)) == one
    assert guided.generate([]) == []


def test_a_prompt_gets_the_same_answer_alone_and_among_others(guide: Guide, base: CachedModel) -> None:
    guided = steered(guide, base)
    together = guided.generate(PROMPTS)
    assert together == [guided.generate(prompt) for prompt in PROMPTS]
    assert dataclasses.replace(guided, rows=6).generate(PROMPTS[::-1]) == together[::-1]
    twice = dataclasses.replace(guided, search=trimtab.Search(max_new_tokens=14)).generate(["I really"] * 2)
    assert twice[0] != twice[1]  # equal prompts are different draws
    assert dataclasses.replace(guided, seed=1).generate(PROMPTS) != together


def test_hypotheses_tell_values_and_ends(guide: Guide, base: CachedModel) -> None:
    guided = dataclasses.replace(steered(guide, base), search=trimtab.Search(3, 2, 2, 14, keep=3))
    (found,) = guided.hypotheses(["I really"])
    assert len(found) == 3 and [each.value for each in found] == sorted((e.value for e in found), reverse=True)
    assert {each.finish for each in found} <= {"eos", "length"}


def test_rewards_and_means_guide(base: CachedModel) -> None:
    long, short = (Guide.by_reward(lambda texts, sign=sign: [sign * len(t) for t in texts]) for sign in (1.0, -1.0))
    lengths = {
        name: sum(map(len, steered(each, base, "best of 5").generate(PROMPTS)))
        for name, each in {"long": long, "short": short, "both": Guide.mean([(long, 3.0), (short, 1.0)])}.items()
    }
    assert lengths["short"] < lengths["long"] == lengths["both"]


def test_a_mean_of_nothing_is_one_line() -> None:
    short = Guide.by_reward(lambda texts: [-len(text) for text in texts])
    for parts in ([], [(short, 0.0)], [(short, 1.0), (short, -1.0)]):
        with pytest.raises(ConfigurationError, match="each with a weight above 0"):
            Guide.mean(parts)


def test_beta_adds_the_pairs_logits(guide: Guide, base: CachedModel) -> None:
    tuned, untuned = guide.pair
    emulated = trimtab.emulate(base, [(tuned, untuned, 0.5)])
    search = trimtab.Search(max_new_tokens=10)
    texts = guide.steer(base, search=search, sampling=SAMPLING, beta=0.5).generate(PROMPTS)
    assert texts == guide.steer(emulated, search=search, sampling=SAMPLING).generate(PROMPTS)
    assert texts != guide.steer(base, search=search, sampling=SAMPLING).generate(PROMPTS)
    with pytest.raises(ConfigurationError, match="beta adds logits and needs a guide of two models: leave it out"):
        Guide.by_reward(lambda texts: [0.0] * len(texts)).steer(base, beta=1.0)
    with pytest.raises(VocabularyError):
        guide.steer(language_model(0, size=300), beta=1.0)
    with pytest.raises(VocabularyError):
        Guide(language_model(5), language_model(6, size=300)).steer(base)


def test_a_base_behind_an_endpoint_is_steered_by_text(guide: Guide, base: CachedModel) -> None:
    with serving(base) as server:
        closed = trimtab.CompletionsModel(server.url, "tiny")
        guided = guide.steer(closed, search=SEARCHES["CBS"], sampling=SAMPLING)
        text = guided.generate("I really")
        assert text and "".join(guided.stream("I really")) == text
        plain = guide.steer(closed, search=SEARCHES["base"], sampling=SAMPLING)
        assert list(plain.stream("I really")) == [plain.generate("I really")]
        with pytest.raises(ConfigurationError, match="beta adds logits and needs a model whose logits are seen"):
            guide.steer(closed, beta=1.0)
        config = trimtab.ModelConfig(name="tiny", endpoint={"url": server.url, "concurrency": 2})
        assert guide.steer(config, search=SEARCHES["CBS"], sampling=SAMPLING).generate("I really") == text
    with pytest.raises(ModelError, match=r"tiny is behind an endpoint and gives texts alone: only Guide\.steer"):
        trimtab.load(config)


def test_a_prompt_without_numbers_has_no_text_and_a_warning(guide: Guide, caplog: pytest.LogCaptureFixture) -> None:
    broken = llama(0)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer().encode("I really")[-1]] = float("nan")
    guided = guide.steer(trimtab.load(broken, tokenizer()), search=SEARCHES["CBS"])
    with caplog.at_level("WARNING", logger="trimtab"):
        assert guided.generate(["I really"]) == [""] and list(guided.stream("I really")) == []
    assert "not finite numbers" in caplog.text


def test_progress_is_shown_where_it_is_asked_for(
    guide: Guide, base: CachedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    guided = steered(guide, base)
    guided.generate(PROMPTS)
    assert capsys.readouterr().err == ""
    guided.generate(PROMPTS, progress=True)
    assert "generate" in capsys.readouterr().err
