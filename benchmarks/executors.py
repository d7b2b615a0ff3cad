"""What workers cost and save: on this machine as processes, and through Ray, by one worker and by two.

    python benchmarks/executors.py
    python benchmarks/executors.py --model my/model --blocks 64 --prompts 4 --tokens 40 --ray auto --json executors.json

One step decodes blocks of texts without prompts, twice: tiny blocks of one token, which show what a block costs beside
its decoding, and blocks of `--prompts` texts of `--tokens` tokens. Models are loaded before. `start` is the time until
the workers have loaded their libraries and answered, `overhead` the wall time of a worker's block beyond what it
decodes, `driver` the processor time of the driver, and bytes are those of a block's question and answer.
"""

import argparse
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.executors.driver import Driver
from trimtab.executors.idle_threads import wait_briefly
from trimtab.executors.local import LocalWorkers
from trimtab.executors.options import WorkerOptions
from trimtab.executors.run import workers_for
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Setup, Work
from trimtab.executors.workers import InProcess, Workers
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.step import Plan
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import Stage, Watch

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Figures:
    """Seconds and milliseconds of one way to run blocks."""

    where: str
    workers: int
    start: float
    decoding: float
    overhead_ms: float
    driver_ms: float


@dataclass(frozen=True)
class Blocks:
    """What is decoded: blocks, texts in each, and tokens of each text."""

    count: int
    prompts: int
    tokens: int


def task(model: str, blocks: Blocks, seed: int, directory: RunDirectory, assets: Assets) -> Task:
    """A step of an experiment that needs no other: texts of the large model alone, from its start token."""
    experiment = Experiment.model_validate({
        "name": "executors", "small": {"name": model}, "large": {"name": model}, "seed": seed,
        "guide": {
            "unprompted": blocks.count * blocks.prompts, "rows": blocks.prompts, "max_new_tokens": blocks.tokens,
            "decoders": [{"model": "large"}],
        },
    })  # fmt: skip
    step = next(step for step in steps(experiment) if step.decodes and step.stage == "guide")
    plan = Plan([step], directory, assets)
    values = experiment.model_dump_json(exclude_unset=True)
    return Task(step, plan.artifacts[step], plan.inputs(step), values, step.name)


def carried_out(task: Task, directory: RunDirectory, workers: Workers) -> tuple[float, float, float]:
    """Wall seconds from the first to the last block, the seconds that blocks took, and the driver's processor time."""
    times: list[tuple[float, float]] = []

    def note(stage: Stage) -> None:
        times.append((time.perf_counter(), time.process_time()))

    watch = Watch()
    watch.listeners.append(note)
    manner = Manner(threads=1, jobs=1)
    for error in Driver([task], directory, workers, watch, manner).run().values():
        raise error
    begun, ended = times[1], times[-1]  # the first is the step's begin, the next comes when its blocks are known
    seconds = json.loads((task.artifact.folder / "decode_seconds.json").read_text(encoding="utf-8"))
    return ended[0] - begun[0], seconds, ended[1] - begun[1]


def measured(
    where: str, count: int, model: str, blocks: Blocks, assets: Assets, make: Callable[[Setup], Workers]
) -> Figures:
    """Figures of one way to run blocks."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = RunDirectory(Path(folder) / "run")
        before = time.perf_counter()
        workers = stack.enter_context(make(Setup(directory.path, assets)))
        warm = task(model, Blocks(4 * count, blocks.prompts, 1), 1, directory, assets)
        for answer in [worker.submit(os.getpid) for worker in workers.all().values()]:
            answer.result()
        started = time.perf_counter() - before
        carried_out(warm, directory, workers)  # all workers load the model
        tiny = Blocks(blocks.count, 1, 1)
        wall, seconds, driver = carried_out(task(model, tiny, 2, directory, assets), directory, workers)
        overhead = (wall * count - seconds) / tiny.count
        decoding, _, _ = carried_out(task(model, blocks, 3, directory, assets), directory, workers)
    return Figures(where, count, started, decoding, overhead * 1e3, driver / tiny.count * 1e3)


class Weighed(InProcess):
    """Notes the bytes of each block's question and answer."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.bytes: list[tuple[int, int]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        (work,) = args
        future = super().submit(fn, *args, **kwargs)
        assert isinstance(work, Work)
        if work.kind == "decode":
            asked = len(pickle.dumps(work))
            future.add_done_callback(lambda done: self.bytes.append((asked, len(pickle.dumps(done.result())))))
        return future


def weighed(model: str, blocks: Blocks, assets: Assets) -> tuple[float, float]:
    """Mean bytes of a block's question and answer."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "run")
        workers = Weighed(Setup(directory.path, assets))
        carried_out(task(model, blocks, 4, directory, assets), directory, workers)
    asked, answered = zip(*workers.bytes, strict=True)
    return sum(asked) / len(asked), sum(answered) / len(answered)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=4, help="texts in a block")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--ray", default="local", metavar="ADDRESS", help="a cluster; '' leaves Ray out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    wait_briefly()
    torch.set_num_threads(1)
    blocks, assets = Blocks(options.blocks, options.prompts, options.tokens), Assets()
    figures: list[Figures] = []
    for where, ray in [("here", None), *([("ray", options.ray)] if options.ray else [])]:
        for count in (1, 2):
            figures.append(measured(where, count, options.model, blocks, assets, _maker(count, ray)))
    asked, answered = weighed(options.model, Blocks(4, 1, 1), assets)
    print("where  workers  start s  decoding s  times one  overhead ms  driver ms")
    for row in figures:
        one = next(other.decoding for other in figures if (other.where, other.workers) == (row.where, 1))
        print(
            f"{row.where:5}  {row.workers:7}  {row.start:7.1f}  {row.decoding:10.1f}  {one / row.decoding:9.2f}  "
            f"{row.overhead_ms:11.1f}  {row.driver_ms:9.1f}"
        )
    print(f"a tiny block: {asked:.0f} bytes asked, {answered:.0f} answered")
    if options.json is not None:
        values = {"figures": [asdict(row) for row in figures], "asked": asked, "answered": answered}
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _maker(count: int, ray: str | None) -> Callable[[Setup], Workers]:
    """Starts so many workers of one thread: processes of this machine, or workers of a cluster."""
    if ray is None:
        return lambda setup: LocalWorkers(setup, count, 1)
    return lambda setup: workers_for(setup, WorkerOptions(count, 1, ray))


if __name__ == "__main__":
    main()
