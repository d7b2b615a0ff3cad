"""A run directory: what each stage made, under a name that carries the hash of what it was made from.

An artifact is a folder `<stage>-<digest>`; while it is being made it is called `<stage>-<digest>.partial`, and it is
renamed when it is whole, so it is either whole or absent. A stage that works block by block leaves each finished block
in the partial folder and goes on from there the next time. Knows nothing of what the records mean.

    >>> run = RunDirectory(Path("runs/demo"))                                           # doctest: +SKIP
    >>> prompts = run.artifact("prompts", {"count": 3}, inputs=[])                      # doctest: +SKIP
    >>> prompts.digest                                                                  # doctest: +SKIP
    'f2a1c08b9d3e'
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trimtab.errors import DataError, RunError
from trimtab.records import Generation, Pair, Prompt, Record, Review, Score, lines_of, read_jsonl

LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy")
GO_ON = "free space or mend the folder, and the same command goes on"
_REFUSED = re.compile(r"\(os error \d+\)|inline_container")
AnyRecord = Review | Prompt | Generation | Pair | Score


@dataclass(frozen=True)
class Artifact:
    """One stage's output: `folder` when whole, `partial` while it is being made.

    `made_from` is what `digest` is a hash of; it is kept in the folder, beside the libraries' versions.
    """

    stage: str
    digest: str
    folder: Path
    made_from: Mapping[str, Any]

    @property
    def partial(self) -> Path:
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def whole(self) -> bool:
        return self.folder.is_dir()

    def records(self, kind: type[Record], name: str = "records") -> list[Record]:
        """The records of `<name>.jsonl`.

        Raises:
            RunError: the file is gone or damaged.
        """
        try:
            return read_jsonl(self.folder / f"{name}.jsonl", kind)
        except (FileNotFoundError, DataError) as error:
            raise self._damaged(error) from None

    def summary(self, name: str = "summary") -> dict[str, Any]:
        """The object in `<name>.json`.

        Raises:
            RunError: the file is gone or damaged.
        """
        try:
            values: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise self._damaged(error) from None
        return values

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"{self.folder} is damaged ({error}): delete the folder, and the same command makes it again")


class RunDirectory:
    """The artifacts of one run; `path` is created where it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be made a run directory ({error.strerror}): give another --runs") from None

    def artifact(self, stage: str, configuration: Mapping[str, Any], inputs: Sequence[Artifact]) -> Artifact:
        """The artifact of a stage with this configuration (plain JSON values), made from these inputs."""
        content = {
            "trimtab": version("trimtab"),
            "stage": stage,
            "configuration": configuration,
            "inputs": [artifact.digest for artifact in inputs],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        return Artifact(stage, digest, self.path / f"{stage}-{digest}", content)

    @contextlib.contextmanager
    def writing(self, artifact: Artifact) -> Iterator[Path]:
        """The partial folder to fill; it becomes the artifact where the block ends without an exception."""
        try:
            artifact.partial.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"{artifact.partial} cannot be made: {error.strerror}; give another folder") from None
        started, before = time.monotonic(), read_seconds(artifact.partial)
        libraries = {name: version(name) for name in LIBRARIES}
        write_json(artifact.partial / "made_from.json", {**artifact.made_from, "libraries": libraries})
        try:
            yield artifact.partial
        except Exception as error:
            # safetensors, tokenizers and torch have their own words for a file system that refuses
            if _REFUSED.search(str(error)) is None:
                raise
            raise RunError(f"{artifact.partial} cannot be written ({error}): {GO_ON}") from None
        finally:
            write_json(artifact.partial / "seconds.json", before + time.monotonic() - started)
        artifact.partial.rename(artifact.folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for one writer.

        Raises:
            RunError: another process holds it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.path} is in use by another run: wait for it, or give another directory") from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}; give another folder") from None
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Block:
    """What one block of prompts gave: its records, and what they cost.

    `flops` names each model's forward FLOPs; `seconds` is wall time and takes no part in any hash.
    """

    records: list[Generation]
    flops: dict[str, float]
    seconds: float


def block_size(rows: int, candidates: int) -> int:
    """How many prompts of `candidates` rows each are decoded together where `rows` are allowed: at least one."""
    return max(1, rows // candidates)


def write_blocks(
    partial: Path,
    prompts: Sequence[Prompt],
    size: int,
    decode: Callable[[Sequence[Prompt]], Block],
    advance: Callable[[int, int], None],
) -> None:
    """Decode `prompts` in blocks of `size`, each written when it is done; blocks found in `partial` are kept.

    At the end `partial` holds `records.jsonl`, `cost.json` (FLOPs by model) and no block. `advance(done, all)` is
    told of the prompts that are done, kept ones included.
    """
    blocks, last = partial / "blocks", partial / "decode_seconds.json"
    if last.exists():  # killed after the last block, before the artifact was renamed
        shutil.rmtree(blocks, ignore_errors=True)
        advance(len(prompts), len(prompts))
        return
    blocks.mkdir(exist_ok=True)
    starts = range(0, len(prompts), size)
    for number, start in enumerate(starts):
        group = prompts[start : start + size]
        if not (blocks / f"{number:05d}.json").exists():
            block = decode(group)
            write_text(blocks / f"{number:05d}.jsonl", lines_of(block.records))
            write_json(blocks / f"{number:05d}.json", {"flops": block.flops, "seconds": block.seconds})
        advance(start + len(group), len(prompts))
    texts = ((blocks / f"{number:05d}.jsonl").read_text(encoding="utf-8") for number in range(len(starts)))
    write_text(partial / "records.jsonl", texts)
    costs = [json.loads((blocks / f"{number:05d}.json").read_text()) for number in range(len(starts))]
    models = sorted({model for cost in costs for model in cost["flops"]})
    write_json(partial / "cost.json", {model: sum(cost["flops"].get(model, 0.0) for cost in costs) for model in models})
    write_json(last, sum(cost["seconds"] for cost in costs))
    shutil.rmtree(blocks)


def write_records(path: Path, records: Iterable[AnyRecord]) -> None:
    """Write a JSON-lines file whole."""
    write_text(path, lines_of(records))


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file whole."""
    write_text(path, [json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"])


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        RunError: the file system refuses.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): {GO_ON}") from None


def read_seconds(folder: Path) -> float:
    """Wall seconds spent on an artifact so far; 0 where none are noted."""
    file = folder / "seconds.json"
    return float(json.loads(file.read_text())) if file.exists() else 0.0
