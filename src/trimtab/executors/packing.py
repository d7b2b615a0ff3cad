"""A folder's files as arrays, for workers that do not see the run directory. Ray moves arrays without copying them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

Files = Mapping[str, np.ndarray]
"""The bytes of files, by their paths in a folder."""


def pack(folder: Path) -> Files:
    """The files of a folder, its subfolders included, mapped into memory."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _bytes_of(file) for file in files}


def _bytes_of(file: Path) -> np.ndarray:
    return np.memmap(file, np.uint8, "r").view(np.ndarray) if file.stat().st_size else np.empty(0, np.uint8)


def unpack(files: Files, folder: Path) -> None:
    """Write packed files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content.tofile(folder / name)
