"""What the host waits for on an accelerator, found without one: on the device `meta` tensors have shapes, not numbers.

Tensors of unlike devices do not mix, and any number that the host would have to wait for raises.
"""

import pytest
import torch

import tape
from tiny import gpt2, tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.models import cached_model as transformers_model
from trimtab.models import emulated
from trimtab.models.cached_model import CachedModel
from trimtab.models.lm_head import LMHead
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search import value
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from twins import BUDGET

PROMPTS = [Prompt("a", "I really"), Prompt("b", "This was the worst film"), Prompt("c", "x")]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of all tensors whose numbers the host asks for by name; models may be made without asking."""
    asked: list[torch.Size] = []

    def numbers(tensor: torch.Tensor) -> list[float]:
        asked.append(tensor.shape)
        return [0.0 if tensor.is_floating_point() else 2] * len(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", numbers)
    monkeypatch.setattr(transformers_model, "head_of", lambda model: LMHead(model.get_output_embeddings().weight, None))
    for module in (emulated, value):
        monkeypatch.setattr(module, "share_lower_layers", lambda first, second: (first, second))
    return asked


def without_numbers(seed: int, vocabulary: int = 320) -> CachedModel:
    model = CachedModel(gpt2(seed, vocabulary, torch.float32).to("meta"), Vocabulary(tokenizer()))
    model.record_steps(tape.record, BUDGET)
    return model


def test_the_search_waits_for_tokens_and_values_alone(waits: list[torch.Size]) -> None:
    base, tuned, untuned = (without_numbers(seed) for seed in range(3))
    proposer = LanguageModelProposer(base, SamplingConfig(temperature=0.7, top_k=5), seed=0, ignore_eos=True)
    Search(2, 2, 3, 9).run(PROMPTS, proposer, value.ImplicitValue(tuned, untuned, base))
    assert base._static is not None
    assert {rows for rows, _ in base._static._steps} == {3, 6, 12}  # of prompts, of beams and of candidates
    assert waits == 3 * (3 * [torch.Size([12])] + 2 * [torch.Size([36])])


@pytest.mark.parametrize(
    "settings", [SamplingConfig(top_k=0), SamplingConfig(top_k=5, repetition_penalty=1.2)], ids=repr
)
def test_emulated_fine_tuning_waits_for_tokens_alone(waits: list[torch.Size], settings: SamplingConfig) -> None:
    model = emulated.emulate(without_numbers(0), [(without_numbers(1), without_numbers(2), 0.5)])
    Search(max_new_tokens=4).run(PROMPTS, LanguageModelProposer(model, settings, 0, ignore_eos=True), None)
    assert waits == 4 * [torch.Size([3])]


def test_top_p_over_a_large_vocabulary_waits_once_more_a_token(waits: list[torch.Size]) -> None:
    proposer = LanguageModelProposer(without_numbers(0, 5000), SamplingConfig(top_k=0, top_p=0.9), 0, ignore_eos=True)
    Search(max_new_tokens=4).run(PROMPTS, proposer, None)
    assert waits == 8 * [torch.Size([3])]


def test_a_tensor_without_numbers_shows_who_waits() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        int(torch.ones(3, device="meta").max())
