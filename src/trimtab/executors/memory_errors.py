"""What a user can do where memory ran out, and where a launched process has lost its partner."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import RunError
from trimtab.pipeline.memory import lowered
from trimtab.pipeline.step import Step
from trimtab.store.distributed import launched, lost_another


@contextlib.contextmanager
def explain_memory_errors(
    line: Sequence[Step], experiment: Experiment, assets: Assets, jobs: int = 1
) -> Iterator[None]:
    """Replace an error for lack of memory by one that names the settings to lower, and the error of a launched process
    whose partner has ended by one that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if lost_another(error):
            raise RunError(
                f"another of the {launched().count} launched processes has ended: run the same command again to resume "
                "from the last checkpoint"
            ) from None
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        settings = lowered(line, experiment, assets, jobs)
        raise RunError(f"there is not enough memory: lower {settings}, then run the same command again") from None
