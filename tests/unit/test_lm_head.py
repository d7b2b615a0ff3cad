"""The last matrix taken in slices: its log-normalizer is that of all logits at once, wherever they lie."""

import math

import pytest
import torch

from trimtab.models import lm_head as head
from trimtab.models.lm_head import LMHead

WIDTH, SIZE, ROWS = 6, 21, 5


def made(dtype: torch.dtype = torch.float32, shift: float = 0.0) -> tuple[LMHead, torch.Tensor, torch.Tensor]:
    """A head whose bias shifts all logits, hidden states, and the logits themselves."""
    generator = torch.Generator().manual_seed(1)
    weight, hidden = (torch.randn(rows, WIDTH, generator=generator).to(dtype) for rows in (SIZE, ROWS))
    bias = torch.full((SIZE,), shift, dtype=dtype)
    return LMHead(weight, bias), hidden, hidden @ weight.t() + bias


@pytest.mark.parametrize("shift", [0.0, 90.0, -90.0, -120.0, -3e4])
@pytest.mark.parametrize("size", [4, SIZE])
def test_logits_may_lie_far_from_zero(shift: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of GPT-2 lie about -100, and exp(100) is infinite in float32: a normalizer of NaN set prompts aside."""
    monkeypatch.setattr(head, "SLICE", size)
    sliced, hidden, logits = made(shift=shift)
    assert torch.allclose(sliced.log_normalizer(hidden), logits.logsumexp(-1), atol=1e-5, rtol=1e-6)


def test_a_slice_may_be_ruled_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SLICE", 4)
    sliced, hidden, logits = made()
    assert sliced.bias is not None
    for start in (0, 8):
        sliced.bias[start : start + 4] = -math.inf
        logits[:, start : start + 4] = -math.inf
    assert torch.allclose(sliced.log_normalizer(hidden), logits.logsumexp(-1), atol=1e-6)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_what_is_no_number_stays_none_and_spoils_its_row_alone(spoilt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SLICE", 4)
    sliced, hidden, logits = made()
    hidden[1] = spoilt
    found = sliced.log_normalizer(hidden)
    assert not found[1].isfinite()
    others = [0, 2, 3, 4]
    assert torch.allclose(found[others], logits.logsumexp(-1)[others], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_probability_exceeds_one(dtype: torch.dtype) -> None:
    """In bfloat16 a logit of 20.06 is rounded to 20: a sure token would be worth 0.06 nats, were it not rounded too."""
    weight = torch.zeros(SIZE, WIDTH, dtype=dtype)
    weight[3] = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25, 0.0625]).to(dtype)
    hidden = torch.tensor([[4.0, 2.0, 0.0, 0.0, 0.0, 1.0]]).to(dtype)
    sure = LMHead(weight, None)
    found = sure.logit_of(hidden, torch.tensor([3])) - sure.log_normalizer(hidden)
    assert found.dtype == torch.float32 and -1e-6 < found.item() <= 0
