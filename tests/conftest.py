"""Makes shared modules of tests importable, and keeps each test and what it starts to one thread, so that they run
side by side. With `--stand-in N` each test runs as on a machine of N accelerators (`stand_in`)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from trimtab.executors.collector import importing, set_apart
from trimtab.executors.idle_threads import wait_briefly
from trimtab.plugins.registry import REGISTRIES, Registry

collect_ignore = ["clients"]  # programs that tests start, in environments of their own
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
wait_briefly()  # before torch is imported

with importing():
    import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stand-in", type=int, default=0, metavar="N", help="run as with N accelerators")


def pytest_collection_finish() -> None:
    """Trainers and workers collect cycles often: let them pass over libraries and the tests themselves."""
    set_apart()


@pytest.fixture(autouse=True)
def _imports_stay_in_their_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules that a test wrote, and places they are imported from, end with it: the next test may use their names.

    Installed modules stay: a second copy of `multiprocessing.pool` cannot pickle what it sends.
    """
    path, before, base = list(sys.path), set(sys.modules), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        values = vars(module) if isinstance(module, ModuleType) else {}  # six puts other things there
        places = [values["__file__"]] if values.get("__file__") else list(values.get("__path__", []))
        if any(Path(place).is_relative_to(base) for place in places):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _plugins_stay_in_their_test() -> Iterator[None]:
    """Entries that a test's plug-in added end with it."""
    yield
    for place in REGISTRIES.values():
        module, _, name = place.partition(":")
        entries = vars(sys.modules[module]).get(name) if module in sys.modules else None
        if isinstance(entries, Registry):
            for entry in [entry for entry in entries.values() if not entry.own]:
                entries.discard(entry.name)


@pytest.fixture(autouse=True)
def _accelerators(request: pytest.FixtureRequest) -> Iterator[None]:
    count = request.config.getoption("--stand-in")
    if not count:
        yield
        return
    from stand_in import accelerators

    with accelerators(count):
        yield
