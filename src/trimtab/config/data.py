"""The part of a configuration that says which data a run starts from; `docs/own-data.md` shows each kind.

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
    """The names of columns; those that are not named are looked for under their usual names.

    `prompt` holds a text or a list of messages, `messages` a conversation, whose last answer is left out. `input` is
    put behind a prompt that is a text, `system` before it as a message. `source` says where an instruction comes from.
    """

    prompt: str | None = None
    messages: str | None = None
    input: str | None = None
    system: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _prompts_are_in_one_column(self) -> Self:
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
    """Reviews, and the prompts cut from them; or other prompts.

    `reviews` names a set of labelled reviews. Prompts are the first words of reviews, their number drawn evenly from
    `prompt_words` (both ends included). `preferences` names a preference data set (`prompt`, `responses`, `chosen`;
    splits train, validation, test), from which prompts and pairs come. `instructions` is a data set of instructions or
    conversations, from which prompts come; beside `preferences` only those to test on. The stage `sft` trains on
    `sft_reviews` and evaluates on `sft_heldout`. `reviews` is null by default beside instructions.
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
