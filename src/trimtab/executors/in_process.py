"""An executor that runs tasks in this process, one after another; loaded models stay loaded between tasks."""

import gc
import logging
from pathlib import Path
from typing import Literal

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import TrimtabError
from trimtab.executors.messages import Message, Send, Task, sending_watch
from trimtab.executors.run import explain_memory_errors
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.make import StepRunner
from trimtab.pipeline.step import Identities, Plan
from trimtab.pipeline.workspace import Workspace
from trimtab.store.artifacts import RunDirectory

_log = logging.getLogger(__name__)


class InProcess:
    """Takes one task at a time for the run directory `folder`, and runs it in `wait`."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self._directory = RunDirectory(folder)
        self._workspace: Workspace | None = None
        self._identities: Identities | None = None
        self._worker = worker
        self._plans: dict[str, tuple[Experiment, Plan]] = {}
        self._task: Task | None = None

    def free(self) -> bool:
        """Whether another task can be submitted."""
        return self._task is None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, send: Send) -> None:
        """Run the submitted task and send its messages. An error fails this task only."""
        task, self._task = self._task, None
        assert task is not None
        kind: Literal["made", "failed"] = "failed"
        try:
            self._run(task, send)
            kind, text = "made", ""
        except TrimtabError as error:
            text = str(error)
        except Exception as error:  # noqa: BLE001 (an error in one cell of a study must not stop the others)
            _log.error("unexpected error while making %s", task.digest, exc_info=True)
            text = f"{type(error).__name__}: {error} (the log has the traceback)"
        send(Message(task.digest, kind, text, worker=self._worker))
        gc.collect()  # models hold reference cycles, and the next task may need their memory

    def _run(self, task: Task, send: Send) -> None:
        torch.set_num_threads(task.threads)
        if self._workspace is None:
            path_map = None if task.path_map is None else Path(task.path_map)
            self._workspace = Workspace(Assets(cache=Path(task.cache), path_map=path_map))
            self._identities = Identities(self._workspace.assets)
        if task.experiment not in self._plans:
            experiment = Experiment.model_validate_json(task.experiment)
            plan = Plan(steps(experiment)[:-1], self._directory, self._workspace.assets, self._identities)
            self._plans[task.experiment] = experiment, plan
        experiment, plan = self._plans[task.experiment]
        step, watch = plan.step(task.digest), sending_watch(task.digest, send, self._worker)
        runner = StepRunner(plan, self._workspace, watch, beside=task.beside, links=False)
        with explain_memory_errors([step], experiment, self._workspace.assets), quiet_libraries():
            if task.blocks is None:
                runner.make(step)
            else:
                runner.decode_numbers(step, task.blocks, task.beside)
