"""TRL's arguments for a tuning configuration."""

from pathlib import Path

from transformers import PreTrainedModel
from trl import DPOConfig

from trimtab.config.training import TuneConfig
from trimtab.store.distributed import launched
from trimtab.training.losses import LOSSES
from trimtab.training.trackers import PROJECT, begun_by_the_trainer
from trimtab.training.trl_arguments import shared_arguments, use_one_device


def trainer_arguments(model: PreTrainedModel, config: TuneConfig, folder: Path, seed: int, steps: int) -> DPOConfig:
    """TRL's arguments.

    Raises:
        ConfigurationError: the launch asks for what the processes cannot do.
        ModelError: the weights are float16, which cannot be trained without a float32 copy.
    """
    likelihood = {"sft": config.sft_weight} if LOSSES[config.loss].with_likelihood else {}
    arguments = DPOConfig(
        **shared_arguments(model, config, folder, seed, steps),
        loss_type=[config.loss, *likelihood],
        loss_weights=[1.0, *likelihood.values()],
        beta=config.beta,
        disable_dropout=False,  # done by the caller
        precompute_ref_log_probs=True,
        report_to=begun_by_the_trainer(config.trackers) if launched().main else "none",
        project=PROJECT,
    )
    use_one_device(arguments)
    return arguments
