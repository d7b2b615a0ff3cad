"""Texts at the end of a model's context are decoded; a prompt that goes beyond is set aside, and the rest goes on."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab
from completions_server import serving
from tiny import gpt2, llama, tokenizer
from trimtab.config.experiment import Experiment
from trimtab.config.models import EndpointConfig
from trimtab.config.pairs import SynthesizeConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import DataError, ModelError
from trimtab.evaluation.coverage import set_aside, too_long, without
from trimtab.evaluation.divergence import divergence
from trimtab.evaluation.evaluate import Cost, model_names, summarise
from trimtab.evaluation.fluency import fluency_served, fluency_under
from trimtab.evaluation.scoring import score_decoder
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.families import CausalModel
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.models.served_model import CompletionsModel
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.preferences.synthesize import check_some_fit
from trimtab.records import SET_ASIDE, Generation, Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import CompletionsProposer
from trimtab.search.decoders import BlockDecoder
from trimtab.search.guide import Guide
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

SAMPLING = SamplingConfig(temperature=1.3, top_k=0)
NEW = 8


def limited(seed: int, context: int, template: str = "{prompt}", size: int = 320) -> CachedModel:
    held = llama(seed, size)
    held.config.max_position_embeddings = context
    return CachedModel(held, Vocabulary(tokenizer(size), range(40, 48)), template, name=f"model-{seed}")


def of_gpt2(context: int) -> CachedModel:
    """A model whose positions are a table: reading beyond the last one is an IndexError."""
    held = gpt2(0)
    held.transformer.wpe = torch.nn.Embedding.from_pretrained(held.transformer.wpe.weight[:context])
    held.config.n_positions = context
    return CachedModel(held, Vocabulary(tokenizer(), range(40, 48)), name="gpt2")


def rereading(context: int) -> UncachedModel:
    held = gpt2(0)
    held.transformer.wpe = torch.nn.Embedding.from_pretrained(held.transformer.wpe.weight[:context])
    held.config.n_positions = context
    return UncachedModel(held, Vocabulary(tokenizer(), range(40, 48)), "{prompt}", "reread", None, "")


def sum_of_three(context: int):
    return emulate(limited(0, context), [(limited(1, 256), limited(2, 256), 0.5)])


KINDS: dict[str, Callable[[int], CausalModel]] = {
    "cached": lambda context: limited(0, context),
    "table of positions": of_gpt2,
    "read anew": rereading,
    "emulated": sum_of_three,
}


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from([Search(3, 2, 6, 14), Search(2, 3, 4, 13), Search(4, 2, 5, 11, groups=2)]),
    st.lists(st.sampled_from(["s", "o", " ", "e", "t"]), min_size=1, max_size=3, unique=True),
)
def test_chunks_that_end_early_never_read_beyond_the_context(kind: str, search: Search, ends: list[str]) -> None:
    """Fault: rows that wait for longer chunks were fed filler, beyond the last position where the room was used up."""
    prompt = Prompt("a", "This was the worst film that I have ever seen.")
    full = len(Vocabulary(tokenizer()).encode_prompt(prompt.text, "{prompt}")) + search.max_new_tokens
    found = []
    for context in (full, 256):
        proposer = LanguageModelProposer(KINDS[kind](context), SAMPLING, 5, chunk_ends=ends)
        found.append(search.run([prompt], proposer, ImplicitValue(limited(3, 256), limited(4, 256), proposer.model)))
    exact, roomy = ([(each.token_ids, each.finish) for each in group[0]] for group in found)
    assert exact == roomy


def test_rows_that_wait_are_not_read_on() -> None:
    """What they were fed before, up to a chunk a row, is counted in `tokens_read`."""
    search, prompt = Search(3, 2, 6, 14), Prompt("a", "This was the worst film")
    base = limited(0, 256)
    proposer = LanguageModelProposer(base, SAMPLING, 5, chunk_ends=["s", "o"])
    steps = search.steps([prompt], proposer, ImplicitValue(limited(1, 256), limited(2, 256), base))
    written = [each.hypothesis for step in steps for group in step.candidates for each in group]
    # each candidate's own tokens at most twice: a last one is read again by its children
    assert base.tokens_read <= len(base.vocabulary.encode_prompt(prompt.text, "{prompt}")) + 2 * sum(
        len(each.token_ids) for each in written
    )


class NoRoles:
    """Roles without a model: nothing is counted."""

    def flops(self) -> dict[str, float]:
        return {}


LONG = "film " * 300
PROMPTS = [Prompt("a", "I really"), Prompt("long", LONG), Prompt("b", "This was the")]
SEARCHES = [Search(max_new_tokens=NEW), Search(successors=3, max_new_tokens=NEW, keep=3), Search(2, 2, 3, NEW)]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("short", ["base", "tuned", "untuned"])
def test_a_prompt_too_long_for_any_model_of_a_decoder_is_set_aside(
    search: Search, short: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault: it ended the run. The others of its block are decoded as they are without it."""
    models = [limited(n, 64 if name == short else 2000) for n, name in enumerate(("base", "tuned", "untuned"))]
    base, tuned, untuned = models
    value = ImplicitValue(tuned, untuned, base) if search.candidates > 1 else None
    if value is None and short != "base":
        return
    proposer = LanguageModelProposer(base, SAMPLING, 3)
    with caplog.at_level("WARNING", logger="trimtab"):
        block = BlockDecoder(search, proposer, value, NoRoles()).decode(PROMPTS)  # type: ignore[arg-type]
    (aside,) = [each for each in block.records if each.prompt_id == "long"]
    assert (aside.finish, aside.text, aside.token_ids, aside.index) == ("too_long", "", [], 0)
    said = [record.message for record in caplog.records]
    assert any(
        each.startswith("prompt long is set aside: a prompt of ") and "s context of 64" in each for each in said
    ), said
    alone = BlockDecoder(search, proposer, value, NoRoles()).decode([PROMPTS[0], PROMPTS[2]])  # type: ignore[arg-type]
    assert [each for each in block.records if each.prompt_id != "long"] == alone.records
    only = BlockDecoder(search, proposer, value, NoRoles()).decode([PROMPTS[1]])  # type: ignore[arg-type]
    assert [each.finish for each in only.records] == ["too_long"]


def test_from_python_it_is_one_line_before_anything_is_decoded() -> None:
    guided = Guide(limited(1, 64), limited(2, 64)).steer(limited(0, 2000), search=SEARCHES[2])
    for call in (lambda: guided.generate(["I", LONG]), lambda: guided.generate(LONG), lambda: [*guided.stream(LONG)]):
        with pytest.raises(ModelError, match=r"exceed model-\d's context of 64: shorten the prompt or lower max_new"):
            call()
    assert guided.base.tokens_read == 0


def test_all_prompts_too_long_is_one_line() -> None:
    model = limited(0, 64)
    config = SynthesizeConfig(samples=2, max_new_tokens=NEW)
    check_some_fit(PROMPTS, config, model)
    with pytest.raises(ModelError, match="model-0's context of 64: shorten the prompt or lower max_new_tokens"):
        check_some_fit([PROMPTS[1]], config, model)


def test_a_response_that_outgrows_the_guides_context_sets_its_prompt_aside() -> None:
    """Another tokenizer may need more tokens than the base has sampled: nothing is read beyond the last position."""
    base = limited(0, 256, size=320)
    prompt = "This was the worst film that I have ever seen"
    used = len(Vocabulary(tokenizer(270)).encode_prompt(prompt, "{prompt}"))
    guides = [limited(n, used + NEW, size=270) for n in (1, 2)]
    for model in guides:
        model.vocabulary = Vocabulary(tokenizer(270))
    search = Search(successors=6, max_new_tokens=NEW, keep=6)
    found = search.run(
        [Prompt("a", prompt), Prompt("b", "x")], LanguageModelProposer(base, SAMPLING, 3), ImplicitValue(*guides, base)
    )
    assert [each.finish for each in found[0]] == ["unvalued"]
    assert all(math.isfinite(each.value) and each.finish not in SET_ASIDE for each in found[1])


def test_each_guide_has_the_room_that_its_own_template_leaves_in_its_own_context() -> None:
    """A long template before the model of the longer context was taken from the shorter one, and the prompt failed."""
    base, prompt = limited(0, 256), Prompt("a", "It was")
    used = len(base.vocabulary.encode_prompt("It was", "{prompt}"))
    tuned = limited(1, used + NEW)
    untuned = limited(2, 256, template="Here is a movie review from imdb: {prompt}")
    search, value = Search(successors=4, max_new_tokens=NEW), ImplicitValue(tuned, untuned, base)
    proposer = LanguageModelProposer(base, SAMPLING, 3, ignore_eos=True)
    assert search.too_long(prompt, proposer, value) is None
    assert [each.finish for each in search.run([prompt], proposer, value)[0]] == ["length"]


def test_a_served_base_that_refuses_a_text_sets_its_prompt_aside() -> None:
    served = limited(0, 2000)
    with serving(served) as server:
        server.context = 64
        closed = CompletionsModel(server.url, "tiny")
        for search in SEARCHES:
            proposer = CompletionsProposer(closed, SAMPLING, 3)
            value = ImplicitValue(limited(1, 2000), limited(2, 2000), None) if search.candidates > 1 else None
            block = BlockDecoder(search, proposer, value, NoRoles()).decode(PROMPTS)  # type: ignore[arg-type]
            kinds = {each.prompt_id: each.finish for each in block.records}
            assert kinds["long"] == "too_long" and kinds["a"] != "too_long" != kinds["b"]
            (aside,) = [each for each in block.records if each.prompt_id == "long"]
            assert aside.text == "" and aside.tokens == 0
        guided = Guide(limited(1, 2000), limited(2, 2000)).steer(closed, search=SEARCHES[2])
        assert guided.generate("I really")
        with pytest.raises(ModelError, match="no room for a response in a model's context: shorten the prompt"):
            guided.generate(["I really", LONG])


def test_any_other_refusal_still_ends_the_run() -> None:
    with serving(limited(0, 2000)) as server:
        closed = CompletionsModel(server.url, "tiny")
        server.faults = [(400, {}, b"top_k is unknown")]
        with pytest.raises(trimtab.TrimtabError, match="400: top_k is unknown"):
            Guide.by_reward(len).steer(closed, search=Search(max_new_tokens=2)).generate("I")


WORDS = [
    "This model's maximum context length is 256 tokens. However, you requested 300 tokens",
    "The decoder prompt (length 300) is longer than the maximum model length of 256.",
    "The input (300 tokens) is longer than the model's context length (256 tokens).",
    "the request exceeds the available context size. try increasing the context size",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 256",
    '{"error": {"code": "context_length_exceeded"}}',
]


@pytest.mark.parametrize("words", WORDS)
def test_servers_say_it_in_their_own_words(words: str) -> None:
    with serving(limited(0, 2000)) as server:
        server.faults = [(422 if "inputs" in words else 400, {}, words.encode())]
        closed = CompletionsModel(server.url, "tiny", settings=EndpointConfig(url=server.url, log_probabilities=True))
        assert math.isnan(closed.log_probabilities([("I", " really")])[0][0])


def answer(prompt: str, text: str, ids: list[int], finish="length", decoder_prompt: str | None = None) -> Generation:
    return Generation(decoder_prompt or prompt, prompt, 0, [1], ids, text, finish)


def test_fluency_under_a_base_of_shorter_context_is_nan_for_this_text_alone() -> None:
    base = limited(0, 64)
    made = [answer("I really", " liked", [9]), answer(LONG, " liked", [9]), answer("Film", " so" * 200, [9])]
    logs, counts = fluency_under(base, made)
    assert math.isfinite(logs[0]) and math.isnan(logs[1]) and math.isnan(logs[2]) and counts[0] == counts[1] > 0
    assert logs[0] == pytest.approx(fluency_under(limited(0, 256), made[:1])[0][0], abs=1e-9)


def test_fluency_of_a_served_base_asks_as_many_at_once_as_allowed_and_answers_in_order() -> None:
    """Fault: one request after the other."""
    import threading

    base = limited(0, 2000)
    made = [answer(f"Film {n}", " so" * (n % 5 + 1), [9]) for n in range(12)]
    made.insert(5, answer("aside", "", [], "too_long"))
    with serving(base) as server:
        gate, complete = threading.Barrier(4, timeout=10), server.complete
        server.complete = lambda body: (gate.wait(), complete(body))[1]
        settings = EndpointConfig(url=server.url, log_probabilities=True, concurrency=4, attempts=1)
        logs, counts = fluency_served(CompletionsModel(server.url, "tiny", settings=settings), made)
        assert server.busiest == 4 and len(server.requests) == 12
    assert math.isnan(logs[5]) and counts[5] == 0
    expected = sequence_log_probabilities(
        base, [each.prompt for each in made], [base.vocabulary.encode_response(each.text) for each in made]
    )
    for n in (0, 4, 7, 12):
        assert logs[n] == pytest.approx(expected[n], abs=1e-9)


def test_fluency_of_a_served_base_fails_as_before() -> None:
    made = [answer(f"Film {n}", " so", [9]) for n in range(12)]
    with serving(limited(0, 2000)) as server:
        settings = EndpointConfig(url=server.url, log_probabilities=True, concurrency=4, attempts=1)
        model = CompletionsModel(server.url, "tiny", settings=settings)
        server.dead_after = 3
        with pytest.raises(trimtab.TrimtabError, match="does not answer"):
            fluency_served(model, made)
        server.dead_after = None
        server.complete = lambda body: {"choices": [{"index": 0, "text": "", "logprobs": None}]}
        with pytest.raises(trimtab.TrimtabError, match=r"leave out endpoint\.log_probabilities"):
            fluency_served(model, made)


def test_the_divergence_leaves_out_a_prompt_that_the_untuned_model_cannot_read() -> None:
    tuned, untuned = limited(1, 256), limited(2, 40, template="Here is a movie review: {prompt}")
    made = [answer("I", " x", [9, 8]), answer("film " * 40, " x", [7] * 9), answer("gone", "", [], "too_long")]
    found = divergence(made, tuned, untuned, lambda done, total: None)
    assert found.tokens == [2, 9] and math.isfinite(found.log_ratios[0]) and math.isnan(found.log_ratios[1])


EXPERIMENT = Experiment.model_validate(
    {"name": "demo", "guide": {"decoders": [{}, {"successors": 2}]}, "evaluate": {"bootstrap": 100}}
)


def summarised(long_for: dict[str, set[int]], prompts: int = 6):
    generations = {
        name: [
            Generation(f"p{n}", "I", 0, [1], [], "", "too_long")
            if n in long_for.get(name, set())
            else Generation(f"p{n}", "I", 0, [1], [2, 3], f" film {10**n}{'!' * place}", "length")
            for n in range(prompts)
        ]
        for place, name in enumerate(("base", "bon-2"))
    }
    gold = FunctionReward(lambda texts: [float(len(text)) for text in texts])
    scores = {
        name: score_decoder(name, each, gold, None, lambda some: ([-1.0] * len(some), [2] * len(some)))
        for name, each in generations.items()
    }
    costs = {name: Cost(1.0, 1.0) for name in scores}
    settings = EXPERIMENT.guide, EXPERIMENT.evaluate, EXPERIMENT.seed, model_names(EXPERIMENT.small, EXPERIMENT.base)
    rows = summarise(*settings, scores, generations, lambda text: list(text.encode()), costs)
    excluded = too_long(generations)
    aside = [each for name in scores for each in set_aside(name, generations[name], scores[name], excluded)]
    return {row.decoder: row for row in rows}, aside, without(excluded, scores)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 5), max_size=4), st.sets(st.integers(0, 5), max_size=1))
def test_what_is_too_long_for_one_decoder_counts_for_none(guides: set[int], base: set[int]) -> None:
    """So the means of all rows are over the same prompts, and not only gains, which are paired."""
    rows, aside, scores = summarised({"bon-2": guides, "base": base})
    kept = sorted(set(range(6)) - guides - base)
    for name, row in rows.items():
        assert (row.prompts, row.set_aside, row.left_out) == (len(kept), len(guides | base), 0)
        lengths = [len(f"I film {10**n}") + (name == "bon-2") for n in kept]
        assert row.reward == pytest.approx(sum(lengths) / len(kept))
        named = {each.prompt_id: each.why for each in aside if each.decoder == name}
        assert set(named) == {f"p{n}" for n in guides | base}
        own = guides if name == "bon-2" else base
        for n in guides | base:
            elsewhere = "it is too long for another decoder"
            expected = "it leaves no room for a response in a model's context" if n in own else elsewhere
            assert named[f"p{n}"] == expected
    assert rows["bon-2"].gain == pytest.approx(1.0)
    assert all(math.isnan(each.reward) == (int(each.prompt_id[1:]) not in kept) for s in scores.values() for each in s)


def test_nothing_left_is_one_line() -> None:
    with pytest.raises(DataError, match=r"all 2 prompts leave no room .* lower guide\.max_new_tokens"):
        summarised({"bon-2": {0}, "base": {1}}, prompts=2)
