"""Several processes decode side by side: the same bytes as one, whatever dies meanwhile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finished import Finished, run
from small_run import SETTINGS, run_bytes
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import is_study, load_experiment
from trimtab.errors import ConfigurationError, RunError
from trimtab.executors.helpers import Helpers
from trimtab.executors.messages import Task
from trimtab.executors.pool import Pool
from trimtab.pipeline.make import StepRunner
from trimtab.pipeline.step import Step
from trimtab.pipeline.traces import trace_file, traced
from trimtab.store.lock import run_lock
from trimtab.store.progress import watching
from trimtab.study.study_file import load_study

READY_REWARD = ["reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE"]
DECODED = {"synthesize tuning", "guide base", "guide bon-4", "guide cbs-2-2-3", "guide eft-1"}


@pytest.fixture(scope="module")
def path_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, path_map: Path) -> dict[str, bytes]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    decoded(folder, path_map, jobs=1)
    return run_bytes(folder)


def decoded(folder: Path, path_map: Path, jobs: int, trace: bool = False) -> Finished:
    settings = [each for each in SETTINGS if not each.startswith("reward.training.")]
    experiment = load_experiment(cli.SHIPPED / "quickstart.yaml", [*settings, *READY_REWARD])
    with watching(quiet=True) as watch:
        return run(experiment, folder, Assets(cache=folder / "cache", path_map=path_map), watch, trace=trace, jobs=jobs)


def test_two_processes_make_what_one_makes(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[str] = []
    submit, make, alone_from = Pool.submit, StepRunner.make, list[str]()

    def noted(session: StepRunner, step: Step) -> object:
        made = make(session, step)
        assert isinstance(session.helpers, Helpers)
        if session.helpers._pool._workers == {2: None}:
            alone_from.append(step.name)
        return made

    monkeypatch.setattr(StepRunner, "make", noted)
    monkeypatch.setattr(Pool, "submit", lambda pool, task: (shared.append(task.digest), submit(pool, task)))
    line = decoded(tmp_path, path_map, jobs=2)
    assert run_bytes(tmp_path) == alone
    assert alone_from[0] == "evaluate base" and alone_from[-1] == "report", "idle processes hold memory"
    assert len(shared) == len(set(shared)) == 3, "what has several blocks: samples, best-of-4 and the beam search"
    assert torch.get_num_threads() == 1
    states = {name: stage for name, stage in line.watch.stages.items() if name in DECODED}
    assert all(stage.done == stage.total for stage in states.values()) and len(states) == 5
    assert (tmp_path / "quickstart" / "log-worker-2.txt").is_file()
    with run_lock(tmp_path / "quickstart"):
        pass  # no process lives on


def test_a_helper_that_dies_loses_no_block(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        submit = Pool.submit

        def submit_to_a_dead_worker(pool: Pool, task: Task) -> None:
            pool.start()
            worker = pool._workers[2]
            assert worker is not None
            worker.process.kill()
            worker.process.wait()
            submit(pool, task)

        patched.setattr(Pool, "submit", submit_to_a_dead_worker)
        with pytest.raises(RunError, match=r"synthesize tuning: its process was killed by SIGKILL: .* lower --jobs"):
            decoded(tmp_path, path_map, jobs=2)
    (work,) = (tmp_path / "quickstart").glob("synthesize-*.work")
    kept = sorted(file.name for file in work.glob("0*.jsonl"))
    assert kept == ["00000.jsonl", "00002.jsonl"], "this process's own share"
    decoded(tmp_path, path_map, jobs=2)
    assert run_bytes(tmp_path) == alone


def test_a_helper_that_fails_says_why(tmp_path: Path, path_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Pool.submit

    def without_models(pool: Pool, task: Task) -> None:
        submit(pool, replace(task, path_map=str(tmp_path / "none.yaml")))

    monkeypatch.setattr(Pool, "submit", without_models)
    with pytest.raises(RunError, match=r"synthesize tuning: the path map .*none.yaml cannot be read"):
        decoded(tmp_path, path_map, jobs=2)


def test_traced_searches_are_decoded_by_one_process(tmp_path: Path, path_map: Path, alone: dict[str, bytes]) -> None:
    line = decoded(tmp_path, path_map, jobs=2, trace=True)
    assert run_bytes(tmp_path) == alone
    for decoder in line.experiment.guide.decoders:
        if decoder.best_of is None:
            trace = trace_file(line.directory.path, decoder.name, line.guided(decoder).digest)
            assert len(traced(trace)) == 6


def test_wrong_numbers_of_jobs(tmp_path: Path, path_map: Path) -> None:
    with pytest.raises(ConfigurationError, match="jobs is 0: give at least 1"):
        decoded(tmp_path, path_map, jobs=0)


@pytest.mark.parametrize("file", sorted(cli.SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_experiment_is_the_same_to_a_worker(file: Path) -> None:
    experiments = (
        [run.experiment for run in load_study(file, find=cli.experiment_file).runs]
        if is_study(file)
        else [load_experiment(file)]
    )
    for experiment in experiments:
        read = Experiment.model_validate_json(experiment.model_dump_json(exclude_unset=True))
        assert read == experiment
        given = [each.model_fields_set for each in experiment.guide.decoders]
        assert [each.model_fields_set for each in read.guide.decoders] == given
