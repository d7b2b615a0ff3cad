"""The part of a configuration that says where instructions come from: a data set of prompts or conversations.

Types only: reads no file, no network, no models. `docs/own-data.md` shows each kind.

    >>> InstructionsConfig.model_validate("tatsu-lab/alpaca_eval").name
    'tatsu-lab/alpaca_eval'
"""

import datetime
from typing import Any, Self

from pydantic import Field, model_validator

from trimtab.config.models import Config, equals
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
    files: str | None = Field(None, exclude_if=equals(None))
    columns: ColumnsConfig = Field(ColumnsConfig(), exclude_if=equals(ColumnsConfig()))

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        if values == [None]:  # as YAML reads a `-`
            return {"name": "-"}
        if isinstance(values, bool | int | float | datetime.date):
            raise ValueError(f"{values} is no name: {text_wanted(values)}")
        return {"name": values} if isinstance(values, str) else values
