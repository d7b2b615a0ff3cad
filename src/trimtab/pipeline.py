"""The straight line: reviews -> prompts -> generations -> rewards -> pairs -> tuned model -> guided generations ->
scores -> report.

    >>> run(load_experiment(Path("experiments/quickstart.yaml")), Path("runs"), Assets(), watch)   # doctest: +SKIP
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.errors import RunError
from trimtab.experiment import Experiment
from trimtab.line import Line
from trimtab.preflight import check_models
from trimtab.progress import Watch
from trimtab.runs import RunDirectory

STAGES: dict[str, Callable[[Line], object]] = {
    "data": lambda line: line.data,
    "reward": lambda line: (line.reward, line.judge),
    "synthesize": lambda line: line.samples("tuning") if line.experiment.data.preferences is None else None,
    "pairs": lambda line: line.pairs,
    "tune": lambda line: line.tuned,
    "guide": lambda line: [line.guided(decoder) for decoder in line.experiment.guide.decoders],
    "evaluate": lambda line: [line.evaluated(decoder) for decoder in line.experiment.guide.decoders],
    "report": lambda line: line.report,
}


def run(experiment: Experiment, runs: Path, assets: Assets, watch: Watch, until: str = "report") -> Line:
    """Run the line up to and including the stage `until`, in the folder `runs`/`experiment.name`.

    Raises:
        TrimtabError: anything that a user can mend; what was made before is kept, and the same call goes on from it.
    """
    assert until in STAGES, until
    directory = RunDirectory(runs / experiment.name)
    with directory.lock(), _enough_memory():
        check_models(experiment, assets, until)
        line = Line(experiment, directory, assets, watch)
        for stage, make in STAGES.items():
            make(line)
            if stage == until:
                break
    return line


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Turns the errors that want of memory has, on whatever device, into one that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        wanting = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not wanting:
            raise
        raise RunError(
            "there is not enough memory: lower guide.rows, synthesize.rows, tune.batch_size or reward.batch_size, and "
            "the same command goes on"
        ) from None
