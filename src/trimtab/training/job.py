"""One training in this process: where it writes, its seed, and how it tells its progress."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.store.distributed import launched
from trimtab.training.checkpoints import Saving


@dataclass(frozen=True)
class TrainingJob:
    """Where a training writes its result (`folder`), its seed, and how it reports progress: `advance(done, total)`.

    `saving` names a folder for checkpoints, which stay there: a training that was killed resumes from the last whole
    one and ends in the same bytes. Without it, checkpoints are in `folder` and are deleted at the end. Trackers that
    write files write them into `trackers`, without it into `folder/trackers`.
    """

    folder: Path
    seed: int = 0
    advance: Callable[[int, int], None] = lambda done, total: None
    saving: Saving | None = None
    trackers: Path | None = None

    @property
    def checkpoints(self) -> Saving:
        return self.saving or Saving(self.folder / "checkpoints")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, the folders exist. Without `saving`, checkpoints are deleted before and after."""
        if launched().main:
            self._clear()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        yield
        if launched().main:
            self._clear()

    def _clear(self) -> None:
        if self.saving is None:
            shutil.rmtree(self.checkpoints.folder, ignore_errors=True)
