"""What the files of a model or data set hold, as one hash: the same on every machine that has the same files.

The bytes of large files are read once. The hub's cache names a large file's blob by its sha256, and what has been read
is remembered with the file's size and time of change. Knows nothing of names or of where files come from.

    >>> content_digest(Path("models/gpt2"), Path("cache/digests"))                      # doctest: +SKIP
    '3f0c2d9be6a1f7c4'
"""

import contextlib
import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trimtab.assets.download import sha256_of
from trimtab.errors import AssetError, RunError
from trimtab.store.files import write_text

READ = {".json", ".safetensors", ".model", ".txt", ".jinja", ".csv", ".jsonl", ".parquet", ".arrow"}
"""Suffixes of files that a model or data set is read from; beside them READMEs and other formats may lie, or not."""
THREADS = 4
SLOW = 2_000_000_000  # bytes from which reading takes long enough to say so
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)

Known = dict[str, tuple[int, int, str]]
"""By relative name: size in bytes, time of change in ns, sha256."""


def content_digest(place: Path, memory: Path) -> str:
    """A hash of names and contents of the files that `place` is read from; `memory` is the folder for what was read.

    Raises:
        AssetError: a file cannot be read.
    """
    files = content_files(place)
    note = memory / f"{hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:24]}.json"
    before = _remembered(note)
    try:
        facts = {name: (file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()}
        known = {name: blob for name, file in files.items() if (blob := _blob_sha256(file)) is not None}
        known |= {name: old[2] for name, old in before.items() if facts.get(name) == old[:2] and name not in known}
        open_files = [name for name in files if name not in known]
        if sum(facts[name][0] for name in open_files) > SLOW:
            _log.info("reading %s once, to know it again", place)
        with ThreadPoolExecutor(THREADS) as pool:
            known |= dict(zip(open_files, pool.map(sha256_of, [files[name] for name in open_files]), strict=True))
    except OSError as error:
        raise AssetError(f"{error.filename or place} cannot be read: {error.strerror}") from None
    if open_files:
        _remember(note, {name: (*facts[name], known[name]) for name in files})
    return hashlib.sha256("\n".join(f"{name} {known[name]}" for name in files).encode()).hexdigest()[:16]


def content_files(place: Path) -> dict[str, Path]:
    """The files that a model or data set is read from, by relative name in order; pickles where there is nothing else.

    A file is itself, under no name: what it is called says nothing.
    """
    if not place.is_dir():
        return {"": place}
    paths = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}
    read = {name: path for name, path in paths.items() if path.suffix in READ}
    if any(path.suffix == ".safetensors" for path in read.values()):
        return read
    return read | {name: path for name, path in paths.items() if path.suffix == ".bin"} or paths


def _blob_sha256(file: Path) -> str | None:
    """The sha256 that the hub's cache has named a file by; None for other files."""
    target = file.resolve()
    return target.name if target.parent.name == "blobs" and _SHA256.fullmatch(target.name) else None


def _remembered(note: Path) -> Known:
    try:
        return {name: (size, changed, sha) for name, (size, changed, sha) in json.loads(note.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or one that was cut
        return {}


def _remember(note: Path, known: Known) -> None:
    """Write the note; a cache that cannot be written only makes the next look as slow."""
    with contextlib.suppress(OSError, RunError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, [json.dumps(known)], lasting=False)
