"""What is made next and what a failure takes with it."""

from pathlib import Path
from types import SimpleNamespace

from trimtab.store.artifacts import Artifact
from trimtab.study.plan import Plan, Task
from trimtab.study.schedule import Schedule


def plan(folder: Path, **inputs: str) -> Plan:
    """A task for each name, made from those that its letters name; each ends in a run of its own name."""
    tasks = {name: Task(name, Artifact(name, name, folder / name, {}), tuple(given)) for name, given in inputs.items()}

    def needed(name: str) -> set[str]:
        return {name}.union(*(needed(other) for other in tasks[name].inputs))

    runs = {name: {each: each for each in sorted(needed(name))} for name in tasks}
    return Plan(SimpleNamespace(), tasks, runs)


def test_tasks_come_in_order_once_what_they_are_made_from_is_there(tmp_path):
    schedule = Schedule(plan(tmp_path, a="", b="a", c="", d="bc"))
    first, second = schedule.next(), schedule.next()
    assert (first.stage, second.stage) == ("a", "c") and schedule.next() is None
    schedule.made("c")
    assert schedule.next() is None and not schedule.ended
    schedule.made("a")
    assert schedule.next().stage == "b"
    schedule.made("b")
    assert schedule.next().stage == "d" and not schedule.whole("d")
    schedule.made("d")
    assert schedule.ended and schedule.whole("d") and schedule.reasons() == {}


def test_a_failure_takes_with_it_what_would_be_made_from_it_and_no_more(tmp_path):
    schedule = Schedule(plan(tmp_path, a="", b="a", c="b", d="a"))
    schedule.made(schedule.next().stage)
    assert schedule.next().stage == "b"
    schedule.failed("b", "diverged")
    assert schedule.next().stage == "d" and not schedule.ended
    schedule.made("d")
    assert schedule.ended
    assert schedule.reasons() == {"b": "b: diverged", "c": "b: diverged"}
    assert [run for run in "abcd" if schedule.whole(run)] == ["a", "d"]
