"""Folders of a process for what it needs no longer than it lives; those of processes that were killed are deleted.

>>> folder = scratch_folder()
>>> Path(folder.name).is_dir()
True
>>> folder.cleanup()
"""

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

import psutil


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is deleted at this process's end; where it is killed, by the next one of this machine."""
    # another container, whose processes are not seen here, may have the same folder for temporary files
    prefix = f"trimtab-{socket.gethostname()}-"
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = re.match(r"\d+(?=-)", folder.name.removeprefix(prefix))
        if owner is not None and not psutil.pid_exists(int(owner[0])):
            shutil.rmtree(folder, ignore_errors=True)  # it may be another user's
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")
