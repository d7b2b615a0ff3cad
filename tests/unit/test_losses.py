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
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.vocabulary import Vocabulary
from trimtab.training.batches import arrange
from trimtab.training.losses import LOSSES
from trimtab.training.tokens import encode_pairs


class PlainTrainer(DPOTrainer):
    """TRL's trainer with nothing of its own changed but that rows of ids are taken as they are."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def plain_trainer(folder, config) -> PlainTrainer:
    rows = arrange(encode_pairs(TRAIN, Vocabulary(tokenizer()), "{prompt}", 512, 320).rows, config.batch_size, 0)
    table = Dataset.from_list([asdict(row) for row in rows])
    names = ["hinge", "sft"] if config.loss == "hinge_sft" else [config.loss]
    arguments = DPOConfig(
        str(folder), beta=config.beta, loss_type=names, loss_weights=[1.0, config.sft_weight][: len(names)],
        precompute_ref_log_probs=True,
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


@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_each_function_is_trls_loss_of_the_same_log_probabilities(tmp_path, loss, beta):
    trainer = plain_trainer(tmp_path, settings(lora=None, batch_size=6, loss=loss, beta=beta))
    batch, outputs = moved(next(iter(trainer.get_train_dataloader())), 2), []
    with trainer.model.register_forward_hook(lambda module, arguments, output: outputs.append(output.log_probs)):
        theirs = trainer.compute_loss(trainer.model, dict(batch)).item()
    chosen, rejected = outputs[0].sum(1).chunk(2)
    losses = LOSSES[loss].of_pairs(chosen - batch["ref_chosen_logps"], rejected - batch["ref_rejected_logps"], beta)
    assert losses.shape == (6,) and losses.dtype == torch.float32
    assert losses.mean().item() == pytest.approx(theirs, abs=1e-6)


PLUGIN = """
from trimtab.training.losses import LOSSES, Loss

def squared(chosen_logratios, rejected_logratios, beta):
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2

LOSSES.add(Loss(name="squared", function=squared, words="a squared margin", paper="Azar et al. 2023, arXiv 2310.12036"))
"""


@pytest.fixture
def experiment_with(tmp_path):
    """Loads an experiment whose plug-in file has the given code; the losses that it adds are forgotten afterwards."""
    known = set(LOSSES)

    def load(code: str):
        plugin, experiment = tmp_path / "my_losses.py", tmp_path / "experiment.yaml"
        plugin.write_text(code)
        experiment.write_text(f"name: mine\nplugins: [{plugin}]\ntune: {{loss: squared}}\n")
        return load_experiment(experiment)

    yield load
    for name in set(LOSSES) - known:
        LOSSES.discard(name)


def test_a_plug_ins_loss_is_trained_with(tmp_path, experiment_with):
    """IPO's loss without its mean over tokens: (0 - 1 / (2 beta))^2 = 25 before the first step, at beta 0.1."""
    curves = {}
    for loss in (experiment_with(PLUGIN).tune.loss, "sigmoid"):
        run(tmp_path / loss, llama(0, dtype=torch.float32), settings(loss=loss, learning_rate=1e-3))
        curves[loss] = [entry["loss"] for entry in log_of(tmp_path / loss) if "loss" in entry]
    assert curves["squared"][0] == pytest.approx(25.0) and curves["sigmoid"][0] == pytest.approx(math.log(2))
    assert curves["squared"][-1] < 25.0
    assert list(LOSSES["squared"].identity()) == ["code of squared"]  # results depend on the plug-in's code


def test_a_plug_ins_signature_is_checked_where_it_is_added(experiment_with):
    with pytest.raises(ConfigurationError, match=r"the loss squared has the function .*: mend its arguments") as error:
        experiment_with(PLUGIN.replace("rejected_logratios, beta):", "rejected_logratios, beta, gamma):"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", r"squared failed in .*my_losses.py, line 5 \(ZeroDivisionError: .*\): mend it"),
        ("(chosen_logratios - rejected_logratios).mean()", r"returned torch.float32 \[\] for 4 pairs: return a float"),
        ("0.5", r"returned float for 4 pairs: return a float tensor \[4\], one loss for each pair"),
        ("chosen_logratios.detach()", "has no gradient: compute it from the log-ratios by torch alone"),
    ],
)
def test_what_a_plug_ins_loss_does_wrong_is_said_in_one_line(tmp_path, experiment_with, body, message):
    code = PLUGIN.replace("(chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2", body)
    config = settings(loss=experiment_with(code).tune.loss, epochs=1)
    with pytest.raises(ModelError, match=message) as error:
        run(tmp_path / "tuned", llama(0, dtype=torch.float32), config)
    assert len(str(error.value).splitlines()) == 1


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
