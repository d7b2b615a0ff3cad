"""Each loss against numbers derived by hand, and against TRL's own trainer; the write-up's optimizer and warm-up."""

import math
from dataclasses import asdict

import pytest
import torch
from datasets import Dataset
from test_training_preference import TRAIN, VALIDATION, log_of, run, settings, trainer_for
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tiny import full_log_probabilities, llama, tokenizer
from trimtab.models.vocabulary import Vocabulary
from trimtab.training.batches import arrange
from trimtab.training.pair_arguments import LOSSES
from trimtab.training.pair_tokens import encode_pairs


class PlainTrainer(DPOTrainer):
    """TRL's trainer with nothing of its own changed but that rows of ids are taken as they are."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def plain_trainer(folder, config) -> PlainTrainer:
    rows = arrange(encode_pairs(TRAIN, Vocabulary(tokenizer()), "{prompt}", 512, 320).rows, config.batch_size, 0)
    table = Dataset.from_list([asdict(row) for row in rows])
    losses, weights = LOSSES[config.loss](config)
    arguments = DPOConfig(
        str(folder), beta=config.beta, loss_type=losses, loss_weights=weights, precompute_ref_log_probs=True,
        max_length=None, per_device_train_batch_size=config.batch_size, gradient_checkpointing=False, bf16=False,
        use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model = llama(0, dtype=torch.float32)
    collator = DataCollatorForPreference(pad_token_id=0)
    return PlainTrainer(
        model, args=arguments, train_dataset=table, processing_class=tokenizer(), data_collator=collator
    )


def moved(batch, seed: int):
    """The batch with references moved at random, as if training had gone on for a while."""
    drift = 3 * torch.randn(2, len(batch["ref_chosen_logps"]), generator=torch.Generator().manual_seed(seed))
    shifted = {"ref_chosen_logps": batch["ref_chosen_logps"] + drift[0]}
    return {**batch, **shifted, "ref_rejected_logps": batch["ref_rejected_logps"] + drift[1]}


CONFIGS = [
    {"loss": "sigmoid", "beta": 0.1}, {"loss": "sigmoid", "beta": 1.0}, {"loss": "hinge", "beta": 0.1},
    {"loss": "hinge", "beta": 1.0}, {"loss": "hinge_sft", "beta": 0.5, "sft_weight": 0.3},
]  # fmt: skip


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_losses_and_gradients_are_trls_and_the_formulas(tmp_path, changes):
    """Written out from the models' plain log-probabilities in float64: with the margins m = beta * (chosen gained -
    rejected gained), sigmoid is log(1 + exp(-m)), hinge max(0, 1 - m), sft the chosen responses' nats a token."""
    config = settings(lora=None, batch_size=6, **changes)
    ours, theirs = trainer_for(tmp_path / "ours", config), plain_trainer(tmp_path / "theirs", config)
    batch = moved(next(iter(ours.get_train_dataloader())), 1)
    found = []
    for trainer in (ours, theirs):
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        found.append((loss.item(), trainer.model.get_input_embeddings().weight.grad))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert found[0][0] == pytest.approx(by_hand(batch, config), rel=1e-4)


def by_hand(batch, config) -> float:
    model, losses, chosen_logs, chosen_tokens = llama(0), [], 0.0, 0
    ids, attended, scored = (batch[name].tolist() for name in ("input_ids", "attention_mask", "completion_mask"))
    responses = []
    for row, mask, response in zip(ids, attended, scored, strict=True):
        length, answer = sum(mask), sum(response)
        responses.append(full_log_probabilities(model, row[: length - answer], row[length - answer : length]))
    half = len(responses) // 2
    for number in range(half):
        chosen, rejected = responses[number], responses[half + number]
        gained = sum(chosen) - batch["ref_chosen_logps"][number].item()
        margin = config.beta * (gained - sum(rejected) + batch["ref_rejected_logps"][number].item())
        losses.append(math.log1p(math.exp(-margin)) if config.loss == "sigmoid" else max(0.0, 1 - margin))
        chosen_logs, chosen_tokens = chosen_logs + sum(chosen), chosen_tokens + len(chosen)
    likelihood = -chosen_logs / chosen_tokens if config.loss == "hinge_sft" else 0.0
    return sum(losses) / half + config.sft_weight * likelihood


def test_trls_own_reference_is_ours(tmp_path):
    config = settings(lora=None, batch_size=6)
    ours, theirs = (
        make(tmp_path / name, config).train_dataset for make, name in ((trainer_for, "a"), (plain_trainer, "b"))
    )
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


@pytest.mark.parametrize(("warmup", "expected"), [(3, [0, 1 / 3, 2 / 3, 1, 1, 1]), (0.5, [0, 1 / 3, 2 / 3, 1, 1, 1])])
def test_warm_up_in_steps_and_as_a_share(tmp_path, warmup, expected):
    """Six steps: three of them, or half of them."""
    config = settings(warmup=warmup, schedule="constant_with_warmup", epochs=1, learning_rate=2e-3)
    run(tmp_path, llama(0, dtype=torch.float32), config)
    rates = [entry["learning_rate"] for entry in log_of(tmp_path) if "learning_rate" in entry]
    assert [rate / 2e-3 for rate in rates] == pytest.approx(expected)


def test_rmsprop_is_the_write_ups(tmp_path):
    """torch's RMSprop with its own defaults; its first step moves a weight by learning rate * g / sqrt(0.01 g^2)."""
    trainer = trainer_for(tmp_path, settings(lora=None, optimizer="rmsprop", learning_rate=5e-3), [*TRAIN, *VALIDATION])
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.RMSprop) and optimizer.defaults["alpha"] == 0.99
    weight = trainer.model.get_input_embeddings().weight
    trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).backward()
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    moved = (before - weight.detach())[gradient.abs() > 1e-4]
    assert moved.abs() == pytest.approx(torch.full_like(moved, 0.05), rel=1e-3)
