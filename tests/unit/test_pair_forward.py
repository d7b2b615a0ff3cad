"""The forward pass of tuning: TRL's numbers, with less of the work."""

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from tiny import gpt2, llama
from trimtab.models import lm_head as head
from trimtab.models.shared_layers import untrained_layers
from trimtab.training import pair_forward
from trimtab.training.pair_forward import HeadStatistics, PairForward

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")
IDS = torch.randint(2, 320, (4, 11), generator=torch.Generator().manual_seed(1))
LABELS = IDS.masked_fill(torch.arange(11) < torch.tensor([2, 3, 4, 2])[:, None], -100)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": LABELS}


@pytest.mark.parametrize("bias", [False, True])
def test_statistics_and_gradients_are_those_of_a_plain_softmax(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "MAX_ROWS", 3)
    monkeypatch.setattr(head, "SLICE", 5)
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 4, dtype=torch.float64), torch.randn(13, 4, dtype=torch.float64)
    given = [hidden, weight, torch.randn(13, dtype=torch.float64) if bias else None]
    ours, theirs = ([None if each is None else each.clone().requires_grad_() for each in given] for _ in range(2))
    targets = torch.tensor([0, 4, 5, 12, 7, 7, 2])
    logits = theirs[0] @ theirs[1].t() + (theirs[2] if bias else 0)
    logs = logits.log_softmax(-1)
    expected = logs.gather(1, targets[:, None]).squeeze(1)
    log_probs, entropy, mean, is_top1 = HeadStatistics.apply(*ours, targets)
    assert torch.allclose(log_probs, expected)
    assert torch.allclose(entropy, -(logs.exp() * logs).sum(-1))
    assert torch.allclose(mean, logits.mean(-1))
    assert torch.equal(is_top1, logits.argmax(-1) == targets)
    for found in (log_probs, expected):
        (found * torch.arange(1.0, 8.0, dtype=torch.float64)).sum().backward()
    for our, their in zip(ours, theirs, strict=True):
        assert our is None or torch.allclose(our.grad, their.grad)


@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_logits_may_lie_far_from_zero_and_tiles_be_ruled_out(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SLICE", 5)
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(3, 4, requires_grad=True), torch.randn(15, 4), torch.full((15,), shift)
    bias[:5] = -torch.inf
    targets = torch.tensor([5, 9, 14])
    expected = (hidden @ weight.t() + bias).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    found = HeadStatistics.apply(hidden, weight, bias, targets)[0]
    assert torch.allclose(found, expected, atol=1e-4)
    gradients = [torch.autograd.grad(each.sum(), hidden)[0] for each in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-4)


def test_a_last_norm_in_float32_meets_a_head_in_bfloat16() -> None:
    """As GPT-2's does under autocast on an accelerator."""
    model = gpt2(3, dtype=torch.bfloat16)
    PairForward(model, frozen_layers=0).install()
    expected = model(**BATCH, fused_lm_head=True).log_probs
    model.transformer.ln_f.register_forward_hook(lambda module, given, hidden: hidden.float())
    assert torch.equal(model(**BATCH, fused_lm_head=True).log_probs, expected)


def test_a_pass_that_an_error_cut_short_leaves_nothing_for_the_next() -> None:
    model = llama(3, layers=4)
    expected = model(input_ids=IDS).logits[:, :-1].log_softmax(-1).gather(2, IDS[:, 1:, None]).squeeze(2)
    model.requires_grad_(False)
    PairForward(model, 2).install()
    cut = model.model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**{**BATCH, "input_ids": IDS.flip(0)}, fused_lm_head=True)
    cut.remove()
    for _ in range(2):  # computed, then recalled
        found = model(**BATCH, fused_lm_head=True)
        assert torch.allclose(found.log_probs, expected * found.label_mask)


def test_what_was_kept_can_be_given_back() -> None:
    model = llama(3, layers=3)
    model.requires_grad_(False)
    forward = PairForward(model, 2)
    forward.install()
    runs = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(0))
    model(**BATCH, fused_lm_head=True)
    forward.forget()
    model(**BATCH, fused_lm_head=True)
    assert len(runs) == 2


def test_the_output_is_that_of_trls_head() -> None:
    ours, theirs = llama(3, dtype=torch.float32), llama(3, dtype=torch.float32)
    PairForward(ours, frozen_layers=0).install()
    add_fused_lm_head(theirs, outputs=FIELDS)
    found, expected = ours(**BATCH, fused_lm_head=True), theirs(**BATCH, fused_lm_head=True)
    assert torch.allclose(found.loss, expected.loss, atol=1e-6)
    for field in FIELDS:
        assert torch.allclose(found[field].float(), expected[field].float(), atol=1e-5), field
    assert torch.equal(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits)


def test_frozen_layers_run_once_for_a_batch() -> None:
    model = llama(3, layers=4)
    model.requires_grad_(False)
    for layer in model.model.layers[2:]:
        layer.requires_grad_(True)
    assert untrained_layers(model) == 2
    whole = llama(3, layers=4)
    add_fused_lm_head(whole, outputs=FIELDS)
    PairForward(model, untrained_layers(model)).install()
    runs = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(0))
    first, second = (model(**BATCH, fused_lm_head=True).log_probs for _ in range(2))
    assert torch.equal(first, second)
    assert torch.allclose(first, whole(**BATCH, fused_lm_head=True).log_probs.double(), atol=1e-6)
    other = model(input_ids=IDS[:2], attention_mask=torch.ones_like(IDS[:2]), labels=LABELS[:2], fused_lm_head=True)
    assert torch.allclose(other.log_probs, first[:2])
    assert len(runs) == 2  # one for each batch, though the first was asked for twice
    second.sum().backward()
    assert model.model.layers[2].mlp.up_proj.weight.grad is not None


def test_what_exceeds_the_room_is_computed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_forward, "MAX_KEPT_BYTES", 8)
    model = llama(3, layers=3)
    model.requires_grad_(False)
    PairForward(model, 2).install()
    runs = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(0))
    first, second = (model(**BATCH, fused_lm_head=True).log_probs for _ in range(2))
    assert torch.equal(first, second) and len(runs) == 2


def test_nothing_is_frozen_where_the_embeddings_are_trained() -> None:
    model = llama(3)
    for layer in model.model.layers:
        layer.requires_grad_(False)
    assert untrained_layers(model) == 0
