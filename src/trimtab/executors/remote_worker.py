"""A worker on a machine that may lack what a step needs, and may not see the run directory."""

import dataclasses
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.errors import AssetError, ConfigurationError
from trimtab.executors.packing import pack, unpack
from trimtab.executors.ray_start import Start
from trimtab.executors.scratch import scratch_folder
from trimtab.executors.work import Made, Note, PutNote, Result, Setup, Unfit, Wanted, Work
from trimtab.executors.worker import Worker, begin
from trimtab.models.hardware import device_type
from trimtab.pipeline.memory import UNREADABLE, machine_memory, memory_needs
from trimtab.pipeline.need import GIGA
from trimtab.pipeline.step import Step
from trimtab.store.artifacts import Artifact
from trimtab.store.files import empty_folder
from trimtab.store.log import WarningHandler


class RemoteWorker(Worker):
    """As `Worker`, for a Ray actor. Finds models and data by this machine's own cache and path map; where it has no
    path map, by the driver's if that file is there."""

    def __init__(self, start: Start, put: PutNote) -> None:
        self._start = start
        self._sees = start.token.is_file()
        self._own = scratch_folder()
        self._run = start.run if self._sees else Path(self._own.name)
        self._suited: set[str] = set()
        super().__init__(Setup(self._run, _assets(start.path_map)), put)

    def perform(self, work: Work) -> Result:
        """As `Worker.perform`.

        Raises:
            Unfit: this machine lacks files, memory or a GPU that the step needs.
        """
        work = dataclasses.replace(work, jobs=self._start.beside)
        self._check_suited(work)
        if self._sees:
            return super().perform(work)
        work = self._brought(work)
        result = super().perform(work)
        if not isinstance(result, Made):
            return result
        files = pack(work.artifact.partial)  # maps them, so that they can be deleted
        for folder in (work.artifact.partial, work.artifact.work):
            shutil.rmtree(folder)
        return dataclasses.replace(result, files=files)

    def lacks(self, wanted: Wanted) -> list[dict[str, str]]:
        """For each experiment the steps that need more memory, or other devices, than there are; with the reason."""
        found = []
        for experiment, names in wanted:
            _, by_name = self._steps(experiment)
            reasons = {name: self._lacking(by_name[name]) for name in names}
            found.append({name: reason for name, reason in reasons.items() if reason})
        return found

    def _check_suited(self, work: Work) -> None:
        if work.artifact.digest in self._suited:
            return
        step = self._steps(work.experiment)[1][work.step]
        try:
            self._check(step, work)
        except (AssetError, ConfigurationError) as error:
            raise Unfit(f"{self._start.name}: {error}") from None
        if reason := self._lacking(step):
            raise Unfit(reason)
        self._suited.add(work.artifact.digest)

    def _lacking(self, step: Step) -> str:
        """What the step needs and is not here, as one line; empty where all is."""
        where = self._start.name
        for name, part in step.parts.items():
            if isinstance(part, ModelConfig) and part.attention == "flash_attention_2" and device_type() != "cuda":
                return f"{where}: {step.name} needs a GPU, and there is none: leave out {name}.attention"
        try:
            needs = memory_needs([step], self._assets, self._start.beside)
        except UNREADABLE:
            return ""  # loading says what is wrong
        except AssetError as error:
            return f"{where}: {error}"
        memory = self._start.memory or machine_memory(self._start.gpus > 1)[0]
        for need in needs:
            if need.total > memory:
                fits = need.fitting(memory)
                remedy = f"lower {need.setting} from {need.value} to {fits}" if fits else need.remedy
                each = f" in each of {need.beside} workers" if need.beside > 1 else ""
                return (
                    f"{where}: {need.step} takes about {need.total / need.beside / GIGA:.1f} GB{each}, and there are "
                    f"{memory / GIGA:.1f} GB: {remedy}" + (", or take fewer workers (--jobs)" if each else "")
                )
        return ""

    def _brought(self, work: Work) -> Work:
        """The work with its artifacts in a folder of this machine, inputs fetched from the object store."""
        inputs = {name: self._fetched(artifact, work.parcels) for name, artifact in work.inputs.items()}
        artifact = self._here(work.artifact)
        if work.kind == "make":
            empty_folder(artifact.partial)
            artifact.work.mkdir(exist_ok=True)
        return dataclasses.replace(work, artifact=artifact, inputs=inputs)

    def _here(self, artifact: Artifact) -> Artifact:
        return dataclasses.replace(artifact, folder=self._run / artifact.folder.name)

    def _fetched(self, artifact: Artifact, parcels: Mapping[str, Any]) -> Artifact:
        here = self._here(artifact)
        if not here.folder.exists():
            empty_folder(here.partial)
            unpack(ray.get(parcels[artifact.folder.name]), here.partial)
            here.partial.rename(here.folder)
        return here


def _assets(path_map: Path | None) -> Assets:
    own = Assets()
    return Assets(path_map=path_map) if own.path_map is None and path_map is not None and path_map.is_file() else own


def begin_remote(start: Start, put: PutNote) -> RemoteWorker:
    """Make this process a worker, and send its warnings as notes. Where it sees the run directory, its log is there."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    logger = logging.getLogger("trimtab")
    logger.setLevel(logging.INFO)  # tracebacks of a user's code, too
    logger.addHandler(WarningHandler(lambda text: put(Note(warning=text))))
    if start.token.is_file():
        file = start.run / f"log-worker-{start.name.replace(' ', '-')}.txt"
        handler = logging.FileHandler(file, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    worker = RemoteWorker(start, put)
    begin(worker)
    return worker
