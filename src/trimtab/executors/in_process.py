"""Makes what orders ask for in this process, one after another; models stay loaded from one to the next."""

import gc
import logging
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import TrimtabError
from trimtab.executors.messages import Event, Order, Tell, listening
from trimtab.executors.run import enough_memory
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.make import StepRunner
from trimtab.pipeline.step import Identities, Plan
from trimtab.pipeline.workspace import Workspace
from trimtab.store.artifacts import RunDirectory

_log = logging.getLogger(__name__)


class InProcess:
    """Takes one order at a time, for the run directory `folder`, and makes it while it is waited for."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self._directory = RunDirectory(folder)
        self._workspace: Workspace | None = None
        self._identities: Identities | None = None
        self._worker = worker
        self._plans: dict[str, tuple[Experiment, Plan]] = {}
        self._order: Order | None = None

    def free(self) -> bool:
        """Whether a further order can be taken."""
        return self._order is None

    def take(self, order: Order) -> None:
        self._order = order

    def wait(self, tell: Tell) -> None:
        """Make the order that was taken, and tell what comes of it. A fault of trimtab's fails it, and no other."""
        order, self._order = self._order, None
        assert order is not None
        try:
            self._make(order, tell)
        except TrimtabError as error:
            tell(Event(order.digest, "failed", str(error), worker=self._worker))
        except Exception as error:  # noqa: BLE001 (a fault in one cell of a study must not take the others with it)
            _log.error("the order for %s ended by a fault", order.digest, exc_info=True)
            reason = f"{type(error).__name__}: {error} (the log has the traceback)"
            tell(Event(order.digest, "failed", reason, worker=self._worker))
        else:
            tell(Event(order.digest, "made", worker=self._worker))
        gc.collect()  # models refer to each other in circles, and the next order may want the memory

    def _make(self, order: Order, tell: Tell) -> None:
        torch.set_num_threads(order.threads)
        if self._workspace is None:
            path_map = None if order.path_map is None else Path(order.path_map)
            self._workspace = Workspace(Assets(cache=Path(order.cache), path_map=path_map))
            self._identities = Identities(self._workspace.assets)
        if order.experiment not in self._plans:
            experiment = Experiment.model_validate_json(order.experiment)
            plan = Plan(steps(experiment)[:-1], self._directory, self._workspace.assets, self._identities)
            self._plans[order.experiment] = experiment, plan
        experiment, plan = self._plans[order.experiment]
        step, watch = plan.step(order.digest), listening(order.digest, tell, self._worker)
        session = StepRunner(plan, self._workspace, watch, beside=order.beside, links=False)
        with enough_memory([step], experiment, self._workspace.assets), quiet_libraries():
            if order.blocks is None:
                session.make(step)
            else:
                session.decode_numbers(step, order.blocks, order.beside)
