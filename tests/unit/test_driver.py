"""The order in which a driver gives tasks to workers, and which tasks a failure stops."""

import gc
import sys
import weakref
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NoReturn

import pytest

from trimtab.assets.resolve import Assets
from trimtab.errors import RunError, TakenOverError
from trimtab.executors import open_step
from trimtab.executors.driver import Driver
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Decoded, Made, Note, Setup, Unfit, Work, WorkerDied
from trimtab.executors.workers import InProcess
from trimtab.pipeline.make import named
from trimtab.pipeline.step import Step
from trimtab.records import Generation
from trimtab.store import blocks
from trimtab.store.artifacts import RunDirectory
from trimtab.store.blocks import Block
from trimtab.store.files import seal
from trimtab.store.progress import Stage, Watch


def tasks(folder: Path, decoding: str = "", **needs: str) -> list[Task]:
    """A task for each keyword, which needs the tasks that its letters name; those in `decoding` have blocks."""
    directory, made = RunDirectory(folder), dict[str, Task]()
    for name, letters in needs.items():
        inputs = {letter: made[letter].artifact for letter in letters}
        artifact = directory.artifact(name, {}, list(inputs.values()))
        made[name] = Task(Step(name, make=print, decodes=name in decoding), artifact, inputs, "{}", name)
    return [*made.values()]


class FakeWorkers(Executor):
    """So many workers, of which the one that was given something last ends first."""

    def __init__(self, count: int = 1, failing: str = "", deaths: int = 0, blocks: int = 3) -> None:
        self.count, self.failing, self.deaths, self.blocks = count, failing, deaths, blocks
        self.open: list[tuple[Work, Future[Any]]] = []
        self.order: list[str] = []
        self.open_at_work: list[str] = []
        self.perform = print
        self._put: Any = None

    def all(self) -> dict[str, Any]:
        return {f"worker {number}": self for number in range(self.count)}

    def listen(self, put: Any) -> None:
        self._put = put

    def parcel(self, artifact: Any) -> None:
        return

    def submit(self, fn: Any, /, *given: Any, **_: Any) -> "Future[Any]":
        (work,) = given
        self.open.append((work, Future()))
        self.order.append(work.step if work.kind != "decode" else f"{work.step}{work.block}")
        return self.open[-1][1]

    def work(self) -> None:
        self.open_at_work.append("".join(work.step for work, _ in self.open))
        work, future = self.open.pop()
        self._put(Note(work.artifact.digest, 1, 2))
        if self.deaths:
            self.deaths -= 1
            future.set_exception(WorkerDied("worker 1 was killed by SIGKILL"))
        elif work.step in self.failing:
            future.set_exception(RunError("diverged"))
        elif work.kind == "open":
            future.set_result(blocks.Plan.of(self.blocks, 1))
        elif work.kind == "decode":
            record = Generation(f"p{work.block}", "", 0, [], [], "", "stop")
            future.set_result(Decoded(Block([record], {}, 1.0), "cpu"))
        else:
            future.set_result(Made("cpu"))


def driven(made: list[Task], workers: FakeWorkers, watch: Watch | None = None) -> dict[str, str]:
    """The names of the failed tasks, each with its reason."""
    directory = RunDirectory(made[0].artifact.folder.parent)
    names = {task.artifact.digest: task.name for task in made}
    failed = Driver(made, directory, workers, watch or Watch(), Manner(threads=3, jobs=2)).run()
    return {names[digest]: str(error) for digest, error in failed.items()}


def test_a_task_comes_after_its_inputs_and_what_has_just_become_possible_first(tmp_path: Path) -> None:
    """So that a run's models stay loaded: c and e need only a, and wait for b and d, which belong together."""
    workers, watch = FakeWorkers(), Watch()
    assert driven(tasks(tmp_path, a="", b="a", c="a", d="b", e="c"), workers, watch) == {}
    assert workers.order == [*"abdce"]
    assert {stage.state for stage in watch.stages.values()} == {"made"}


def test_several_workers_make_what_does_not_wait_for_another(tmp_path: Path) -> None:
    workers = FakeWorkers(count=2)
    driven(tasks(tmp_path, a="", b="a", c="", d="bc"), workers)
    assert workers.open_at_work == ["ac", "a", "b", "d"]


def test_a_worker_stays_with_its_step_and_a_free_one_begins_another_or_helps(tmp_path: Path) -> None:
    workers = FakeWorkers(count=2)
    driven(tasks(tmp_path, decoding="ab", a="", b=""), workers)
    # b ends first in each round: its worker decodes all of it, then helps with a
    assert workers.order == ["a", "b", "b0", "b1", "b2", "a0", "a1", "a2"]
    alone = FakeWorkers()
    driven(tasks(tmp_path / "alone", decoding="ab", a="", b=""), alone)
    assert alone.order == ["a", "a0", "a1", "a2", "b", "b0", "b1", "b2"]


def test_a_failure_stops_what_needs_the_failed_task_and_nothing_else(tmp_path: Path) -> None:
    workers, watch = FakeWorkers(failing="b"), Watch()
    made = tasks(tmp_path, a="", b="a", c="b", d="a")
    watch.plan(task.name for task in made)
    assert driven(made, workers, watch) == {"b": "diverged"}
    assert workers.order == [*"abd"]
    assert [watch.stages[name].state for name in "abcd"] == ["made", "failed", "waits", "made"]


def test_blocks_that_others_decode_while_one_fails_are_kept(tmp_path: Path) -> None:
    (task,) = made = tasks(tmp_path, decoding="a", a="")
    workers = FakeWorkers(count=2)
    passing = workers.work

    def fail_block_two() -> None:
        workers.failing = "a" if workers.open[-1][0].block == 2 else ""
        passing()

    workers.work = fail_block_two  # type: ignore[method-assign]
    watch, lines = Watch(), list[str]()
    watch.print = lines.append
    assert driven(made, workers, watch) == {"a": "diverged"}
    assert sorted(file.name for file in task.artifact.work.glob("0*")) == ["00000.jsonl", "00001.jsonl"]
    assert lines == ["a failed (diverged): finishing what other workers do now"]
    workers.work = passing  # type: ignore[method-assign]
    workers.failing = ""
    assert driven(made, workers) == {} and task.artifact.whole
    assert workers.order[-1] == "a2" and workers.order.count("a0") == 1


@pytest.mark.parametrize(
    ("deaths", "failed"), [(3, {}), (4, {"a": "worker 1 was killed by SIGKILL; it was given out 4 times"})]
)
def test_what_a_dead_worker_had_is_given_out_again_three_times(
    tmp_path: Path, deaths: int, failed: dict[str, str]
) -> None:
    workers = FakeWorkers(deaths=deaths)
    assert driven(tasks(tmp_path, a="", b=""), workers) == failed
    assert workers.order == [*"aaaab"]


def test_whole_artifacts_are_used_again_also_a_chain_of_them(tmp_path: Path) -> None:
    workers, watch = FakeWorkers(), Watch()
    made = tasks(tmp_path, a="", b="a", c="b")
    watch.plan(task.name for task in made)
    for task in made[:2]:
        task.artifact.folder.mkdir()
        seal(task.artifact.folder)
    driven(made, workers, watch)
    assert workers.order == ["c"]
    assert [watch.stages[name].state for name in "abc"] == ["used again", "used again", "made"]


def test_tasks_that_make_the_same_are_made_once(tmp_path: Path) -> None:
    """Decoders with equal settings share their generations."""
    (task,) = tasks(tmp_path, a="")
    twin = Task(task.step, task.artifact, {}, "{}", "twin")
    finished: list[str] = []
    manner = Manner(threads=1, made=lambda task: finished.append(task.name))
    workers, watch = FakeWorkers(), Watch()
    watch.plan(["a", "twin"])
    assert Driver([task, twin], RunDirectory(tmp_path), workers, watch, manner).run() == {}
    assert finished == ["a", "twin"] and workers.order == ["a"]
    assert watch.stages["twin"].state == "used again"


def test_unlike_devices_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers = FakeWorkers(blocks=6)
    passing, devices = workers.submit, iter(["cpu", "H200", "cpu", "H200", "A100", "cpu"])

    def submit(fn: Any, /, *given: Any, **_: Any) -> "Future[Any]":
        future = passing(fn, *given)
        if given[0].kind == "decode":
            setting, device = future.set_result, next(devices)
            future.set_result = lambda result: setting(Decoded(result.block, device))  # type: ignore[method-assign]
        return future

    workers.submit = submit  # type: ignore[method-assign]
    (task,) = made = tasks(tmp_path, decoding="a", a="")
    driven(made, workers)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("blocks are decoded by unlike devices (cpu; H200)")
    plan = blocks.recorded_plan(task.artifact.folder)
    assert plan is not None and plan.devices == {"cpu": [0, 2, 5], "H200": [1, 3], "A100": [4]}


class Lacking(Executor):
    """A worker that answers at once, and lacks what some steps need."""

    def __init__(self, name: str, lacks: str) -> None:
        self.name, self.lacks, self.given = name, lacks, list[str]()

    def submit(self, fn: Any, /, *given: Any, **_: Any) -> "Future[Any]":
        (work,) = given
        self.given.append(work.step)
        answer: Future[Any] = Future()
        if work.step in self.lacks:
            answer.set_exception(Unfit(f"{self.name}: {work.step} takes about 9.0 GB"))
        else:
            answer.set_result(Made("cpu"))
        return answer


def test_a_step_goes_to_a_worker_that_has_what_it_needs_and_fails_where_none_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers, small, large = FakeWorkers(), Lacking("small", "ab"), Lacking("large", "b")
    monkeypatch.setattr(workers, "all", lambda: {"small": small, "large": large})
    monkeypatch.setattr(workers, "work", lambda: None)
    failed = driven(tasks(tmp_path, a="", b="", c="a", d="b"), workers)
    assert set(failed) == {"b"} and failed["b"].endswith(": b takes about 9.0 GB")
    assert sorted(small.given + large.given) == ["a", "a", "b", "b", "c"] and large.given.count("a") == 1
    assert "small: a takes about 9.0 GB" in caplog.text  # a warning, which the terminal shows


def test_a_step_fails_where_the_only_worker_that_might_do_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a worker that comes again under its old name is asked again."""
    workers, large = FakeWorkers(), FakeWorkers(deaths=1)
    small = Lacking("small", "a")
    present: dict[str, Any] = {"small": small, "large": large}
    monkeypatch.setattr(workers, "all", lambda: present)
    monkeypatch.setattr(workers, "listen", large.listen)

    def leave() -> None:
        present.pop("large", None)
        large._put(None)
        if large.open:
            large.work()

    monkeypatch.setattr(workers, "work", leave)
    assert driven(tasks(tmp_path, a=""), workers) == {"a": "small: a takes about 9.0 GB"}
    small.lacks, present["large"], large.deaths = "", large, 0
    assert driven(tasks(tmp_path, a=""), workers) == {}


@pytest.mark.parametrize("traced", [False, True])
def test_what_needs_a_step_whose_blocks_were_all_decoded_before_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: bool
) -> None:
    """A process was killed between the last block and the merge: there is nothing to give out for this step."""
    monkeypatch.setattr(open_step, "is_searched", lambda step: step.decodes)
    monkeypatch.setattr(open_step, "blocks_without_trace", lambda *given: [0, 2])
    monkeypatch.setattr(open_step, "_trace_file", lambda *given: tmp_path / "trace.jsonl")
    made = tasks(tmp_path, decoding="a", a="", b="a")
    work = made[0].artifact.work
    work.mkdir()
    plan = blocks.ensure_plan(work, 3, 1)
    for number in range(3):
        record = Generation(f"p{number}", "", 0, [], [], "", "stop")
        blocks.write_block(work, plan, number, Block([record], {}, 1.0), "cpu")
    workers = FakeWorkers()
    manner = Manner(threads=1, traced=traced)
    assert Driver(made, RunDirectory(tmp_path), workers, Watch(), manner).run() == {}
    assert workers.order == (["a0", "a2", "b"] if traced else ["b"])
    assert all(task.artifact.whole for task in made)


def test_a_signal_while_a_step_begins_stops_it(tmp_path: Path) -> None:
    """It comes after the step was said to run, and before anything else knows of it."""
    watch = Watch()

    def interrupt(stage: Stage) -> None:
        if stage.state == "runs":
            raise KeyboardInterrupt

    watch.listeners.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        driven(tasks(tmp_path, a=""), FakeWorkers(), watch)
    assert watch.stages["a"].state == "stopped"
    with pytest.raises(KeyboardInterrupt), watch("report"):
        pass
    assert watch.stages["report"].state == "stopped"


def test_a_run_that_was_taken_over_begins_no_further_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes to its URL now, and makes the other steps, too."""

    def upload(step: open_step.OpenStep) -> NoReturn:
        raise TakenOverError("s3://bucket/runs was taken over")

    monkeypatch.setattr(open_step.OpenStep, "finish", upload)
    workers, watch = FakeWorkers(), Watch()
    with pytest.raises(TakenOverError):
        driven(tasks(tmp_path, a="", b=""), workers, watch)
    assert workers.order == ["a"] and watch.stages["a"].state == "stopped"


class Large:
    """Stands for a model."""


@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_failed_step_had_loaded_is_freed(tmp_path: Path, hidden: bool) -> None:
    """A study keeps the error until its end, and the next step needs the memory."""
    loaded: list[weakref.ref[Large]] = []

    def training() -> NoReturn:
        model = Large()
        loaded.append(weakref.ref(model))
        raise MemoryError

    def explained() -> NoReturn:
        try:
            training()
        except MemoryError as error:
            raise RunError("there is not enough memory") from (None if hidden else error)

    workers = InProcess(Setup(tmp_path, Assets()))
    future = workers.submit(explained)
    workers.work()
    gc.collect()
    assert isinstance(future.exception(), RunError) and loaded[0]() is None


@pytest.mark.parametrize("code", [0, 3])
def test_code_that_ends_the_process_fails_its_step(code: int) -> None:
    """As `sys.exit(0)` in a plug-in, which would end a study well without its other runs."""
    with (
        pytest.raises(RunError, match=rf"^evaluate cbs failed .*\(SystemExit: {code}\): mend it"),
        named(Step("evaluate", print, "evaluate cbs")),
    ):
        sys.exit(code)
