"""Rows that are put beside others, moved and left out predict what each text predicts alone, however it is decoded."""

import random
from collections.abc import Callable

import pytest
import torch

import tape
from tiny import gpt2, llama, tokenizer
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.language_model import LanguageModel, joined
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.serve.row_pool import RowPool

EXACT = 1e-9


def cached(seed: int, make: Callable[[int], torch.nn.Module] = llama) -> CachedModel:
    return CachedModel(make(seed), Vocabulary(tokenizer()))


def recorded(seed: int) -> CachedModel:
    """Decoded by recorded steps over buffers, as on CUDA."""
    model = cached(seed)
    model.record_steps(tape.record, 1 << 30)
    return model


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "llama": lambda: cached(0),
    "gpt2": lambda: cached(0, gpt2),
    "recorded": lambda: recorded(0),
    "uncached": lambda: UncachedModel(llama(0), Vocabulary(tokenizer()), "{prompt}", "tiny", None, "it is a test"),
    "emulated": lambda: emulate(cached(0), [(cached(1), cached(2), 0.5)]),
}


def logits_of(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    return model.next_logits(model.start_ids([ids], 0))[0].clone()


@pytest.mark.parametrize("name", MODELS)
def test_whatever_enters_forks_waits_and_leaves_each_row_stays_its_own(name: str) -> None:
    model, alone, chance = MODELS[name](), MODELS[name](), random.Random(name)
    pool, texts = RowPool(model), {}
    for step in range(30):
        if not texts or chance.random() < 0.4:
            prompts = [
                [chance.randrange(320) for _ in range(chance.randrange(1, 30))] for _ in range(chance.randrange(1, 4))
            ]
            rows = pool.enter(model.start_ids(prompts, chance.randrange(40)), range(len(prompts)))
            texts |= dict(zip(rows, map(list, prompts), strict=True))
        logits = pool.next_logits().clone()
        for row, ids in texts.items():
            assert (logits[row.place] - logits_of(alone, ids)).abs().max() < EXACT, (step, ids)
        parents = chance.choices(list(texts), k=chance.randrange(4))
        for parent, row in zip(parents, pool.fork(parents), strict=True):
            texts[row] = list(texts[parent])
        tokens: list[int | None] = [None] * len(pool.ids)
        waiting = []
        for row, ids in texts.items():
            if chance.random() < 0.2:
                waiting.append(row)
                continue
            tokens[row.place] = chance.randrange(320)
            ids.append(tokens[row.place])
        pool.append(tokens)
        pool.read_again(waiting)
        gone = [row for row in texts if chance.random() < (0.9 if step % 10 == 9 else 0.2)]
        pool.free(gone)
        texts = {row: ids for row, ids in texts.items() if row not in gone}
        if not texts:
            pool.drop()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens", [1, 5, 1000])
def test_prompts_that_are_read_in_slices_are_read(name: str, tokens: int) -> None:
    model = MODELS[name]()
    prompts = ("Here is a movie", (5,), "x", (7, 8, 9))
    start, slices = model.starting(prompts, 8, tokens), 1
    while True:
        try:
            next(start)
            slices += 1
        except StopIteration as end:
            state = end.value
            break
    ids = [
        model.vocabulary.encode_prompt(prompt, "{prompt}") if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    assert state.ids == ids and (slices > 1) == (tokens < 1000 and name != "uncached")
    logits = model.next_logits(state)
    for row, text in enumerate(ids):
        assert (logits[row] - logits_of(MODELS[name](), text)).abs().max() < EXACT
    along = torch.cat([part.clone() for part in model.logits_along(ids[0], tokens)])
    assert len(along) == len(ids[0])
    for length in range(1, len(ids[0]) + 1):
        assert (along[length - 1] - logits_of(model, ids[0][:length])).abs().max() < EXACT


@pytest.mark.parametrize("name", MODELS)
def test_states_side_by_side_score_as_each_alone(name: str) -> None:
    model = MODELS[name]()
    prompts, more = [[1, 5, 6], [9], [3, 3, 3, 3, 8]], [[11, 12], [], [4]]
    alone = [
        model.score(model.start_ids([ids], 4), [0], [len(ids)], [new])[1][0]
        for ids, new in zip(prompts, more, strict=True)
    ]
    states = [model.start_ids([ids], room) for room, ids in enumerate(prompts)]
    _, together = model.score(joined(states), [0, 1, 2], [len(ids) for ids in prompts], more)
    assert [len(row) for row in together] == [2, 0, 1]
    for first, second in zip(alone, together, strict=True):
        assert first == pytest.approx(second, abs=EXACT)
