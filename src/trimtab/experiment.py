"""The configuration of a run: one frozen object, one part for each stage.

Types only: reads no file (see `experiment_file`), no network, no models.

    >>> experiment = Experiment.model_validate({"name": "demo", "guide": {"decoders": [{"model": "large"}]}})
    >>> experiment.guide.decoders[0].name
    'base'
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimtab.experiment_guide import DecoderConfig, GuideConfig
from trimtab.experiment_models import Config, Dtype, ModelConfig, Name
from trimtab.experiment_search import EarlyRejection, SamplingConfig, TermConfig, ValueConfig
from trimtab.fields import WordRange

__all__ = [
    "Config",
    "DataConfig",
    "DecoderConfig",
    "Dtype",
    "EarlyRejection",
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
    "SynthesizeConfig",
    "TermConfig",
    "Threshold",
    "TuneConfig",
    "ValueConfig",
]


class DataConfig(Config):
    """Reviews, and the prompts cut from them.

    `reviews` names a labelled set of reviews with official halves. Prompts are the first words of reviews, their
    number drawn evenly from `prompt_words` (both ends included). `preferences` names an existing preference data set
    (`prompt`, `responses`, `chosen`; splits train, validation, test): then prompts and pairs come from it.
    """

    reviews: str = "imdb"
    preferences: str | None = None
    reward_reviews: int = Field(8000, ge=2)
    reward_heldout: int = Field(2000, ge=2)
    judge_reviews: int = Field(8000, ge=2)
    tuning_prompts: int = Field(256, ge=1)
    validation_prompts: int = Field(32, ge=1)
    test_prompts: int = Field(96, ge=1)
    prompt_words: WordRange = (2, 8)


class RewardTrainingConfig(Config):
    """How a sentence encoder is fine-tuned into the sentiment classifier.

    Each epoch cuts a new snippet of `snippet_words` (drawn evenly, both ends included) out of every review.
    Training freezes the embeddings and the lowest `frozen_layers` layers. Weights above the layers, which start
    almost untrained, learn at `head_learning_rate`. Weights are float32; what is multiplied is rounded to `dtype`
    first, for `auto` to bfloat16 where the hardware multiplies it.
    """

    epochs: int = Field(1, ge=1)
    snippet_words: WordRange = (20, 60)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float = Field(1.5e-3, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    frozen_layers: int = Field(2, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class RewardConfig(Config):
    """The gold reward: a sequence classifier with a positive and a negative label.

    `definition` is `margin`, log p(positive) - log p(negative), or `positive_logit`. With `training`, `model` is an
    encoder that is fine-tuned first; without, it is a ready classifier. `positive_label` is the index or name of the
    positive class.
    """

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    definition: Literal["margin", "positive_logit"] = "margin"
    training: RewardTrainingConfig | None = None
    positive_label: int | str = 1
    max_length: int = Field(256, ge=8)
    batch_size: int = Field(64, ge=1)
    allow_pickle: bool = False

    @model_validator(mode="before")
    @classmethod
    def _default_is_trained(cls, values: Any) -> Any:
        """The default model is a bare encoder, so leaving it means training it."""
        if isinstance(values, dict) and "model" not in values:
            return {"training": {}, **values}
        return values

    @field_validator("positive_label")
    @classmethod
    def _trained_labels_are_known(cls, label: int | str, info: ValidationInfo) -> int | str:
        if info.data.get("training") is not None and label not in (0, 1, "negative", "positive"):
            raise ValueError(f"{label!r} is no label of what training makes: give negative (0) or positive (1)")
        return label


class JudgeConfig(Config):
    """The second, independent judge (TF-IDF and logistic regression), fitted on snippets of reviews of its own."""

    snippet_words: WordRange = (15, 60)


class SynthesizeConfig(Config):
    """Samples of the untuned small model, scored by the gold reward: `samples` for each of the tuning prompts.

    `unprompted`: as many samples, but all from the model's `start_token` alone; they share one empty prompt. `rows`
    samples are decoded together: `rows // samples` prompts, which are the unit of resume.
    """

    samples: int = Field(8, ge=2)
    unprompted: bool = False
    max_new_tokens: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    rows: int = Field(256, ge=1)


class Threshold(Config):
    """A reward: an absolute `value`, or a `quantile` of all rewards of the training generations."""

    value: float | None = None
    quantile: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.value is None) == (self.quantile is None):
            raise ValueError("give either value or quantile")
        return self


class PairsConfig(Config):
    """Which two responses make a pair, and who wins.

    `margin` is used by the strategy `margin` (rewards differ by more than that; a quantile is one of all differences
    of two responses to one prompt), `threshold` by `straddle` (one response below, one above).
    `per_prompt` pairs are made of each prompt's responses at most. `unprompted` responses all share one prompt, from
    which `total` pairs are drawn.
    """

    strategy: Literal["random", "margin", "straddle", "best_worst"] = "best_worst"
    labels: Literal["bradley_terry", "argmax"] = "argmax"
    per_prompt: int = Field(1, ge=1)
    total: int | None = Field(None, ge=1)
    margin: Threshold = Threshold(value=1.0)
    threshold: Threshold = Threshold(quantile=0.5)


class LoraSettings(Config):
    """A LoRA adapter. `top_layers` puts it on that many of the uppermost layers only; None puts it on all."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    top_layers: int | None = Field(None, ge=1)


class TuneConfig(Config):
    """Preference tuning with TRL's DPOTrainer.

    `loss`: `sigmoid` is DPO, `hinge` is SLiC-HF's calibration term, `hinge_sft` adds `sft_weight` times the
    likelihood of the chosen response, SLiC-HF's regulariser. Full fine-tuning where `lora` is None.
    `evaluations` are spread evenly over the run; the model of the best one (lowest validation loss) is kept.
    """

    loss: Literal["sigmoid", "hinge", "hinge_sft"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(0.1, gt=0)
    lora: LoraSettings | None = LoraSettings()
    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    optimizer: Literal["adamw_torch", "rmsprop"] = "adamw_torch"
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    evaluations: int = Field(4, ge=1)
    logging_steps: int = Field(5, ge=1)
    max_length: int = Field(512, ge=8)
    trackers: tuple[str, ...] = ()


class EvaluateConfig(Config):
    """What is measured. Intervals are percentile bootstraps over prompts."""

    bootstrap: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    examples: int = Field(4, ge=0)


class Experiment(Config):
    """A whole run, from reviews to report. `small` is the model that is tuned, `large` the frozen one it guides."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    checkpoint_seconds: float = Field(300, ge=0)  # what a killed training loses, about; it changes no result
    small: ModelConfig = ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    large: ModelConfig = ModelConfig(name="google/gemma-3-270m", template="Here is a movie review from imdb: {prompt}")
    data: DataConfig = DataConfig()
    reward: RewardConfig = RewardConfig(training=RewardTrainingConfig())
    judge: JudgeConfig = JudgeConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    pairs: PairsConfig = Field(PairsConfig(), validate_default=True)
    tune: TuneConfig = TuneConfig()
    guide: GuideConfig = GuideConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("pairs")
    @classmethod
    def _unprompted_pairs_are_counted(cls, pairs: PairsConfig, info: ValidationInfo) -> PairsConfig:
        data, synthesize = (
            info.data.get("data"),
            info.data.get("synthesize"),
        )  # None where they have faults of their own
        if data and synthesize and data.preferences is None and synthesize.unprompted and pairs.total is None:
            raise ValueError("synthesize.unprompted shares one prompt: say in pairs.total how many pairs to make of it")
        return pairs
