"""Idle threads of OpenMP do not spin: every entry sets it before torch is loaded, and leaves what a user has set."""

import os
import subprocess
import sys

import pytest

from trimtab.executors.idle_threads import SERVER_SPINS, SPINS, wait_briefly

POLICY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
PARSED = "import tyro; tyro.extras.subcommand_cli_from_dict = lambda *_, **__: exec({seen!r})"
SEEN = "import os, sys; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("set_before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"GOMP_SPINCOUNT": ""}, {"GOMP_SPINCOUNT": ""}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_what_a_user_has_set_stays(
    set_before: dict[str, str], after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in POLICY:
        monkeypatch.delenv(name, raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert {name: os.environ[name] for name in POLICY if name in os.environ} == after


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in POLICY}


@pytest.mark.parametrize(
    ("entry", "spins"),
    [
        # the command line, and what `accelerate launch` starts
        (f"from trimtab import cli; cli.command_line = None; {PARSED}; cli.main()", SPINS),
        (f"import runpy; {PARSED}; runpy.run_module('trimtab', run_name='__main__')", SPINS),
        # a server's threads wait longer
        (f"import sys; sys.argv[1:] = ['serve', 'runs']; from trimtab import cli; {PARSED}; cli.main()", SERVER_SPINS),
        # a worker of --jobs or of a study, before it imports what works
        (
            "import os, signal, threading; from trimtab.executors import local; signal.signal = lambda *_: None; "
            "threading.Thread.start = lambda _: None; os.dup2 = lambda *_: None; from pathlib import Path; "
            "from trimtab.executors.work import Setup; local.WarningHandler = lambda _: exec({seen!r}) or os._exit(0); "
            "local._begin(local._Start(Setup(Path('/tmp'), None), 1, 1, None), None)",
            SPINS,
        ),
    ],
    ids=["command line", "module", "server", "worker"],
)
def test_every_entry_sets_it_before_torch_is_loaded(entry: str, spins: int) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", entry.format(seen=SEEN)],
        env=plain_environment(), check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert printed.split() == ["False", str(spins)]


def test_the_library_reads_what_is_set_within_the_process() -> None:
    """GNU OpenMP shows its settings when it is loaded, as torch does it."""
    shown = subprocess.run(
        [sys.executable, "-c", "from trimtab.executors.idle_threads import wait_briefly; wait_briefly(); import torch; "
         "print(torch.__config__.parallel_info())"],
        env={**plain_environment(), "OMP_DISPLAY_ENV": "verbose"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in shown.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not lines:
        pytest.skip("torch comes with another OpenMP here")
    assert all(f"'{SPINS}'" in line for line in lines)
