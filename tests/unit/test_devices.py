"""The identities on each device that there is: the processor, whose steps a tape records, and CUDA with its graphs."""

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import tape
from identities import PROMPTS, SEED, log_ratio
from tiny import gpt2, llama, tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.sampling import draw
from trimtab.models.static_step import CudaGraphs, Record
from trimtab.models.vocabulary import Vocabulary
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from twins import BUDGET, pair, random_calls

on_cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SAMPLING = SamplingConfig(temperature=1.3, top_k=0, top_p=0.98)
ROTARY = 4e-6  # what cosines of positions, float32 whatever the weights are, move log-probabilities between devices
CLOSE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 1.0}  # logits of these models reach 30


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=on_cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def recorder(device: torch.device) -> Record:
    return CudaGraphs(torch.device("cuda", torch.cuda.current_device())) if device.type == "cuda" else tape.record


def model(seed: int, device: torch.device, dtype: torch.dtype, *, ends: range = range(0)) -> CachedModel:
    """A tiny Llama that records its steps."""
    made = CachedModel(llama(seed, dtype=dtype).to(device), Vocabulary(tokenizer(), ends))
    made.record_steps(recorder(device), BUDGET)
    return made


def searched(
    device: torch.device, dtype: torch.dtype, search: Search
) -> tuple[list[list[Hypothesis]], list[CachedModel]]:
    """What CBS finds, and its base, tuned and untuned model."""
    models = [model(0, device, dtype, ends=range(40, 52)), model(1, device, dtype), model(2, device, dtype)]
    proposer = LanguageModelProposer(models[0], SAMPLING, SEED)
    return search.run(PROMPTS, proposer, ImplicitValue(models[1], models[2], models[0])), models


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("make", [llama, gpt2])
def test_recorded_steps_read_what_plain_ones_do(
    make: Callable[..., torch.nn.Module], dtype: torch.dtype, device: torch.device
) -> None:
    def there(seed: int) -> torch.nn.Module:
        return make(seed, dtype=dtype).to(device)

    random_calls(pair(there, recorder(device)), seed=7, close=CLOSE[dtype], calls=20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_are_those_of_the_returned_ids(dtype: torch.dtype, device: torch.device) -> None:
    found, _ = searched(device, dtype, Search(2, 3, 4, 14))
    plain = [CachedModel(llama(seed, dtype=dtype), Vocabulary(tokenizer())) for seed in (1, 2)]
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            expected = log_ratio(*plain, prompt, each.token_ids)
            close = max(CLOSE[dtype], ROTARY) if device.type == "cuda" else CLOSE[dtype]
            assert each.value == pytest.approx(expected, abs=len(each.token_ids) * close)


def test_in_float64_each_device_finds_what_the_processor_finds(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    search = Search(2, 3, 4, 14)
    with caplog.at_level(logging.WARNING):
        found, _ = searched(device, torch.float64, search)
    plain = CachedModel(llama(0), Vocabulary(tokenizer(), range(40, 52)))
    guides = [CachedModel(llama(seed), Vocabulary(tokenizer())) for seed in (1, 2)]
    expected = search.run(PROMPTS, LanguageModelProposer(plain, SAMPLING, SEED), ImplicitValue(*guides, plain))
    assert [[each.token_ids for each in group] for group in found] == [
        [each.token_ids for each in group] for group in expected
    ]
    assert not caplog.records  # every step could be recorded


def test_steps_are_recorded_where_they_are_asked_for(device: torch.device) -> None:
    """On CUDA without being told to, elsewhere when told to; a search replays them."""
    plain = CachedModel(llama(0).to(device), Vocabulary(tokenizer()))
    assert (plain._static is not None) == (device.type == "cuda")
    _, models = searched(device, torch.float32, Search(2, 2, 3, 9))
    assert all(each._static is not None and each._static._steps for each in models)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(temperature=0.7, top_k=5),
        SamplingConfig(temperature=1.0, top_k=0),
        SamplingConfig(temperature=1.0, top_k=0, top_p=0.9),
        SamplingConfig(temperature=1.0, top_k=0, min_p=0.05, repetition_penalty=1.3),
        SamplingConfig(temperature=0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("vocabulary", [300, 9000])
def test_the_same_numbers_draw_the_same_tokens(vocabulary: int, settings: SamplingConfig, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(6, vocabulary, dtype=torch.float64, generator=generator)
    numbers = np.random.default_rng(3).random(12)
    seen = torch.randint(vocabulary, (6, 20), generator=generator).tolist()
    drawing = partial(draw, rows=[row % 6 for row in range(12)], numbers=numbers, settings=settings, seen=seen)
    assert drawing(logits.to(device)) == drawing(logits)
