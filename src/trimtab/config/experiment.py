"""The configuration of a run: one frozen object, one part for each stage.

Types only: reads no file (see `experiment_file`), no network, no models.

    >>> experiment = Experiment.model_validate({"name": "demo", "guide": {"decoders": [{"model": "large"}]}})
    >>> experiment.guide.decoders[0].name
    'base'
"""

from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimtab.config.data import InstructionsConfig
from trimtab.config.fields import Rows, WordRange
from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.guides import tuned_like
from trimtab.config.models import Config, Dtype, EndpointConfig, ModelConfig, Name, equals
from trimtab.config.pairs import PairsConfig, Threshold
from trimtab.config.reward import RewardConfig, RewardTrainingConfig
from trimtab.config.search import EarlyRejection, SamplingConfig, TermConfig, ValueConfig
from trimtab.config.training import LoraSettings, SftConfig, TrainingConfig, TuneConfig

__all__ = [
    "Config",
    "DataConfig",
    "DecoderConfig",
    "Dtype",
    "EarlyRejection",
    "EndpointConfig",
    "EvaluateConfig",
    "Experiment",
    "GuideConfig",
    "JudgeConfig",
    "LoraSettings",
    "ModelConfig",
    "PairsConfig",
    "RewardConfig",
    "RewardTrainingConfig",
    "SamplingConfig",
    "SftConfig",
    "SynthesizeConfig",
    "TermConfig",
    "Threshold",
    "TrainingConfig",
    "TuneConfig",
    "ValueConfig",
]


class DataConfig(Config):
    """Reviews, and the prompts cut from them.

    `reviews` names a labelled set of reviews with official halves. Prompts are the first words of reviews, their
    number drawn evenly from `prompt_words` (both ends included). `preferences` names an existing preference data set
    (`prompt`, `responses`, `chosen`; splits train, validation, test): then prompts and pairs come from it.
    `sft_reviews` and `sft_heldout` are what the stage `sft` trains and evaluates on.
    `instructions` is a data set of instructions or conversations: then prompts come from it, with `preferences` those
    to test on alone. Without `reviews`, which are null by default beside instructions, there is no second judge.
    """

    reviews: str | None = "imdb"
    instructions: InstructionsConfig | None = Field(None, exclude_if=equals(None))
    preferences: str | None = None
    reward_reviews: int = Field(8000, ge=2)
    reward_heldout: int = Field(2000, ge=2)
    judge_reviews: int = Field(8000, ge=2)
    tuning_prompts: int = Field(256, ge=1)
    validation_prompts: int = Field(32, ge=1)
    test_prompts: int = Field(96, ge=1)
    prompt_words: WordRange = (2, 8)
    sft_reviews: int = Field(0, ge=0, exclude_if=equals(0))
    sft_heldout: int = Field(64, ge=1, exclude_if=equals(64))

    @model_validator(mode="before")
    @classmethod
    def _instructions_need_no_reviews(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("instructions") is not None and "reviews" not in values:
            return {"reviews": None, **values}
        return values

    @model_validator(mode="after")
    def _prompts_come_from_somewhere(self) -> Self:
        if self.reviews is None and self.instructions is None and self.preferences is None:
            raise ValueError(
                "reviews is null and there are no other prompts: give reviews, instructions or preferences"
            )
        return self

    @property
    def tests_on_pairs(self) -> bool:
        """Whether the test prompts are those of the preference data set."""
        return self.preferences is not None and self.instructions is None


class JudgeConfig(Config):
    """The second, independent judge (TF-IDF and logistic regression), fitted on snippets of reviews of its own."""

    snippet_words: WordRange = (15, 60)


class SynthesizeConfig(Config):
    """Samples of the untuned small model, scored by the gold reward: `samples` for each of the tuning prompts.

    `unprompted`: as many samples, but all from the model's `start_token` alone; they share one empty prompt. `rows`
    samples are decoded together: `rows // samples` prompts, which are the unit of resume; `auto` as for `guide.rows`.
    """

    samples: int = Field(8, ge=2)
    unprompted: bool = False
    max_new_tokens: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    rows: Rows = 256


class EvaluateConfig(Config):
    """What is measured. Intervals are percentile bootstraps over prompts.

    The share of responses with a reward below `threshold` is counted; a quantile or deviations are of the untuned
    model's rewards. The tuned model's KL divergence from the untuned one is estimated on the first
    `kl_samples` of its own responses; 0 leaves it out.
    """

    bootstrap: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    examples: int = Field(4, ge=0)
    threshold: Threshold | None = Field(None, exclude_if=equals(None))
    kl_samples: int = Field(0, ge=0, exclude_if=equals(0))


class Experiment(Config):
    """A whole run, from reviews to report. `small` is the model that is tuned, `large` the frozen one it guides.

    `large` may be null where no decoder uses it. With `sft`, the small model is first trained on reviews, and what
    comes of it is the untuned model of all that follows.
    Where `guide.tuned` names a tuned model, `small` is its untuned self, and nothing is sampled from it or tuned.
    """

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    checkpoint_seconds: float = Field(300, ge=0)  # what a killed training loses, about; it changes no result
    small: ModelConfig = ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    large: ModelConfig | None = ModelConfig(
        name="google/gemma-3-270m", template="Here is a movie review from imdb: {prompt}"
    )
    data: DataConfig = DataConfig()
    reward: RewardConfig = Field(RewardConfig(training=RewardTrainingConfig()), validate_default=True)
    judge: JudgeConfig = JudgeConfig()
    sft: SftConfig | None = Field(None, exclude_if=equals(None))
    synthesize: SynthesizeConfig = SynthesizeConfig()
    pairs: PairsConfig = Field(PairsConfig(), validate_default=True)
    tune: TuneConfig = TuneConfig()
    guide: GuideConfig = Field(GuideConfig(), validate_default=True)
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def base(self) -> ModelConfig:
        """The model whose unguided likelihood fluency is, and whose tokens are counted: the small one without a
        large one."""
        return self.small if self.large is None else self.large

    # In validators a part is missing from `info.data` where it has faults of its own.

    @field_validator("sft")
    @classmethod
    def _sft_has_reviews(cls, sft: SftConfig | None, info: ValidationInfo) -> SftConfig | None:
        data, small = info.data.get("data"), info.data.get("small")
        if sft is not None and data is not None and data.sft_reviews == 0:
            raise ValueError("it trains on reviews of its own: say in data.sft_reviews how many")
        if sft is not None and small is not None and small.chat:
            raise ValueError("it trains on plain texts and small.template is chat: give small.template as a text")
        return sft

    @field_validator("reward")
    @classmethod
    def _training_has_reviews(cls, reward: RewardConfig, info: ValidationInfo) -> RewardConfig:
        data = info.data.get("data")
        if data and data.reviews is None and reward.training is not None:
            raise ValueError("training wants labelled reviews: give data.reviews, or a reward that needs no training")
        return reward

    @model_validator(mode="before")
    @classmethod
    def _tuned_is_shown_as_small_is(cls, values: Any) -> Any:
        match values:
            case {"small": dict(small), "guide": {"tuned": dict(tuned), **rest}}:
                return {**values, "guide": {**rest, "tuned": tuned_like(tuned, small)}}
        return values

    @model_validator(mode="after")
    def _nothing_is_tuned_twice(self) -> Self:
        unread = sorted({"sft", "synthesize", "pairs", "tune"} & self.model_fields_set)
        if self.guide.tuned is not None and unread:
            raise ValueError(f"guide.tuned names a tuned model, so that nothing is tuned: drop {', '.join(unread)}")
        return self

    @property
    def tunes(self) -> bool:
        """Whether the small model is tuned; else a tuned one is there already."""
        return self.guide.tuned is None

    @field_validator("pairs")
    @classmethod
    def _unprompted_pairs_are_counted(cls, pairs: PairsConfig, info: ValidationInfo) -> PairsConfig:
        data, synthesize = info.data.get("data"), info.data.get("synthesize")
        if data and synthesize and data.preferences is None and synthesize.unprompted and pairs.total is None:
            raise ValueError("synthesize.unprompted shares one prompt: say in pairs.total how many pairs to make of it")
        return pairs

    @field_validator("guide")
    @classmethod
    def _large_is_there_where_used(cls, guide: GuideConfig, info: ValidationInfo) -> GuideConfig:
        users = [each.name for each in guide.decoders if each.best_of is None and each.model == "large"]
        if users and info.data.get("large", users) is None:
            raise ValueError(f"{', '.join(users)} decodes with the large model and large is null: name one, or drop it")
        return guide

    @field_validator("evaluate")
    @classmethod
    def _compared_models_are_sampled(cls, evaluate: EvaluateConfig, info: ValidationInfo) -> EvaluateConfig:
        guide = info.data.get("guide")
        plain = [each.model for each in guide.decoders if each.plain] if guide else ["untuned", "tuned"]
        if evaluate.kl_samples and "tuned" not in plain:
            raise ValueError("kl_samples are the tuned model's own and no decoder samples it: add {model: tuned}")
        if evaluate.threshold is not None and evaluate.threshold.value is None and "untuned" not in plain:
            raise ValueError("threshold is relative to the untuned model's rewards: give a value, or {model: untuned}")
        return evaluate

    @field_validator("small")
    @classmethod
    def _small_is_here(cls, small: ModelConfig) -> ModelConfig:
        if small.endpoint is not None:
            raise ValueError("small is tuned and guides by its logits, which no endpoint gives: drop its endpoint")
        return small

    @field_validator("guide")
    @classmethod
    def _closed_base_gives_text_alone(cls, guide: GuideConfig, info: ValidationInfo) -> GuideConfig:
        large = info.data.get("large")
        if large is None or large.endpoint is None:
            return guide
        faults = [
            f"{decoder.name} needs {what}, and large is behind an endpoint, which gives text alone: drop {setting}"
            for decoder in guide.decoders
            for setting, what, used in decoder.beyond_text
            if decoder.model == "large" and used
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return guide
