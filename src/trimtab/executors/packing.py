"""A folder as bytes, for workers that do not see the run directory."""

import io
import tarfile
from pathlib import Path


def pack(folder: Path) -> bytes:
    """The files of a folder, its subfolders included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Write packed files into a folder."""
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")
