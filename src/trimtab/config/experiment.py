"""The configuration of a run: one frozen object, one part for each stage.

>>> experiment = Experiment.model_validate({"name": "demo", "guide": {"decoders": [{"model": "large"}]}})
>>> experiment.guide.decoders[0].name
'base'
"""

from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimtab.config.data import DataConfig
from trimtab.config.evaluate import EvaluateConfig
from trimtab.config.fields import Plugins
from trimtab.config.guide import GuideConfig
from trimtab.config.models import Config, ModelConfig, Name, tuned_like
from trimtab.config.pairs import PairsConfig, SynthesizeConfig
from trimtab.config.reward import JudgeConfig, RewardConfig, RewardTrainingConfig
from trimtab.config.training import SftConfig, TuneConfig


def _judge_beside(reward: RewardConfig | None) -> JudgeConfig | None:
    """The judge of an experiment that names none: the reviews that it reads must mean what the gold reward measures."""
    return None if reward is None or reward.training is None else JudgeConfig()


class Experiment(Config):
    """A whole run, from prompts to the report."""

    name: Name = Field(examples=["my-experiment"])
    """The name of the run directory, of letters, digits, dots, hyphens and underscores."""
    # plugins stand before the parts that use them: pydantic keeps this order
    plugins: Plugins = Field((), validate_default=True, examples=[["my_plugin.py"]])
    """Modules or files that add losses, pair strategies, reward kinds, values or columns."""
    seed: int = Field(0, ge=0, lt=2**31, examples=[1])
    """The seed of all random numbers."""
    checkpoint_seconds: float = Field(300, ge=0, examples=[60])
    """Seconds between two checkpoints of a training, and so roughly what a killed one loses."""
    small: ModelConfig = ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    """The model that is tuned, and that guides the large one together with its untuned self."""
    large: ModelConfig | None = ModelConfig(
        name="google/gemma-3-270m", template="Here is a movie review from imdb: {prompt}"
    )
    """The frozen model that is steered; null where no decoder uses one."""
    data: DataConfig = DataConfig()
    """Where prompts come from."""
    reward: RewardConfig = Field(RewardConfig(training=RewardTrainingConfig()), validate_default=True)
    """The gold reward: what the small model is tuned towards and decoders are measured by."""
    judge: JudgeConfig | None = Field(
        default_factory=lambda parts: _judge_beside(parts.get("reward")), examples=["sentiment"]
    )
    """The second, independent judge of texts; by default only beside a reward that is trained on labelled reviews."""
    sft: SftConfig | None = Field(None, examples=[{"max_length": 72}])
    """With it, the small model is first trained on reviews, and the result is the untuned model of all that follows."""
    synthesize: SynthesizeConfig = SynthesizeConfig()
    """How the untuned small model's responses to the tuning prompts are sampled."""
    pairs: PairsConfig = Field(PairsConfig(), validate_default=True)
    """Which two responses make a preference pair."""
    tune: TuneConfig = TuneConfig()
    """How the small model is tuned on the pairs."""
    guide: GuideConfig = Field(GuideConfig(), validate_default=True)
    """How the test prompts are decoded, and by which decoders."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""

    @property
    def base(self) -> ModelConfig:
        """The model that fluency is measured by and whose tokens are counted: `large`, else `small`."""
        return self.small if self.large is None else self.large

    @property
    def tunes(self) -> bool:
        """Whether the small model is tuned in this run, and not tuned already."""
        return self.guide.tuned is None

    @property
    def steers_itself(self) -> bool:
        """Whether the large model is the small one, untuned."""
        large, small = self.large, self.small
        return large is not None and self.sft is None and (large.name, large.adapter) == (small.name, small.adapter)

    @model_validator(mode="before")
    @classmethod
    def _tuned_is_shown_prompts_as_small_is(cls, values: Any) -> Any:
        match values:
            case {"small": small, "guide": {"tuned": tuned, **rest}}:
                return {**values, "guide": {**rest, "tuned": tuned_like(tuned, small)}}
        return values

    # Field validators, and no single model validator, so that the faults of all parts are reported at once. A part that
    # has faults of its own is missing from `info.data`.

    @field_validator("small")
    @classmethod
    def _small_is_local(cls, small: ModelConfig) -> ModelConfig:
        if small.endpoint is not None:
            raise ValueError("small is tuned and guides by its logits, which no endpoint gives: drop its endpoint")
        return small

    @field_validator("reward")
    @classmethod
    def _reward_training_has_reviews(cls, reward: RewardConfig, info: ValidationInfo) -> RewardConfig:
        data = info.data.get("data")
        if data and data.reviews is None and reward.training is not None:
            raise ValueError("training wants labelled reviews: give data.reviews, or a reward that needs no training")
        return reward

    @field_validator("judge")
    @classmethod
    def _judge_has_reviews(cls, judge: JudgeConfig | None, info: ValidationInfo) -> JudgeConfig | None:
        data = info.data.get("data")
        if judge and data and data.reviews is None:
            raise ValueError("it is fitted on labelled reviews: give data.reviews, or drop judge")
        return judge

    @field_validator("sft")
    @classmethod
    def _sft_has_plain_reviews(cls, sft: SftConfig | None, info: ValidationInfo) -> SftConfig | None:
        data, small = info.data.get("data"), info.data.get("small")
        if sft and data and data.sft_reviews == 0:
            raise ValueError("it trains on reviews of its own: say in data.sft_reviews how many")
        if sft and small and small.chat:
            raise ValueError("it trains on plain texts and small.template is chat: give small.template as a text")
        return sft

    @field_validator("pairs")
    @classmethod
    def _unprompted_pairs_have_a_total(cls, pairs: PairsConfig, info: ValidationInfo) -> PairsConfig:
        data, synthesize = info.data.get("data"), info.data.get("synthesize")
        if data and synthesize and data.preferences is None and synthesize.unprompted and pairs.total is None:
            raise ValueError("synthesize.unprompted shares one prompt: say in pairs.total how many pairs to make of it")
        return pairs

    @field_validator("guide")
    @classmethod
    def _large_can_do_what_decoders_ask(cls, guide: GuideConfig, info: ValidationInfo) -> GuideConfig:
        users = [decoder for decoder in guide.decoders if decoder.best_of is None and decoder.model == "large"]
        if "large" not in info.data or not users:
            return guide
        large = info.data["large"]
        if large is None:
            names = ", ".join(decoder.name for decoder in users)
            raise ValueError(f"{names} decodes with the large model and large is null: name one, or drop it")
        faults = [
            f"{decoder.name} needs {what}, and large is behind an endpoint, which gives text alone: drop {setting}"
            for decoder in users
            for setting, what in decoder.beyond_text
            if large.endpoint is not None
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return guide

    @field_validator("evaluate")
    @classmethod
    def _compared_models_are_sampled(cls, evaluate: EvaluateConfig, info: ValidationInfo) -> EvaluateConfig:
        guide = info.data.get("guide")
        plain = [decoder.model for decoder in guide.decoders if decoder.plain] if guide else ["untuned", "tuned"]
        if evaluate.kl_samples and "tuned" not in plain:
            raise ValueError("kl_samples are the tuned model's own and no decoder samples it: add {model: tuned}")
        if evaluate.threshold is not None and evaluate.threshold.value is None and "untuned" not in plain:
            raise ValueError("threshold is relative to the untuned model's rewards: give a value, or {model: untuned}")
        return evaluate

    @model_validator(mode="after")
    def _nothing_is_tuned_twice(self) -> Self:
        unread = sorted({"sft", "synthesize", "pairs", "tune"} & self.model_fields_set)
        if self.guide.tuned is not None and unread:
            raise ValueError(f"guide.tuned names a tuned model, so that nothing is tuned: drop {', '.join(unread)}")
        return self
