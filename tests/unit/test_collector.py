"""Python's collector of cycles passes over what stays, and over nothing else."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.assets.resolve import Assets
from trimtab.executors.collector import importing, set_apart, setting_apart
from trimtab.executors.work import Setup
from trimtab.executors.workers import InProcess


class Node:
    """An object that refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _frozen_as_before() -> Iterator[None]:
    yield
    set_apart()  # as the suite has it


def dead_node() -> "weakref.ref[Node]":
    return weakref.ref(Node())


def test_a_collection_looks_at_what_is_new() -> None:
    gc.unfreeze()
    gc.collect()  # what other tests have left
    before, old = dead_node(), [1]
    count = len(gc.get_objects())
    with setting_apart():
        assert before() is None  # what was dead before is not kept
        assert gc.get_freeze_count() > 0.9 * count
        assert not any(found is old for found in gc.get_objects())
        within = dead_node()
        gc.collect()
        assert within() is None
    assert gc.get_freeze_count() == 0 and any(found is old for found in gc.get_objects())


def test_it_ends_with_an_error_too() -> None:
    gc.unfreeze()
    with pytest.raises(KeyError), setting_apart():
        raise KeyError
    assert gc.get_freeze_count() == 0


def test_who_had_set_objects_apart_finds_them_so() -> None:
    set_apart()
    with setting_apart():
        pass
    assert gc.get_freeze_count() > 0


def test_what_nothing_names_is_freed_though_it_is_set_apart() -> None:
    node = Node()
    ended = weakref.ref(node)
    set_apart()
    del node.itself, node
    assert ended() is None


def test_imports_are_not_interrupted_by_collections() -> None:
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()  # as the caller had it
    gc.enable()


def test_a_run_in_the_user_s_process_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    gc.unfreeze()
    with InProcess(Setup(tmp_path, Assets())):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
