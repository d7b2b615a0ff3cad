"""The straight line: reviews -> prompts -> generations -> rewards -> pairs -> tuned model -> guided generations ->
scores -> report.

    >>> run(load_experiment(Path("experiments/quickstart.yaml")), Path("runs"), Assets(), watch)   # doctest: +SKIP
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import ConfigurationError, RunError
from trimtab.executors.helpers import helping
from trimtab.models.allocator import give_back_freed_memory
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.checks import check_models
from trimtab.pipeline.decoded import GENERATIONS, SCORES
from trimtab.pipeline.line import Line, diverging
from trimtab.pipeline.making import Maker
from trimtab.pipeline.memory import check_jobs, lowered, memory_lines
from trimtab.pipeline.tuning_line import makes_pairs, sampled_splits
from trimtab.store.artifacts import RunDirectory
from trimtab.store.blocks import Shard
from trimtab.store.distributed import launched, lost_another
from trimtab.store.lock import hold
from trimtab.store.log import keeping
from trimtab.store.progress import Watch

_log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Line], object]] = {
    "data": lambda line: line.data,
    "reward": lambda line: (line.reward, line.judge),
    "sft": lambda line: line.untuned,
    "synthesize": lambda line: [line.samples(split) for split in sampled_splits(line.experiment)],
    "pairs": lambda line: line.pairs if makes_pairs(line.experiment) else None,
    "tune": lambda line: line.tuned if line.experiment.tunes else None,
    "guide": lambda line: [line.guided(decoder) for decoder in line.experiment.guide.decoders],
    "evaluate": lambda line: (
        [line.evaluated(decoder) for decoder in line.experiment.guide.decoders],
        [line.divergence(decoder) for decoder in diverging(line.experiment)],
    ),
    "report": lambda line: line.report,
}
NAMED = {"guide": GENERATIONS, "evaluate": SCORES}
"""What of a decoder's is named after a stage."""
TRAINING = ("reward", "sft", "tune")
SHARED: dict[str, Callable[[Line], object]] = {
    "synthesize": STAGES["synthesize"],
    # what picks from another decoder's candidates decodes nothing
    "guide": lambda line: [line.guided(each) for each in line.experiment.guide.decoders if each.best_of is None],
}


def run(
    experiment: Experiment,
    runs: Path,
    assets: Assets,
    watch: Watch,
    until: str = "report",
    shard: Shard | None = None,
    trace: bool = False,
    jobs: int = 1,
) -> Line:
    """Run the line up to and including the stage `until`, in the folder `runs`/`experiment.name`.

    With a `shard`, decode only this share of the blocks of `until`, which is `synthesize` or `guide`; the stages
    before must have been run, and the same call without a shard puts the blocks together. Launched as several
    processes, `tune` alone is run, by all of them, and the stages before must have been. With `trace`, searches of
    the test prompts leave traces in the folder's `traces/`; what had been decoded without one is decoded again.

    With several `jobs`, as many processes decode side by side, each with its share of this one's threads, or with a
    GPU of its own where several are visible; searches that leave traces are decoded by one.

    Raises:
        TrimtabError: anything that a user can mend; what was made before is kept, and the same call goes on from it.
    """
    assert until in (STAGES if shard is None else SHARED), until
    if jobs < 1:
        raise ConfigurationError(f"jobs is {jobs}: give at least 1")
    if jobs > 1 and shard is not None:
        raise ConfigurationError(f"shard {shard} would be decoded by {jobs} jobs: give either, and more shards")
    check_jobs(experiment, jobs)
    if until == "sft" and experiment.sft is None:
        raise ConfigurationError(
            f"{experiment.name} takes the small model as it is: give the experiment a part sft to train it on reviews"
        )
    directory = RunDirectory(runs / experiment.name)
    rows = {"synthesize": experiment.synthesize.rows, "guide": experiment.guide.rows}
    if shard is not None and rows[until] == "auto":
        raise ConfigurationError(
            f"{until}.rows is auto, which each machine works out for itself, and shards must be cut alike: give a "
            f"number, such as --set {until}.rows=256"
        )
    if not launched().alone and until != "tune":
        raise ConfigurationError(f"{until} was launched as {launched().count} processes: only `trimtab tune` can be")
    if not launched().alone and torch.cuda.is_available():
        torch.cuda.set_device(launched().local)
    if not launched().main:
        return _tune_with_others(experiment, directory, assets)
    stages = [*STAGES][: [*STAGES].index(until) + 1] if shard is None and launched().alone else [until]
    with (
        hold(directory.path, shard) as previous,
        keeping(directory.path, watch, previous, shard),
        enough_memory(experiment, assets, until, jobs),
        quiet_libraries(),
        helping(directory.path, experiment, assets, jobs) as helpers,
    ):
        names = stage_names(experiment)
        watch.plan(name for stage in stages for name in names[stage])
        check_models(experiment, assets, until)
        for number, text in enumerate(memory_lines(experiment, assets, until, jobs)):
            _log.log(logging.WARNING if number else logging.INFO, "%s", text)
            if number == 0:  # warnings are told of by the log
                watch.say(text)
        share = None if shard is None else (until, shard)
        line = Line(experiment, directory, assets, watch, share, trace, partial(Maker, helpers=helpers))
        for stage in stages:
            (STAGES if shard is None else SHARED)[stage](line)
            if experiment.tunes and stage == "tune":
                line.name_tuned()
            if stage in TRAINING:
                give_back_freed_memory()
            if helpers is not None and stage == "guide":
                helpers.end()
            if stage in NAMED and shard is None:
                line.name_decoded(NAMED[stage])
    _part()
    return line


def _tune_with_others(experiment: Experiment, directory: RunDirectory, assets: Assets) -> Line:
    """What a launched process does that is not the main one: its share of the tuning, and nothing that is seen."""
    line = Line(experiment, directory, assets, Watch())
    with enough_memory(), quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the main process gives the same ones
        STAGES["tune"](line)
    _part()
    return line


def _part() -> None:
    """Launched processes have nothing more to say to each other."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def stage_names(experiment: Experiment) -> dict[str, list[str]]:
    """What the artifacts of each stage are called where progress is shown."""
    decoders = [decoder.name for decoder in experiment.guide.decoders]
    return {
        "data": ["data"],
        "reward": ["reward", "judge"] if experiment.data.reviews is not None else ["reward"],
        "sft": [] if experiment.sft is None else ["sft"],
        "synthesize": [f"synthesize {split}" for split in sampled_splits(experiment)],
        "pairs": ["pairs"] if makes_pairs(experiment) else [],
        "tune": ["tune"] if experiment.tunes else [],
        "guide": [f"guide {name}" for name in decoders],
        "evaluate": [
            *(f"evaluate {name}" for name in decoders),
            *(f"evaluate {decoder.name} (KL)" for decoder in diverging(experiment)),
        ],
        "report": ["report"],
    }


@contextlib.contextmanager
def enough_memory(
    experiment: Experiment | None = None, assets: Assets | None = None, until: str = "report", jobs: int = 1
) -> Iterator[None]:
    """Turns the errors that want of memory has, on whatever device, into one that says what to lower; and those of a
    launched process that has lost another one.

    Of an `experiment` it says to what, by what the stages up to `until` take.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if lost_another(error):
            raise RunError(
                f"another of the {launched().count} launched processes has ended: the same command goes on from the "
                "last checkpoint"
            ) from None
        wanting = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not wanting:
            raise
        settings = "guide.rows, synthesize.rows, tune.batch_size or reward.batch_size"
        if experiment is not None and assets is not None:
            settings = lowered(experiment, assets, until, jobs)
        raise RunError(f"there is not enough memory: lower {settings}, and the same command goes on") from None
