"""A run directory: what each stage made, under a name that carries the hash of what it was made from.

An artifact is a folder `<stage>-<digest>`. It is made in `<stage>-<digest>.partial`, sealed and renamed, so it is
either whole or absent. What a killed stage goes on from (finished blocks, checkpoints) lies in `<stage>-<digest>.work`
until the artifact is whole. Knows nothing of what the records mean.

    >>> run = RunDirectory(Path("runs/demo"))                                           # doctest: +SKIP
    >>> prompts = run.artifact("prompts", {"count": 3}, inputs=[])                      # doctest: +SKIP
    >>> prompts.digest                                                                  # doctest: +SKIP
    'f2a1c08b9d3e'
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, RunError
from trimtab.records import Record, read_jsonl
from trimtab.store.blocks import Shard
from trimtab.store.files import GO_ON, broken_file, discard, is_sealed, seal, sync, write_json
from trimtab.store.lock import suffix

LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy")
_log = logging.getLogger(__name__)
_REFUSED = re.compile(r"\(os error \d+\)|inline_container")


@dataclass(frozen=True)
class Artifact:
    """One stage's output: `folder` when whole, `partial` while it is being made, `work` what a kill leaves of it.

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
    def work(self) -> Path:
        return self.folder.with_name(self.folder.name + ".work")

    @property
    def whole(self) -> bool:
        return is_sealed(self.folder)

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
    """The artifacts of one run. The directory is created where it is missing, unless `create` is False."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        if not create:
            return
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
    def working(self, artifact: Artifact, shard: Shard | None = None) -> Iterator[Path]:
        """The folder for what a killed stage goes on from; it stays until the artifact is whole."""
        _make(artifact.work)
        file = artifact.work / f"seconds{suffix(shard)}.json"
        started, before = time.monotonic(), _seconds([file])
        try:
            yield artifact.work
        except Exception as error:
            # safetensors, tokenizers and torch have their own words for a file system that refuses
            if _REFUSED.search(str(error)) is None:
                raise
            raise RunError(f"{artifact.folder} cannot be written ({error}): {GO_ON}") from None
        finally:
            with contextlib.suppress(RunError):  # a full disk is the artifact's to tell, and hides no other error
                write_json(file, before + time.monotonic() - started)

    @contextlib.contextmanager
    def writing(self, artifact: Artifact) -> Iterator[Path]:
        """An empty folder to fill; it becomes the artifact where the block ends without an exception."""
        if artifact.folder.exists():
            name = broken_file(artifact.folder)
            _log.warning("%s is not whole (%s is missing or cut): it is made again", artifact.folder.name, name)
            discard(artifact.folder)
        shutil.rmtree(artifact.partial, ignore_errors=True)
        _make(artifact.partial)
        with self.working(artifact):
            yield artifact.partial
        libraries = {name: version(name) for name in LIBRARIES}
        write_json(artifact.partial / "made_from.json", {**artifact.made_from, "libraries": libraries})
        write_json(artifact.partial / "seconds.json", _seconds(artifact.work.glob("seconds*.json")))
        seal(artifact.partial)
        artifact.partial.rename(artifact.folder)
        sync(self.path)  # what it was made from goes only once it is there for good
        self.tidy(artifact)

    def tidy(self, artifact: Artifact) -> None:
        """Delete what a whole artifact was made from."""
        assert artifact.whole
        shutil.rmtree(artifact.work, ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}; give another folder") from None


def read_seconds(artifact: Artifact) -> float:
    """Wall seconds that an artifact has taken, over all processes that worked on it."""
    return _seconds([artifact.folder / "seconds.json"])


def _seconds(files: Iterable[Path]) -> float:
    return sum(float(json.loads(file.read_text())) for file in files if file.exists())
