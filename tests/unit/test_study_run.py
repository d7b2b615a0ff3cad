"""The task in which a study makes its tasks, and which tasks a failure stops."""

from pathlib import Path
from types import SimpleNamespace

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.executors import messages
from trimtab.executors.messages import Message, Send
from trimtab.pipeline.step import Step
from trimtab.store.artifacts import Artifact
from trimtab.store.files import seal
from trimtab.store.progress import Watch
from trimtab.study.plan import StudyPlan, Task
from trimtab.study.run import carry_out


def plan(folder: Path, runs: dict[str, str], **inputs: str) -> StudyPlan:
    """A task for each keyword, which needs the tasks that its letters name; `runs` gives the tasks of each run."""
    tasks = {
        name: Task(
            Step(name, make=print), Artifact(name, name, folder / name, {}), tuple(needs),
            [run for run in runs if name in runs[run]], name,
        )
        for name, needs in inputs.items()
    }  # fmt: skip
    study = SimpleNamespace(runs=[SimpleNamespace(name=run, experiment=Experiment(name=run)) for run in runs])
    return StudyPlan(study, tasks, {run: {name: name for name in names} for run, names in runs.items()})


class FakeExecutor:
    """Takes up to `workers` tasks and ends one at each wait: the last one taken first."""

    def __init__(self, workers: int = 1, failing: str = "") -> None:
        self.workers, self.failing = workers, failing
        self.open: list[messages.Task] = []
        self.submitted: list[messages.Task] = []
        self.open_at_wait: list[str] = []

    def free(self) -> bool:
        return len(self.open) < self.workers

    def submit(self, task: messages.Task) -> None:
        self.open.append(task)
        self.submitted.append(task)

    def wait(self, send: Send) -> None:
        self.open_at_wait.append("".join(task.digest for task in self.open))
        digest = self.open.pop().digest
        send(Message(digest, "progress", done=1, total=2))
        send(Message(digest, "failed", "diverged") if digest in self.failing else Message(digest, "made"))

    @property
    def order(self) -> str:
        return "".join(task.digest for task in self.submitted)


def carried_out(plan: StudyPlan, executor: FakeExecutor, watch: Watch | None = None) -> dict[str, str]:
    return carry_out(plan, executor, Assets(cache=Path("cache")), watch or Watch(), threads=3, beside=2)


def test_tasks_come_run_after_run_each_after_its_inputs(tmp_path):
    """So that the models of a run stay loaded: c and e need only a, and wait for the first run's b and d."""
    executor, watch = FakeExecutor(), Watch()
    assert (
        carried_out(plan(tmp_path, {"x": "abd", "y": "ace"}, a="", b="a", d="b", c="a", e="c"), executor, watch) == {}
    )
    assert executor.order == "abdce"
    assert {stage.state for stage in watch.stages.values()} == {"made"}


def test_an_order_names_the_experiment_of_the_task_s_first_run_and_how_the_machine_is_shared(tmp_path):
    executor = FakeExecutor()
    carried_out(plan(tmp_path, {"x": "a", "y": "ab"}, a="", b="a"), executor)
    assert [Experiment.model_validate_json(task.experiment).name for task in executor.submitted] == ["x", "y"]
    assert {(task.threads, task.beside) for task in executor.submitted} == {(3, 2)}


def test_several_workers_make_what_does_not_wait_for_another(tmp_path):
    executor = FakeExecutor(workers=2)
    carried_out(plan(tmp_path, {"x": "abcd"}, a="", b="a", c="", d="bc"), executor)
    assert executor.open_at_wait == ["ac", "a", "b", "d"]


def test_a_failure_stops_what_needs_the_failed_task_and_nothing_else(tmp_path):
    executor, watch = FakeExecutor(failing="b"), Watch()
    assert carried_out(plan(tmp_path, {"x": "abc", "y": "ad"}, a="", b="a", c="b", d="a"), executor, watch) == {
        "b": "diverged"
    }
    assert executor.order == "abd"
    assert [watch.stages[name].state for name in "abcd"] == ["made", "failed", "waits", "made"]


def test_whole_artifacts_are_used_again_also_a_chain_of_them(tmp_path):
    executor, watch = FakeExecutor(), Watch()
    for name in "ab":
        (tmp_path / name).mkdir()
        seal(tmp_path / name)
    carried_out(plan(tmp_path, {"x": "abc"}, a="", b="a", c="b"), executor, watch)
    assert executor.order == "c"
    assert [watch.stages[name].state for name in "abc"] == ["used again", "used again", "made"]
