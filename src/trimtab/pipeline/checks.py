"""What steps name is found, fits together and has data, before anything has run for minutes.

Loads tokenizers and the first rows of data sets at most, never weights; imports modules of users' functions.

    >>> check_steps(steps(experiment), experiment, Assets())                                # doctest: +SKIP
    ['data: 192 prompts to tune on, 96 to test', 'small: ...']
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.config.experiment import Experiment
from trimtab.config.fields import CHAT
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.training import TrainingConfig, TuneConfig
from trimtab.errors import AbsentError, ConfigurationError, TrimtabError
from trimtab.pipeline.known_prompts import KnownPrompts, known_prompts
from trimtab.pipeline.model_checks import Models
from trimtab.pipeline.reward_checks import check_function, check_reward
from trimtab.pipeline.step import Step

Line = tuple[Sequence[Step], Experiment]


def check_steps(steps: Iterable[Step], experiment: Experiment, assets: Assets) -> list[str]:
    """Check what these steps of an experiment name: data, models, prompts, rewards, functions and trackers.

    Returns:
        Lines about what was looked at, and about what was not since it is not on this machine yet.

    Raises:
        AssetError: a name resolves to nothing that may be read.
        DataError: data cannot be read, lack a column, or are fewer than asked for.
        ModelError: a model is cut off, is none that writes texts, or cannot be shown the prompts.
        VocabularyError: a decoder adds logits of models with different vocabularies.
        ConfigurationError: a function is not there or takes other arguments, a setting does not fit a model, a tracker
            is not installed; or there are faults of several kinds, which it lists.
    """
    return check_lines([(list(steps), experiment)], assets)


def check_lines(lines: Iterable[Line], assets: Assets) -> list[str]:
    """`check_steps` of several experiments, such as the runs of a study, each model and data set once."""
    models, findings = Models(assets), _Findings()
    for steps, experiment in lines:
        _check_line(steps, experiment, assets, models, findings)
    faults = list({str(fault): fault for fault in findings.faults}.values())
    if faults:
        kinds = {type(fault) for fault in faults}
        raise (kinds.pop() if len(kinds) == 1 else ConfigurationError)("; ".join(map(str, faults)))
    absent = [f"not checked: {line}" for line in findings.absent]
    return list(dict.fromkeys([*findings.lines, *models.lines, *absent]))


class _Findings:
    """Faults, what is not on this machine yet, and lines about what was looked at."""

    def __init__(self) -> None:
        self.faults: list[TrimtabError] = []
        self.absent: list[str] = []
        self.lines: list[str] = []

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, an error becomes a finding, so that others are found, too."""
        try:
            yield
        except AbsentError as error:
            self.absent.append(str(error))
        except TrimtabError as error:
            self.faults.append(error)


def _check_line(
    steps: Sequence[Step], experiment: Experiment, assets: Assets, models: Models, findings: _Findings
) -> None:
    parts = list(dict.fromkeys(part for step in steps for part in step.parts.values() if isinstance(part, _CHECKED)))
    prompts: KnownPrompts | None = None
    if parts:
        with findings.collecting():
            prompts = known_prompts(experiment.data, experiment.seed, assets)
            findings.lines.append(_data_line(experiment.data, prompts))
            _check_conversations(experiment, prompts)
    for part in parts:
        with findings.collecting():
            if isinstance(part, ModelConfig):
                models.check(part)
            elif isinstance(part, RewardConfig):
                check_reward(part, assets, prompts)
            elif isinstance(part, TrainingConfig):
                models.check_trainable(experiment.small, part, "tune" if isinstance(part, TuneConfig) else "sft")
                _check_trackers(part)
            elif isinstance(part, DecoderConfig):
                for value in part.value:
                    check_function(value.function, prompts)
    for step in steps:
        with findings.collecting():
            models.check_step(step, experiment, prompts)


_CHECKED = (ModelConfig, RewardConfig, TrainingConfig, DecoderConfig, DataConfig)


def _data_line(config: DataConfig, prompts: KnownPrompts) -> str:
    instructions = None if config.instructions is None else config.instructions.name
    names = [config.reviews, config.preferences, instructions]
    counts = f"{len(prompts.tuning)} prompts to tune and validate on, {len(prompts.test)} to test on"
    if not prompts.whole:
        counts = "the first rows of it; the step data reads all"
    return f"data: {', '.join(filter(None, names))}: {counts}"


def _check_trackers(config: TrainingConfig) -> None:
    if isinstance(config, TuneConfig) and config.trackers:
        from trimtab.training.trackers import check_trackers  # late: it imports trainers, which takes seconds

        check_trackers(config.trackers)  # no identity holds them: a tuned model that is used again has none


def _check_conversations(experiment: Experiment, prompts: KnownPrompts) -> None:
    """Raise ConfigurationError where instructions are lists of messages and a model is not shown conversations."""
    config = experiment.data.instructions
    if config is None or all(isinstance(prompt, str) for prompt in prompts.test):
        return
    for part, model in (("small", experiment.small), ("large", experiment.large)):
        if model is not None and not model.chat:
            raise ConfigurationError(
                f"the prompts of {config.name} are conversations and {part}.template is {model.template!r}: write "
                f"{part}.template: {CHAT}"
            )
