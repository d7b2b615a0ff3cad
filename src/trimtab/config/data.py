"""The part of a configuration that says which data a run starts from; `docs/own-data.md` shows each kind.

>>> InstructionsConfig.model_validate("tatsu-lab/alpaca_eval").name
'tatsu-lab/alpaca_eval'
"""

from typing import Any, Self

from pydantic import Field, model_validator

from trimtab.config.fields import WordRange
from trimtab.config.models import Config


class ColumnsConfig(Config):
    """The names of columns in a file of prompts."""

    prompt: str | None = Field(None, examples=["question"])
    """A text, or a list of messages."""
    messages: str | None = Field(None, examples=["messages"])
    """A conversation, as a list of messages. It is cut after the last message of the user."""
    input: str | None = Field(None, examples=["context"])
    """A text that is put behind the prompt, after an empty line."""
    system: str | None = Field(None, examples=["system_prompt"])
    """A system message for the prompt of this row."""
    source: str | None = Field(None, examples=["topic"])
    """Where the prompt comes from: a text or a whole number, which exports keep."""

    @model_validator(mode="after")
    def _prompts_are_in_one_column(self) -> Self:
        beside = [name for name in ("prompt", "input", "system") if vars(self)[name] is not None]
        if self.messages is not None and beside:
            raise ValueError(f"messages holds whole conversations: drop {' and '.join(beside)}")
        return self


class InstructionsConfig(Config):
    """A data set of prompts, which are texts or conversations. A text stands for its `name`."""

    shorthand = "name"

    name: str = Field(min_length=1, examples=["prompts.csv"])
    """A file (JSON lines, JSON, CSV, Parquet, Arrow, or text with a prompt a line), a folder of such files, a name on
    the `datasets` hub, `trimtab/instructions`, or `-` for standard input."""
    files: str | None = Field(None, examples=["data/test-*"])
    """Which files of a folder or hub data set are read, as a pattern; without it all."""
    columns: ColumnsConfig = ColumnsConfig()
    """The names of the columns; those that are not named are looked for under their usual names."""


class DataConfig(Config):
    """Where prompts come from: labelled reviews, a data set of prompts, or preference data.

    A text stands for `instructions`, a data set of prompts.
    """

    shorthand = "instructions"

    reviews: str | None = Field("imdb", examples=["imdb"])
    """A set of labelled reviews: prompts are cut from them, and a reward and the second judge are trained on them. Null
    by default beside `instructions`; without reviews there is no second judge."""
    instructions: InstructionsConfig | None = Field(None, examples=["prompts.csv"])
    """A data set of prompts: texts or conversations. Beside `preferences`, the test prompts alone."""
    preferences: str | None = Field(None, examples=["ZHZisZZ/imdb_preference"])
    """A preference data set with the splits `train` and `validation`. Pairs come from it and nothing is sampled for
    them; its split `test` gives the test prompts unless there are `instructions`."""
    reward_reviews: int = Field(8000, ge=2, examples=[12000])
    """Reviews that a trained reward learns from."""
    reward_heldout: int = Field(2000, ge=2, examples=[2000])
    """Reviews that a trained reward is checked and calibrated on."""
    judge_reviews: int = Field(8000, ge=2, examples=[8000])
    """Reviews that the second judge learns from."""
    tuning_prompts: int = Field(256, ge=1, examples=[192])
    """Prompts whose responses become the pairs to tune on."""
    validation_prompts: int = Field(32, ge=1, examples=[16])
    """Prompts whose responses become the pairs that the tuning is validated on."""
    test_prompts: int = Field(96, ge=1, examples=[96])
    """Prompts that every decoder responds to; the table is about these responses."""
    prompt_words: WordRange = Field((2, 8), examples=[[2, 8]])
    """Least and greatest number of words of a prompt that is cut from a review; drawn evenly."""
    sft_reviews: int = Field(0, ge=0, examples=[600])
    """Reviews that the stage `sft` trains on."""
    sft_heldout: int = Field(64, ge=1, examples=[32])
    """Reviews that the stage `sft` is validated on."""

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
