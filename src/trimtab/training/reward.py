"""Fine-tune a sentence encoder into the sentiment classifier that serves as gold reward, and calibrate it.

transformers' Trainer trains on short snippets of reviews; calibration (a temperature, and a bias where it helps) is
fitted on held-out snippets and folded into the head's weights, so that the saved folder is an ordinary
sequence-classification checkpoint.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl.trainer.utils import disable_dropout_in_model

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig, RewardTrainingConfig
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.models.hardware import pick_dtype
from trimtab.models.load import load_classifier
from trimtab.records import Review
from trimtab.rewards.classifier import classifier_reward, readable_length
from trimtab.rewards.model_reward import ModelReward
from trimtab.rewards.sequence_logits import padding_id
from trimtab.rewards.snippets import cut_snippet
from trimtab.rewards.token_rows import padded
from trimtab.store.files import write_json
from trimtab.training.attention import attention_for
from trimtab.training.calibration import (
    Floats,
    choose_calibration,
    expected_calibration_error,
    negative_log_likelihood,
)
from trimtab.training.checkpoints import Checkpoints, resume_point
from trimtab.training.encoder import calibrate_head, freeze, head_of, is_head
from trimtab.training.job import TrainingJob
from trimtab.training.trl_arguments import use_one_device

LABELS = {0: "negative", 1: "positive"}
REPORT_WORDS = 50
CALIBRATION_BINS = 10
LENGTH_GROUP = 20
"""Batches whose snippets are sorted by length together: little padding, and still a random order of batches."""


def train_reward(
    train: Sequence[Review], heldout: Sequence[Review], config: RewardConfig, assets: Assets, job: TrainingJob
) -> dict[str, Any]:
    """Train on `train`, calibrate and measure on `heldout`, save model, tokenizer and `report.json` into the folder.

    Progress counts optimizer steps.

    Returns:
        The report: `accuracy_50_words`; `accuracy` on the trained lengths; `calibration_error` (expected, 10 bins) and
        `negative_log_likelihood` (nats), each `_before` and `_after` calibration; `temperature`, `bias`, `snippets`,
        `steps`, `heldout`. The `_after` figures are cross-fitted: each half of the snippets is measured with
        the calibration of the other.

    Raises:
        ConfigurationError: `config.training` is None.
        DataError: one of the labels is missing among the reviews.
        ModelError: the encoder has no layers that `frozen_layers` could freeze, a head that cannot be calibrated or
            fewer positions than `max_length`; or training diverged.
    """
    if config.training is None:
        raise ConfigurationError("reward.training is not set: give it (it may be empty) to fine-tune the reward")
    for name, reviews in (("training", train), ("held-out", heldout)):
        if {review.label for review in reviews} != {0, 1}:
            raise DataError(f"the reward's {len(reviews)} {name} reviews lack a label: give positive and negative ones")
    set_seed(job.seed)
    rng = np.random.default_rng(job.seed)
    model, tokenizer = load_classifier(config.model, assets, allow_pickle=config.allow_pickle, num_labels=2)
    model.config.id2label, model.config.label2id = dict(LABELS), {name: index for index, name in LABELS.items()}
    head_of(model)  # refuses before training what could not be calibrated after it
    freeze(model, config.training.frozen_layers)
    _as_reward(model, tokenizer, config)  # likewise
    snippets = training_snippets(train, tokenizer, config.training, readable_length(config, model), rng)
    with job.writing():
        _fit(model, snippets, config.training, job)
        model.requires_grad_(True)
        report = {
            **_calibrate(model, _as_reward(model, tokenizer, config), heldout, config.training, rng),
            "snippets": len(snippets),
            "steps": -(-len(snippets) // config.training.batch_size),
            "heldout": len(heldout),
        }
        model.save_pretrained(job.folder)
        tokenizer.save_pretrained(job.folder)
        write_json(job.folder / "report.json", report)
    return report


def _calibrate(
    model: PreTrainedModel,
    reward: ModelReward,
    heldout: Sequence[Review],
    config: RewardTrainingConfig,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Fold the calibration into the head, and measure accuracy and calibration before and after."""
    fixed = heldout_margins(reward, heldout, (REPORT_WORDS, REPORT_WORDS), rng)
    drawn = heldout_margins(reward, heldout, config.snippet_words, rng)
    labels = np.array([review.label for review in heldout])
    calibration, judged = choose_calibration(drawn, labels)
    calibrate_head(model, calibration)
    report: dict[str, Any] = {"temperature": calibration.temperature, "bias": calibration.bias}
    for moment, margins in (("before", drawn), ("after", judged)):
        report[f"calibration_error_{moment}"] = expected_calibration_error(margins, labels, CALIBRATION_BINS)
        report[f"negative_log_likelihood_{moment}"] = negative_log_likelihood(margins, labels)
    report["accuracy"] = float(np.mean((judged > 0) == labels))
    report["accuracy_50_words"] = float(np.mean((calibration.apply(fixed) > 0) == labels))
    return report


def _batch(rows: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """The rows that the model is trained on, padded as for judging, not as the tokenizer would."""
    ids, mask = padded([row["input_ids"] for row in rows], pad)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


class _Progress(TrainerCallback):
    """Calls `advance` after each optimizer step."""

    def __init__(self, advance: Callable[[int, int], None]) -> None:
        self._advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._advance(state.global_step, state.max_steps)


def training_snippets(
    reviews: Sequence[Review],
    tokenizer: PreTrainedTokenizerBase,
    config: RewardTrainingConfig,
    max_length: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """A new snippet of every review for each epoch, encoded, in training order.

    The order is random but for length: every 20 batches' snippets are sorted into batches of like length, and those
    batches are shuffled.
    """
    drawn, order = [], []
    for epoch in range(config.epochs):
        drawn += [cut_snippet(review.text, config.snippet_words, rng) for review in reviews]
        order += (rng.permutation(len(reviews)) + epoch * len(reviews)).tolist()
    encoded = tokenizer(drawn, truncation=True, max_length=max_length, padding=False)["input_ids"]
    size, ordered = config.batch_size, []
    for start in range(0, len(order), size * LENGTH_GROUP):
        near = sorted(order[start : start + size * LENGTH_GROUP], key=lambda number: len(encoded[number]))
        whole = len(near) // size
        for batch in rng.permutation(whole).tolist():
            ordered += near[batch * size : (batch + 1) * size]
        ordered += near[whole * size :]  # only the very last batch can be short
    return [{"input_ids": encoded[number], "labels": reviews[number % len(reviews)].label} for number in ordered]


def _fit(
    model: PreTrainedModel,
    snippets: list[dict[str, Any]],
    config: RewardTrainingConfig,
    job: TrainingJob,
) -> None:
    """One pass over `snippets` in their order, by transformers' Trainer, with a linear schedule."""
    disable_dropout_in_model(model)  # one short pass cannot overfit: dropout would only slow it down
    head = [weight for name, weight in model.named_parameters() if weight.requires_grad and is_head(model, name)]
    body = [weight for name, weight in model.named_parameters() if weight.requires_grad and not is_head(model, name)]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": config.learning_rate}, {"params": head, "lr": config.head_learning_rate}],
        weight_decay=0.0,
        fused=True,
    )
    arguments = TrainingArguments(
        output_dir=str(job.checkpoints.folder),
        num_train_epochs=1,
        per_device_train_batch_size=config.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        save_strategy="no",  # but where `Checkpoints` asks
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=job.seed,
        bf16=pick_dtype(config.dtype, model.device) == torch.bfloat16,
        use_cpu=model.device.type == "cpu",
    )
    use_one_device(arguments)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=snippets,
        data_collator=partial(_batch, pad=padding_id(model) or 0),
        optimizers=(optimizer, None),
        callbacks=[_Progress(job.advance), Checkpoints(job.checkpoints)],
    )
    trainer.remove_callback(PrinterCallback)
    start = resume_point(job.checkpoints.folder)
    with attention_for(model.device, max(len(row["input_ids"]) for row in snippets)):
        trainer.train(resume_from_checkpoint=None if start is None else str(start))


def _as_reward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RewardConfig) -> ModelReward:
    """The model as the reward that it will be."""
    return classifier_reward(
        model,
        tokenizer,
        definition="margin",
        positive_label=1,
        max_length=readable_length(config, model),
        batch_size=config.batch_size,
    )


def heldout_margins(
    reward: ModelReward, reviews: Sequence[Review], words: tuple[int, int], rng: np.random.Generator
) -> Floats:
    """The reward's margin on one snippet of each review, [reviews].

    Raises:
        ModelError: a margin is not a finite number.
    """
    texts = [cut_snippet(review.text, words, rng) for review in reviews]
    margins = np.array(reward.score(texts, [""] * len(texts)))
    if not np.isfinite(margins).all():
        raise ModelError(
            f"{np.sum(~np.isfinite(margins))} of {len(texts)} margins of the reward are not finite, its training has "
            "diverged: lower reward.training.learning_rate"
        )
    return margins
