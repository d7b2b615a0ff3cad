"""All generations of a run as a table, a row for each: CSV, JSON lines, or a folder that `datasets` loads.

$ trimtab export runs/quickstart --csv generations.csv
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigurationError
from trimtab.evaluation.coverage import set_aside
from trimtab.pipeline.decoded import Decoded
from trimtab.records import SET_ASIDE
from trimtab.report.tables import csv_text
from trimtab.store.files import write_text

Row = dict[str, Any]
COLUMNS = {
    "decoder": "string",
    "prompt_id": "string",
    "prompt": "string",  # or a list of messages
    "source": "string",
    "candidate": "int64",
    "chosen": "bool",
    "text": "string",
    "finish": "string",
    "tokens": "int64",
    "value": "float64",
    "reward": "float64",
    "positive": "bool",
    "judge": "float64",
    "fluency": "float64",
    "set_aside": "string",
}
"""The columns, and what `datasets` calls their types."""


def check_new(path: Path) -> None:
    """Check that a file or folder can be created.

    Raises:
        ConfigurationError: it exists, or the folder that it is to lie in does not.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists: delete it, or give another name")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written, there is no folder {path.parent}: create it")


def rows_of(decoded: Decoded) -> Iterator[Row]:
    """A row for each generation of a decoder, prompts in order.

    `candidate` numbers the generations of a prompt, and the `chosen` one is the decoder's answer. It alone is scored:
    `reward`, `positive` (whether that is above 0), `judge`, and `fluency`, the mean log-probability of a token in nats
    under the unguided base; of other candidates `reward` is known where the search took it. `value` is that of the
    search. What is unknown or not a finite number is None. `set_aside` says why a prompt does not count.
    """
    chosen = {answer.prompt_id: answer.index for answer in decoded.answers}
    scores = {score.prompt_id: score for score in decoded.scores}
    reasons = {one.prompt_id: SET_ASIDE[one.finish] for one in decoded.generations if one.finish in SET_ASIDE}
    reasons |= {one.prompt_id: one.why for one in set_aside(decoded.decoder, decoded.generations, decoded.scores)}
    for generation in decoded.generations:
        name = generation.prompt_id
        score = scores.get(name) if chosen[name] == generation.index else None
        reward = _finite(generation.reward if score is None else score.reward)
        fluency = None if score is None or not score.base_tokens else score.log_probability / score.base_tokens
        yield {
            "decoder": decoded.decoder,
            "prompt_id": name,
            "prompt": generation.prompt,
            "source": decoded.sources.get(name, ""),
            "candidate": generation.index,
            "chosen": chosen[name] == generation.index,
            "text": generation.text,
            "finish": generation.finish,
            "tokens": generation.length,
            "value": _finite(generation.value),
            "reward": reward,
            "positive": None if reward is None else reward > 0,
            "judge": None if score is None else _finite(score.judge),
            "fluency": _finite(fluency),
            "set_aside": reasons.get(name, ""),
        }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def csv_of(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header. A prompt that is a conversation is written as JSON, which trimtab reads again."""
    return csv_text([[*COLUMNS], *([_cell(row[name]) for name in COLUMNS] for row in rows)])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as CSV."""
    write_text(file, [csv_of(rows)])


def write_jsonl(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as JSON, one a line."""
    write_text(file, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_dataset(rows: Sequence[Row], folder: Path) -> None:
    """Write the rows as the split `train` of a folder that `datasets.load_dataset` reads.

    A column has one type: beside conversations, a prompt that is a text becomes a message of the user.
    """
    import datasets

    from trimtab.models.quiet import quiet_datasets
    from trimtab.preferences.dataset import prompt_column

    prompts = [row["prompt"] for row in rows]
    if any(isinstance(prompt, list) for prompt in prompts):
        prompts = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in prompts]
    kind, prompts = prompt_column(prompts)
    values = {name: [row[name] for row in rows] for name in COLUMNS} | {"prompt": prompts}
    kinds = {name: datasets.Value(kind) for name, kind in COLUMNS.items()} | {"prompt": kind}
    (folder / "data").mkdir(parents=True)
    with quiet_datasets():
        table = datasets.Dataset.from_dict(values, datasets.Features(kinds))
        table.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
