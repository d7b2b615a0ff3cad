"""What a process finds out about its launcher, and what a launch may not ask for."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training_preference import run, settings

from tiny import llama
from trimtab.errors import ConfigurationError
from trimtab.store.distributed import launch_command
from trimtab.store.lock import command_line

WORDS = ["tune", "my file.yaml", "--set", "seed=1"]
TELL = "import sys; sys.argv[0] = '/bin/trimtab'; from trimtab.store.lock import command_line; print(command_line())"
START = "import os, subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {tell!r}, *{words!r}]))"


def told(launcher: list[str], environment: dict[str, str]) -> str:
    """The command as a process tells it that `launcher` has started."""
    return subprocess.run(
        [*launcher, "-m", "trimtab", *WORDS], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()  # fmt: skip


def launcher(folder: Path, words: list[str]) -> list[str]:
    """A script in the place of accelerate's, which starts one process with these arguments."""
    file = folder / "accelerate"
    file.write_text(START.format(tell=TELL, words=words))
    return [sys.executable, str(file), "launch", "--num_processes", "2"]


def test_the_command_of_a_launched_process_is_its_launchers(tmp_path: Path) -> None:
    """As the user typed it, so that it can be repeated; another parent, such as a shell of SLURM's, is no launcher."""
    src = str(Path(__file__).parents[2] / "src")
    alone = {**os.environ, "PYTHONPATH": src}
    launched = {**alone, "RANK": "0", "WORLD_SIZE": "2"}
    own = shlex.join(["trimtab", *WORDS])
    typed = shlex.join(["accelerate", "launch", "--num_processes", "2", "-m", "trimtab", *WORDS])
    assert told(launcher(tmp_path, WORDS), launched) == typed
    assert told(launcher(tmp_path, WORDS), alone) == own
    assert told(launcher(tmp_path, [*WORDS, "more"]), launched) == own + " more"
    module = tmp_path / "launching.py"
    module.write_text(START.format(tell=TELL, words=WORDS))
    launched["PYTHONPATH"] = f"{src}:{tmp_path}"
    assert told([sys.executable, "-m", "launching"], launched) == shlex.join(
        [Path(sys.executable).name, "-m", "launching", "-m", "trimtab", *WORDS]
    )


def test_a_command_without_arguments_has_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch_command([]) is None
    monkeypatch.setattr(sys, "argv", ["/usr/bin/trimtab"])
    assert command_line() == "trimtab"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "the launch asks for mixed precision bf16, but the model's dtype alone"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "the launch asks for mixed precision fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "the launch asks for dynamo_backend INDUCTOR: leave it out"),
    ],
)
def test_a_launch_changes_no_numbers(
    variable: str, value: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a silent fault: transformers' trainer takes precision and compilation from accelerate's configuration,
    and the artifact of a model in float32 would have held one that was trained in bfloat16."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=line):
        run(tmp_path, llama(0, dtype=torch.float32), settings(epochs=1))
    monkeypatch.setenv(variable, "no")
    assert run(tmp_path, llama(0, dtype=torch.float32), settings(epochs=1))["steps"] == 6
