"""What processes leave in the folder for temporary files."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trimtab.executors.scratch import scratch_folder

KILLED = """
import os, signal
from trimtab.executors.scratch import scratch_folder
folder = scratch_folder()
open(f"{folder.name}/model.bin", "w").close()
print(folder.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray kills its actors. Folders of living processes and of other programs and machines stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = scratch_folder()
    others = [tmp_path / name for name in ("trimtab-elsewhere-1-x", f"trimtab-{socket.gethostname()}-x", "trimtab-x")]
    for other in others:
        other.mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, check=False)
    left = Path(ended.stdout.strip())
    assert ended.returncode == -signal.SIGKILL and (left / "model.bin").is_file()
    next_one = scratch_folder()
    assert set(tmp_path.iterdir()) == {*others, Path(own.name), Path(next_one.name)}
    for folder in (own, next_one):
        folder.cleanup()
