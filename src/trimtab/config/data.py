"""The part of a configuration that says which data a run starts from: reviews, prompts and instructions.

Types only: reads no file, no network, no models. `docs/own-data.md` shows each kind.

    >>> InstructionsConfig.model_validate("tatsu-lab/alpaca_eval").name
    'tatsu-lab/alpaca_eval'
"""

import datetime
from typing import Any, Self

from pydantic import Field, model_validator

from trimtab.config.fields import WordRange
from trimtab.config.models import Config
from trimtab.config.yaml_values import text_wanted


class ColumnsConfig(Config):
    """Which columns say what. What is not named is looked for under its usual names.

    `prompt` holds a text or a list of messages, `messages` conversations, whose last answer is left out. Beside a text
    `input` is put behind it and `system` before it as a message; `source` says where an instruction comes from.
    """

    prompt: str | None = None
    messages: str | None = None
    input: str | None = None
    system: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _prompts_stand_in_one_place(self) -> Self:
        beside = [name for name in ("prompt", "input", "system") if vars(self)[name] is not None]
        if self.messages is not None and beside:
            raise ValueError(f"messages holds whole conversations: drop {' and '.join(beside)}")
        return self


class InstructionsConfig(Config):
    """A data set of instructions: a `datasets` name, a folder, a file (JSON lines, JSON, CSV, Parquet, Arrow, or plain
    text with a prompt a line), `trimtab/instructions`, or `-` for standard input. Of a folder `files` is read, a
    pattern such as `alpaca_eval.json` or `data/test-*`; without it every such file."""

    name: str = Field(min_length=1)
    files: str | None = None
    columns: ColumnsConfig = ColumnsConfig()

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        if values == [None]:  # as YAML reads a `-`
            return {"name": "-"}
        if isinstance(values, bool | int | float | datetime.date):
            raise ValueError(f"{values} is no name: {text_wanted(values)}")
        return {"name": values} if isinstance(values, str) else values


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
    instructions: InstructionsConfig | None = None
    preferences: str | None = None
    reward_reviews: int = Field(8000, ge=2)
    reward_heldout: int = Field(2000, ge=2)
    judge_reviews: int = Field(8000, ge=2)
    tuning_prompts: int = Field(256, ge=1)
    validation_prompts: int = Field(32, ge=1)
    test_prompts: int = Field(96, ge=1)
    prompt_words: WordRange = (2, 8)
    sft_reviews: int = Field(0, ge=0)
    sft_heldout: int = Field(64, ge=1)

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
