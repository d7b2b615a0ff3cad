"""What a tuning configuration is to TRL: losses, and the trainer's arguments.

The losses are TRL's own.

    >>> LOSSES["hinge_sft"](TuneConfig(loss="hinge_sft", sft_weight=0.1))
    (['hinge', 'sft'], [1.0, 0.1])
"""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel
from trl import DPOConfig

from trimtab.config.training import TuneConfig
from trimtab.store.distributed import launched
from trimtab.training.trackers import PROJECT, begun_by_the_trainer
from trimtab.training.trl_arguments import shared_arguments, use_one_device

# Each gives TRL's names of the terms and their weights. With margin = beta * ((log p(chosen) - log p(rejected)) - the
# same of the reference): sigmoid = -log sigmoid(margin), hinge = max(0, 1 - margin), sft = -log p(chosen) a token.
LOSSES: dict[str, Callable[[TuneConfig], tuple[list[str], list[float]]]] = {
    "sigmoid": lambda config: (["sigmoid"], [1.0]),
    "hinge": lambda config: (["hinge"], [1.0]),
    "hinge_sft": lambda config: (["hinge", "sft"], [1.0, config.sft_weight]),
}


def trainer_arguments(model: PreTrainedModel, config: TuneConfig, folder: Path, seed: int, steps: int) -> DPOConfig:
    """TRL's arguments.

    Raises:
        ConfigurationError: the launch asks for what the processes cannot do.
        ModelError: the weights are float16, which cannot be trained without a float32 copy.
    """
    losses, weights = LOSSES[config.loss](config)
    arguments = DPOConfig(
        **shared_arguments(model, config, folder, seed, steps),
        loss_type=losses,
        loss_weights=weights,
        beta=config.beta,
        disable_dropout=False,  # done by the caller
        precompute_ref_log_probs=True,
        report_to=begun_by_the_trainer(config.trackers) if launched().main else "none",
        project=PROJECT,
    )
    use_one_device(arguments)
    return arguments
