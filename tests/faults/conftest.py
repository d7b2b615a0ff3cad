"""What tests of killed, stopped and shared runs need: a small real run, a process that forks it, a run never killed."""

from collections.abc import Iterator

import pytest

from small_run import SmallRun, Whole, run_bytes
from warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """One warm process that forks commands."""
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def small_run(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """The small run's commands."""
    return SmallRun(warm, tmp_path_factory.mktemp("small-run"))


@pytest.fixture(scope="session")
def whole_run(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("whole")
    pid = small_run.start("run", folder)
    assert small_run.wait(pid) == 0, small_run.errors(folder)
    return Whole(run_bytes(folder), small_run.warm.processor_seconds(pid))


@pytest.fixture(scope="session")
def whole(whole_run: Whole) -> dict[str, bytes]:
    """All that a run that was never killed leaves, times apart."""
    return whole_run.files
