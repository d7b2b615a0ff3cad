"""Drawing tokens: filters mean what they mean in transformers, and draws depend on nothing but their place."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from tiny import language_model
from trimtab.config.search import SamplingConfig
from trimtab.models import sampling
from trimtab.models.sampling import FAILED, draw, filtered, penalized, prompt_key, top, uniforms


def transformers_probabilities(settings: SamplingConfig, logits: torch.Tensor, seen: list[list[int]]) -> torch.Tensor:
    """What `generate` would draw from, its processors put together in its order by transformers itself."""
    model = language_model(0).model
    config = GenerationConfig(
        do_sample=settings.temperature > 0, eos_token_id=0,
        temperature=settings.temperature or 1.0, top_k=settings.top_k, top_p=settings.top_p,
        min_p=settings.min_p or None, repetition_penalty=settings.repetition_penalty,
    )  # fmt: skip
    processors = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    rows = [processors(torch.tensor([ids]), row[None].clone()) for ids, row in zip(seen, logits, strict=True)]
    return torch.cat(rows).softmax(-1)


SEEN = [[3, 5, 5, 299], [0], [7, 7, 7], list(range(300))]


@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_settings_mean_what_they_mean_in_transformers(
    top_k: int, top_p: float, temperature: float, min_p: float, penalty: float
) -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    settings = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    ids, probabilities = filtered(penalized(logits, SEEN, penalty), settings)
    found = probabilities if ids is None else torch.zeros_like(logits).scatter_(1, ids, probabilities)
    assert torch.allclose(found, transformers_probabilities(settings, logits, SEEN), atol=1e-12)


def test_the_penalty_changes_greedy_decoding_too_and_needs_no_sampling() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    settings = SamplingConfig(temperature=0, repetition_penalty=1.2)
    number = np.array([0.5])
    assert draw(logits, [0], number, settings, [[2]]) == [0]
    assert draw(logits, [0], number, settings, [[0]]) == [1]
    assert logits.tolist() == [[2.0, pytest.approx(1.9), -1.0]]  # the caller's logits stay what they were


LARGE = 20_000
FLAT, STEEP = 0.5, 6.0  # spreads of logits: 1,024 tokens hold little, and nearly all, of the mass


def spread_logits(*spreads: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randn(LARGE, generator=generator, dtype=torch.float64) * spread for spread in spreads])


@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(temperature=1.0, top_k=0, top_p=0.9),
        SamplingConfig(temperature=0.7, top_k=0, top_p=0.5, min_p=0.02),
        SamplingConfig(temperature=1.0, top_k=0, min_p=0.05),
    ],
)
def test_a_large_vocabulary_is_drawn_from_as_if_all_of_it_were_sorted(
    settings: SamplingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = spread_logits(STEEP, FLAT, STEEP)
    numbers = (np.arange(300) % 100 + 0.5) / 100
    rows = [place // 100 for place in range(300)]
    found = draw(logits, rows, numbers, settings)
    assert found[:100] == draw(logits[:1], [0] * 100, numbers[:100], settings)  # whatever its neighbours are
    monkeypatch.setattr(sampling, "CANDIDATES", LARGE)
    assert found == draw(logits, rows, numbers, settings)


def test_only_rows_whose_mass_is_spread_wide_have_their_vocabulary_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost: sorting a row of 262,144 takes longer than the step that made it."""
    sorted_shapes: list[tuple[int, ...]] = []
    sound = sampling._nucleus

    def watched(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
        sorted_shapes.append(tuple(probabilities.shape))
        return sound(probabilities, top_p)

    monkeypatch.setattr(sampling, "_nucleus", watched)
    settings = SamplingConfig(temperature=1.0, top_k=0, top_p=0.9)
    draw(spread_logits(STEEP, STEEP), [0, 1], np.array([0.1, 0.9]), settings)
    assert sorted_shapes == [(2, sampling.CANDIDATES)]
    draw(spread_logits(STEEP, FLAT), [0, 1], np.array([0.1, 0.9]), settings)
    assert sorted_shapes[1:] == [(2, sampling.CANDIDATES), (1, LARGE)]


@given(st.integers(0, 10_000), st.integers(1, 20), st.sampled_from([600, 20_480, 26_000]))
@settings(max_examples=25, deadline=None)
def test_top_finds_the_largest(seed: int, count: int, size: int) -> None:
    logits = torch.randn(2, size, generator=torch.Generator().manual_seed(seed))
    found = top(logits, count).sort(-1).values
    assert torch.equal(found, logits.topk(count).indices.sort(-1).values)


def test_a_number_depends_on_its_place_alone() -> None:
    keys = [prompt_key("a"), prompt_key("b")]
    together = uniforms(3, keys * 2, [0, 0, 1, 1], [5, 5, 5, 5])
    assert [float(uniforms(3, [key], [slot], [5])[0]) for slot in (0, 1) for key in keys] == together.tolist()
    assert (
        len({*together.tolist(), float(uniforms(4, keys[:1], [0], [5])[0]), float(uniforms(3, keys[:1], [0], [6])[0])})
        == 6
    )


def test_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniforms(
        0, [prompt_key(str(n // 100)) for n in range(20_000)], [n % 100 for n in range(20_000)], [0] * 20_000
    )
    assert numbers.min() >= 0 and numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]], dtype=torch.float64)
    numbers = (np.arange(10_000) + 0.5) / 10_000
    drawn = draw(logits, [0] * 10_000, numbers, SamplingConfig(temperature=1.0, top_k=0))
    shares = np.bincount(drawn, minlength=4) / 10_000
    assert np.allclose(shares, logits.softmax(-1)[0].numpy(), atol=2e-4)


def test_a_dropped_token_is_never_drawn_at_the_ends() -> None:
    logits = torch.tensor([[-5.0, 1.0, 1.0, -5.0]])
    edges = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert draw(logits, [0, 0], edges, SamplingConfig(temperature=1.0, top_k=2)) == [1, 2]
    assert draw(logits, [0, 0], edges, SamplingConfig(temperature=1.0, top_k=0, top_p=0.9)) == [1, 2]


@pytest.mark.parametrize("spoilt", [[math.nan], [math.inf], [math.nan, math.inf], "all -inf"])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 50, 0.9)]
)
def test_logits_that_are_not_numbers_give_no_token_and_change_no_other_row(
    spoilt: list[float] | str, temperature: float, top_k: int, top_p: float
) -> None:
    """One spoilt logit among 60,000, which the filters see in groups: wherever it is, the row fails, and alone."""
    settings = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = torch.randn(3, 60_000, generator=torch.Generator().manual_seed(0))
    numbers = np.array([0.1, 0.5, 0.9, 0.7])
    sound = draw(logits, [0, 1, 2, 1], numbers, settings)
    for place in (0, 511, 30_000, 59_999):
        broken = logits.clone()
        if isinstance(spoilt, str):
            broken[1] = -math.inf
        else:
            broken[1, place : place + len(spoilt)] = torch.tensor(spoilt)[: 60_000 - place]
        assert draw(broken, [0, 1, 2, 1], numbers, settings) == [sound[0], FAILED, sound[2], FAILED]


def test_tokens_that_a_model_rules_out_are_no_fault() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    for each in (SamplingConfig(temperature=0), SamplingConfig(top_k=0), SamplingConfig(top_k=3, top_p=0.5)):
        assert draw(logits, [0], np.array([0.3]), each)[0] in (0, 2)
