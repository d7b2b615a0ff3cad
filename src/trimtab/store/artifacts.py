"""The artifacts of a run directory: one folder for each step's output, named by a hash of what it was made from.

An artifact is written to `<stage>-<digest>.partial`, sealed and renamed to `<stage>-<digest>`, so a kill never leaves
half an artifact. What a killed step resumes from (finished blocks, checkpoints) is in `<stage>-<digest>.work`.

    >>> run = RunDirectory(Path("runs/demo"), create=False)
    >>> data = run.artifact("data", {"prompts": 3}, inputs=[])
    >>> len(data.digest), data.whole
    (12, False)
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
from trimtab.store.files import FREE_SPACE, broken_file, discard, is_sealed, seal, sync, write_json
from trimtab.store.lock import suffix
from trimtab.store.remote import mirror_of

LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy")
_log = logging.getLogger(__name__)
_WRITE_ERROR = re.compile(r"\(os error \d+\)|inline_container")
"""How safetensors, tokenizers and torch report a failed write."""


@dataclass(frozen=True)
class Artifact:
    """The output of one step: `folder` when complete, `partial` while it is written, `work` for what a kill leaves.

    `digest` is a hash of `made_from`, which is saved in the folder together with the libraries' versions. `elsewhere`:
    it is whole at the URL of the run directory, and was not downloaded, as nothing is to be made.
    """

    stage: str
    digest: str
    folder: Path
    made_from: Mapping[str, Any]
    elsewhere: bool = False

    @property
    def partial(self) -> Path:
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def work(self) -> Path:
        return self.folder.with_name(self.folder.name + ".work")

    @property
    def whole(self) -> bool:
        """Whether the folder exists with all its files."""
        return self.elsewhere or is_sealed(self.folder)

    def records(self, kind: type[Record], name: str = "records") -> list[Record]:
        """The records in `<name>.jsonl`; RunError if the file is missing or damaged."""
        try:
            return read_jsonl(self.folder / f"{name}.jsonl", kind)
        except (FileNotFoundError, DataError) as error:
            raise self._damaged(error) from None

    def summary(self, name: str = "summary") -> dict[str, Any]:
        """The object in `<name>.json`; RunError if the file is missing or damaged."""
        try:
            values: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise self._damaged(error) from None
        return values

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"{self.folder} is damaged ({error}): delete the folder and run the same command again")


class RunDirectory:
    """The artifacts of one run. Creates the directory unless `create` is False.

    Where it stands for a URL (`store/remote.py`), artifacts are downloaded when they are first asked for, unless
    `create` is False, and uploaded when they are whole.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._mirror = mirror_of(path)
        self._reads_only = not create
        if create:
            _create(path)

    def artifact(self, stage: str, configuration: Mapping[str, Any], inputs: Sequence[Artifact]) -> Artifact:
        """The artifact of a stage with this configuration (plain JSON values) and these inputs."""
        made_from = {
            "trimtab": version("trimtab"),
            "stage": stage,
            "configuration": configuration,
            "inputs": [artifact.digest for artifact in inputs],
        }
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.path / f"{stage}-{digest}"
        if self._mirror is not None and not self._reads_only:
            self._mirror.settle(folder)
        elsewhere = self._reads_only and self._mirror is not None and folder.name in self._mirror.artifacts
        return Artifact(stage, digest, folder, made_from, elsewhere)

    @contextlib.contextmanager
    def working(self, artifact: Artifact, shard: Shard | None = None) -> Iterator[Path]:
        """The folder for what a killed step resumes from; it stays until the artifact is complete."""
        _create(artifact.work)
        file = artifact.work / f"seconds{suffix(shard)}.json"
        started, before = time.monotonic(), _seconds([file])
        try:
            yield artifact.work
        except Exception as error:
            if _WRITE_ERROR.search(str(error)) is None:
                raise
            raise RunError(f"{artifact.folder} cannot be written ({error}): {FREE_SPACE}") from None
        finally:
            with contextlib.suppress(RunError):  # a full disk must not hide the error that ended the step
                write_json(file, before + time.monotonic() - started)

    @contextlib.contextmanager
    def writing(self, artifact: Artifact) -> Iterator[Path]:
        """An empty folder to fill; it becomes the artifact if the block ends without an exception."""
        if artifact.folder.exists():
            name = broken_file(artifact.folder)
            _log.warning("%s is damaged (%s is missing or truncated): making it again", artifact.folder.name, name)
            discard(artifact.folder)
        shutil.rmtree(artifact.partial, ignore_errors=True)
        _create(artifact.partial)
        with self.working(artifact):
            yield artifact.partial
        libraries = {name: version(name) for name in LIBRARIES}
        write_json(artifact.partial / "made_from.json", {**artifact.made_from, "libraries": libraries})
        write_json(artifact.partial / "seconds.json", _seconds(artifact.work.glob("seconds*.json")))
        seal(artifact.partial)
        artifact.partial.rename(artifact.folder)
        sync(self.path)  # before the work folder is deleted: a power cut must not lose both
        self.tidy(artifact)
        if self._mirror is not None:
            self._mirror.upload(artifact.folder)

    def tidy(self, artifact: Artifact) -> None:
        """Delete the work folder of a complete artifact."""
        assert artifact.whole
        shutil.rmtree(artifact.work, ignore_errors=True)


def read_seconds(artifact: Artifact) -> float:
    """Wall seconds that were spent on an artifact, summed over all processes that worked on it."""
    return _seconds([artifact.folder / "seconds.json"])


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be created ({error.strerror}): give another --runs") from None


def _seconds(files: Iterable[Path]) -> float:
    return sum(float(json.loads(file.read_text())) for file in files if file.exists())
