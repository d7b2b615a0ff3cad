"""What the files of a model or data set hold, as one hash: the same on every machine that has the same files.

The bytes of large files are read once: the hub's cache names a large file's blob by its sha256, and other files' hashes
are remembered with their sizes and times of change.
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

READ_SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".jinja", ".csv", ".jsonl", ".parquet", ".arrow"}
"""Suffixes of files that a model or data set is read from; READMEs and other formats do not count."""
HASHING_THREADS = 4  # files that are hashed at the same time
SLOW_BYTES = 2_000_000_000  # from this size on reading takes long enough to be announced
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)

Known = dict[str, tuple[int, int, str]]
"""By relative name: size in bytes, time of change in ns, sha256."""


def content_digest(path: Path, memory: Path) -> str:
    """A hash of names and contents of the files that `path` is read from; `memory` is a folder for known hashes.

    Raises:
        AssetError: a file cannot be read.
    """
    files = content_files(path)
    note = memory / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    remembered = _remembered(note)
    try:
        facts = {name: (file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()}
        hashes = {name: sha256 for name, (*old, sha256) in remembered.items() if facts.get(name) == tuple(old)}
        hashes |= {name: sha256 for name, file in files.items() if (sha256 := _blob_sha256(file)) is not None}
        unknown = [name for name in files if name not in hashes]
        if sum(facts[name][0] for name in unknown) > SLOW_BYTES:
            _log.info("reading %s once, to know it again", path)
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            hashes |= zip(unknown, pool.map(sha256_of, [files[name] for name in unknown]), strict=True)
    except OSError as error:
        raise AssetError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if unknown:
        with contextlib.suppress(OSError, RunError):  # without a note the next look is as slow as this one
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, [json.dumps({name: (*facts[name], hashes[name]) for name in files})], durable=False)
    return hashlib.sha256("\n".join(f"{name} {hashes[name]}" for name in files).encode()).hexdigest()[:16]


def content_files(path: Path) -> dict[str, Path]:
    """The files that a model or data set is read from, by relative name in order; pickles only without safetensors.

    A single file has the name "", so that renaming it changes nothing.
    """
    if not path.is_dir():
        return {"": path}
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    read = {name: file for name, file in files.items() if file.suffix in READ_SUFFIXES}
    if any(file.suffix == ".safetensors" for file in read.values()):
        return read
    return read | {name: file for name, file in files.items() if file.suffix == ".bin"} or files


def _blob_sha256(file: Path) -> str | None:
    """The sha256 of a file in the hub's cache, which is the file's name there; None for other files."""
    target = file.resolve()
    return target.name if target.parent.name == "blobs" and _SHA256.fullmatch(target.name) else None


def _remembered(note: Path) -> Known:
    try:
        return {name: (size, changed, sha) for name, (size, changed, sha) in json.loads(note.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or cut off by a kill
        return {}
