"""What tests of killed, stopped and shared runs need: a small real run, a process that forks it, a run never killed."""

from collections.abc import Iterator

import pytest

from small_run import SmallRun, run_bytes
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
def whole(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All that a run that was never killed leaves, times apart."""
    folder = tmp_path_factory.mktemp("whole")
    assert small_run.finish("run", folder) == 0, small_run.errors(folder)
    return run_bytes(folder)
