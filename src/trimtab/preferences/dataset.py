"""Pairs as a `datasets` folder, and any preference data set as pairs.

Written is the schema of ZHZisZZ/imdb_preference (`prompt`, `responses`, `chosen`; splits train, validation, test)
with our own columns beside it, as parquet files that `datasets.load_dataset(folder)` reads. Read are that schema and
the common `prompt`, `chosen`, `rejected`, of texts or of messages, from a hub layout, a `save_to_disk` folder, or
parquet, JSON or CSV files named after their splits. Of messages `chosen` and `rejected` may also be whole
conversations, with the prompt in them. Knows nothing of models: a data set that has only text gives pairs without ids.

    >>> write_dataset(pairs, Path("pairs"))                                             # doctest: +SKIP
    >>> read_dataset(Path("pairs")) == pairs                                            # doctest: +SKIP
    True
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets

from trimtab.errors import DataError, RunError
from trimtab.records import Pair, PromptInput, from_json, to_json

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCHEMAS = (("prompt", "responses", "chosen"), ("prompt", "chosen", "rejected"), ("chosen", "rejected"))


def write_dataset(pairs: Sequence[Pair], folder: Path) -> None:
    """Write `folder/data/<split>-00000-of-00001.parquet` for each split that `pairs` have.

    Raises:
        DataError: there is no pair, or some prompts are strings and others messages.
        RunError: the file system refuses.
    """
    if not pairs:
        raise DataError("there are no pairs to write")
    if len({isinstance(pair.prompt, str) for pair in pairs}) > 1:
        raise DataError("some prompts are strings and others lists of messages: write them as two data sets")
    features = _features(text=isinstance(pairs[0].prompt, str))
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [dataclasses.asdict(pair) for pair in pairs if pair.split == split]
            if rows:
                table = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features)
                with _quiet():
                    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


def read_dataset(folder: Path, *, ended: bool = False) -> list[Pair]:
    """The pairs of a data set with the splits train and validation, and test if it has one, in this order.

    What a data set does not say is left unknown: without our columns a pair has no ids (`token_ids` and `prompt_ids`
    are empty), no `rewards`, and a `probability` of 0.5. Where it has no column `ended`, `ended` says whether its
    responses are whole texts, so that an end token may be learned; sampled continuations are not, and messages are.

    Raises:
        DataError: the folder holds no readable data set, lacks a split or a column, or has a row that is no pair.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder of a preference data set")
    with tempfile.TemporaryDirectory() as cache, _quiet():
        splits = _load(folder, cache)
        missing = [name for name in ("train", "validation") if name not in splits]
        if missing:
            raise DataError(
                f"{folder} has the splits {', '.join(map(repr, splits))} and lacks {' and '.join(map(repr, missing))}: "
                "add it, for instance with datasets.Dataset.train_test_split"
            )
        pairs = []
        for split in SPLITS:
            if split in splits:
                pairs += _pairs(splits[split], split, f"{folder}, split {split}", ended)
    return pairs


def _features(*, text: bool) -> datasets.Features:
    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    ids = datasets.List(datasets.Value("int64"))
    return datasets.Features(
        {
            "prompt": datasets.Value("string") if text else datasets.List(message),
            "responses": datasets.List(datasets.Value("string")),
            "chosen": datasets.Value("int64"),
            "prompt_id": datasets.Value("string"),
            "rewards": datasets.List(datasets.Value("float64")),
            "probability": datasets.Value("float64"),
            "prompt_ids": ids,
            "token_ids": datasets.List(ids),
            "ended": datasets.List(datasets.Value("bool")),
        }
    )


def _load(folder: Path, cache: str) -> Mapping[str, datasets.Dataset]:
    """The splits of the folder, whichever way it was written."""
    try:
        if (folder / "dataset_dict.json").exists():
            return datasets.DatasetDict.load_from_disk(folder)
        if (folder / "state.json").exists():
            table = datasets.Dataset.load_from_disk(folder)
            return {str(table.split or "unnamed"): table}
        return datasets.load_dataset(str(folder), cache_dir=cache)
    except (OSError, ValueError, RuntimeError, StopIteration, datasets.exceptions.DatasetsError) as error:
        cause = str(error.__cause__ or error).split("\n")[0] or "a file is empty"
        raise DataError(
            f"{folder} cannot be read as a data set ({cause}): give Parquet, JSON or CSV files in UTF-8, named after "
            "their splits"
        ) from None


def _pairs(table: datasets.Dataset, split: Split, place: str, ended: bool) -> list[Pair]:
    columns = set(table.column_names)
    schema = next((names for names in SCHEMAS if columns.issuperset(names)), None)
    if schema is None:
        wanted = " or ".join(f"({', '.join(names)})" for names in SCHEMAS)
        raise DataError(f"{place} has the columns {', '.join(sorted(columns))}: it needs {wanted}")
    if not len(table):
        raise DataError(f"{place} has no rows: give at least one pair")
    pairs: list[Pair] = []
    try:
        for row in table:
            pair = _pair(row, schema, split, f"{split}-{len(pairs):05d}", ended)
            pairs.append(from_json(Pair, to_json(pair)))  # which looks at the types of what the row says
    except (ValueError, DataError) as error:
        raise DataError(f"{place}, row {len(pairs)}: {error}; mend or drop the row") from None
    return pairs


def _pair(row: Mapping[str, Any], schema: tuple[str, ...], split: Split, name: str, ended: bool) -> Pair:
    """A ValueError says in half a sentence what is wrong with the row."""
    prompt, chosen = row.get("prompt"), 0
    if "responses" in schema:
        responses, chosen = row["responses"], row["chosen"]
    elif isinstance(row["chosen"], list):
        prompt, responses = _conversation(prompt, row["chosen"], row["rejected"])
        ended = True
    elif "prompt" in schema:
        responses = [row["chosen"], row["rejected"]]
    else:
        raise ValueError("chosen and rejected are texts, and there is no prompt: give one, or conversations")
    if not isinstance(responses, list) or len(responses) != 2 or not all(isinstance(text, str) for text in responses):
        raise ValueError(f"{' and '.join(schema[1:])} must give two texts, not {str(responses)[:80]}")
    if isinstance(chosen, bool) or chosen not in (0, 1):
        raise ValueError(f"chosen is {chosen!r} and must be 0 or 1")
    # Our own columns are optional, one by one.
    probability = row.get("probability")
    if not isinstance(probability, float | None):
        raise ValueError(f"probability is {probability!r} and must be a number")
    return Pair(
        prompt_id=row.get("prompt_id") or name,
        prompt=_prompt(prompt),
        responses=responses,
        chosen=int(chosen),
        rewards=_two(row, "rewards", []),
        probability=0.5 if probability is None else probability,
        prompt_ids=row.get("prompt_ids") or [],
        token_ids=_two(row, "token_ids", []),
        ended=_two(row, "ended", [ended, ended]),
        split=split,
    )


def _prompt(value: Any) -> PromptInput:
    if isinstance(value, str):
        return value
    entries = value if isinstance(value, list) else []
    if entries and all(isinstance(entry, dict) and _is_message(entry) for entry in entries):
        return [{"role": entry["role"], "content": entry["content"]} for entry in entries]
    raise ValueError(f"prompt is {str(value)[:80]!r} and must be a text or a list of messages")


def _conversation(prompt: Any, chosen: list[Any], rejected: Any) -> tuple[Any, list[str]]:
    """The prompt and both answers. Of whole conversations the prompt is what both begin with; a text beside them, which
    repeats its last message, is not read."""
    if not isinstance(rejected, list):
        raise ValueError(f"chosen is a conversation and rejected {str(rejected)[:60]!r}: give both as messages")
    if prompt is None or (isinstance(prompt, str) and len(chosen) > 1):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    answers = []
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) != 1 or not isinstance(turns[0], dict) or turns[0].get("role") != "assistant":
            raise ValueError(f"{name} must be one message of the assistant behind the prompt, not {str(turns)[:80]}")
        answers.append(str(turns[0].get("content") or ""))
    return prompt, answers


def _is_message(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("role"), str) and isinstance(entry.get("content"), str)


def _two(row: Mapping[str, Any], name: str, unknown: list[Any]) -> list[Any]:
    """One value for each response, or `unknown` where the data set has none."""
    value = row.get(name)
    if not value:
        return unknown
    if not isinstance(value, list) or len(value) != 2 or any(entry is None for entry in value):
        raise ValueError(f"{name} is {str(value)[:80]} and must hold one entry for each of two responses")
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
