"""What tests of killed, stopped and shared runs need: a small real run, a process that forks it, a run never killed."""

from collections.abc import Iterator

import pytest

from small_run import SmallRun, run_bytes
from warm import Warm


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    """The small run's commands, each forked from one warm process."""
    warm = Warm()
    yield SmallRun(warm, tmp_path_factory.mktemp("small-run"))
    warm.close()


@pytest.fixture(scope="session")
def whole(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All that a run that was never killed leaves, times apart."""
    folder = tmp_path_factory.mktemp("whole")
    assert small_run.finish("run", folder) == 0, small_run.errors(folder)
    return run_bytes(folder)
