"""Reward functions in files of a user's: they are modules as Python imports them, and are known by all their code."""

import hashlib
import importlib
import json
import logging
import statistics
import sys
from pathlib import Path

import pytest

from trimtab.errors import ConfigurationError
from trimtab.plugins.source_files import sources
from trimtab.plugins.user_functions import named_function, source_hash
from trimtab.rewards.function import FunctionReward


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def score(name: str) -> list[float]:
    return FunctionReward(named_function(name), name).score(["a", "b"], ["", ""])


def judging(code: str, one: str = "1.0") -> str:
    """A file with some code, and a function that gives `one` for each text."""
    return f"{code}\ndef score(texts): return [{one} for _ in texts]\n"


FUTURE = "from __future__ import annotations\n"
KINDS = {
    "a dataclass": judging(
        FUTURE + "from dataclasses import KW_ONLY, dataclass\n@dataclass\nclass Worth:\n    _: KW_ONLY\n"
        "    value: float | None = 1.0",
        "Worth().value",
    ),
    "a pickled class": judging("import pickle\nclass Worth: value = 1.0", "pickle.loads(pickle.dumps(Worth())).value"),
    "annotations": judging(
        FUTURE + "import typing\nclass Worth(typing.NamedTuple):\n    value: float = 1.0",
        "typing.get_type_hints(Worth)['value'](1)",
    ),
    "an enumeration": judging(
        "import copy, enum\nclass Worth(enum.Enum):\n    GOOD = 1.0", "copy.deepcopy(Worth.GOOD).value"
    ),
    "a neighbour": judging("from neighbour import one", "one()"),
    "a neighbour, when called": judging("", "__import__('neighbour').one()"),
    "a package beside it": judging("from pack.inner import one\nimport pack.inner", "one()"),
    "a folder without __init__": judging("from loose.inner import one", "one()"),
    "a data file beside it": judging(
        "from pathlib import Path", "float((Path(__file__).parent / 'one.txt').read_text())"
    ),
    "a main part": judging("") + "if __name__ == '__main__':\n    raise SystemExit('run')\n",
    "its own module": judging("import sys\none = 1.0", "sys.modules[__name__].one"),
    "processes": "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
    "def one(text): return 1.0\ndef score(texts):\n"
    "    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:\n"
    "        return list(pool.map(one, texts, timeout=120))\n",
}


def neighbours(folder: Path, one: float = 1.0) -> None:
    write(folder / "neighbour.py", f"def one(): return {one}\n")
    write(folder / "pack" / "__init__.py", "")
    write(folder / "pack" / "inner.py", "from .other import one\n")
    write(folder / "pack" / "other.py", f"def one(): return {one}\n")
    write(folder / "loose" / "inner.py", f"def one(): return {one}\n")
    write(folder / "one.txt", str(one))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["file elsewhere", "file here", "module here"])
def test_a_file_is_a_module(tmp_path, monkeypatch, kind, way):
    """With all that modules do, wherever the command runs."""
    write(tmp_path / "mine" / "my_rewards.py", KINDS[kind])
    neighbours(tmp_path / "mine")
    monkeypatch.chdir(tmp_path if way == "file elsewhere" else tmp_path / "mine")
    if way == "module here" and kind == "processes":
        monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    place = {"file elsewhere": "mine/my_rewards.py", "file here": "my_rewards.py", "module here": "my_rewards"}[way]
    if way == "module here" and kind == "a neighbour, when called":
        monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    assert score(f"{place}:score") == [1.0, 1.0]
    assert score(f"{place}:score") == [1.0, 1.0], "and once more in the same process"


@pytest.mark.parametrize("name", ["statistics", "random", "torch", "queue", "my-rewards", "my.rewards", "2nd"])
def test_a_file_may_have_the_name_of_another_module(tmp_path, name):
    """One of Python's own or an installed one, which stays what it is, and no name of a module at all."""
    before = sys.modules.get(name)
    file = write(
        tmp_path / f"{name}.py", "import statistics\ndef score(texts): return [statistics.mean([1.0]) for _ in texts]\n"
    )
    assert score(f"{file}:score") == [1.0, 1.0]
    assert sys.modules.get(name, before) is before or "-" in name or name == "2nd"
    assert importlib.import_module("statistics") is statistics


def test_a_file_under_a_longer_name_can_start_processes(tmp_path):
    """They import it by that name to unpickle its functions."""
    neighbours(tmp_path)
    code = KINDS["processes"].replace("return 1.0\n", "\n    from neighbour import one as other\n    return other()\n")
    file = write(tmp_path / "statistics.py", code)
    assert score(f"{file}:score") == [1.0, 1.0]


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, one in (("a", 1.0), ("b", 2.0)):
        neighbours(tmp_path / folder, one)
        write(
            tmp_path / folder / "my_rewards.py",
            "import pickle\nfrom neighbour import one\nfrom pack.inner import one as other\nclass Worth: pass\n"
            "def score(texts):\n    assert type(pickle.loads(pickle.dumps(Worth()))) is Worth\n"
            "    return [one() * 10 + other() for _ in texts]\n",
        )
    for _ in range(2):
        assert score(f"{tmp_path}/a/my_rewards.py:score") == [11.0, 11.0]
        assert score(f"{tmp_path}/b/my_rewards.py:score") == [22.0, 22.0]


@pytest.mark.parametrize("changed", ["my_rewards.py", "neighbour.py", "pack/other.py"])
@pytest.mark.parametrize("is_file", [True, False])
def test_changed_code_is_other_code_and_runs_anew(tmp_path, monkeypatch, changed, is_file):
    monkeypatch.chdir(tmp_path)
    neighbours(tmp_path)
    write(
        tmp_path / "my_rewards.py",
        "from neighbour import one\nfrom pack.inner import one as other\nMINE = 1.0\n"
        "def score(texts): return [one() * other() * MINE for _ in texts]\n",
    )
    name = "my_rewards.py:score" if is_file else "my_rewards:score"
    before = source_hash(name)
    assert score(name) == [1.0, 1.0] and source_hash(name) == before
    write(
        tmp_path / changed, (tmp_path / changed).read_text().replace("1.0", "2.0")
    )  # of the same length in the same second
    assert source_hash(name) != before
    assert score(name) == [2.0, 2.0]


def test_code_runs_once_where_it_stays(tmp_path):
    file = write(tmp_path / "my_rewards.py", "print('loads')\ndef a(texts): return [1]\ndef b(texts): return [1]\n")
    assert named_function(f"{file}:a").__globals__ is named_function(f"{file}:b").__globals__


def test_the_hash_covers_what_a_file_imports_from_its_folder_and_nothing_else(tmp_path):
    neighbours(tmp_path)
    file = write(tmp_path / "my_rewards.py", "import json, random\ndef score(texts):\n    import pack.inner\n")
    write(tmp_path / "random.py", "")
    write(tmp_path / "unread.py", "")
    names = {str(each.relative_to(tmp_path)) for each in sources(file, tmp_path)}
    assert names == {"my_rewards.py", "pack/__init__.py", "pack/inner.py", "pack/other.py"}
    before = source_hash(f"{file}:score")
    write(tmp_path / "unread.py", "x = 1")
    assert source_hash(f"{file}:score") == before
    write(tmp_path / "neighbour.py", "import pack\nimport my_rewards\n")  # in a circle
    assert source_hash(f"{file}:score") == before


def test_a_file_alone_keeps_the_hash_that_it_had(tmp_path):
    file = write(tmp_path / "my_rewards.py", "import json\ndef score(texts): return [1]\n")
    assert source_hash(f"{file}:score") == hashlib.sha256(file.read_bytes()).hexdigest()
    broken = write(tmp_path / "broken.py", "def score(:")
    assert source_hash(f"{broken}:score") == hashlib.sha256(broken.read_bytes()).hexdigest()
    own = Path(sys.modules["trimtab.rewards.function"].__file__).with_name("concise.py")
    assert source_hash("trimtab.rewards.concise:concise") == hashlib.sha256(own.read_bytes()).hexdigest()
    assert source_hash("json:dumps") == hashlib.sha256(Path(json.__file__).read_bytes()).hexdigest()
    assert source_hash("math:isfinite") == "math" or len(source_hash("math:isfinite")) == 64


FAULTS = {
    "a fault": ("x = 1\ny = 1 / 0\n", r"in .*my_rewards.py, line 2 \(ZeroDivisionError: division by zero\): mend it"),
    "a fault in a neighbour": ("import neighbour\n", r"in .*neighbour.py, line 1 \(NameError: name 'lacking' .*\)"),
    "what is not there": ("import nowhere_at_all\n", r"line 1 \(ModuleNotFoundError: No module named 'nowhere_at"),
    "no Python": ("def score(:\n", r"\(SyntaxError: invalid syntax \(my_rewards.py, line 1\)\): mend it"),
    "an end": ("import sys\nsys.exit(3)\n", r"line 2 \(SystemExit: 3\)"),
    "a null byte": ("x = '\0'\n", r"\(SyntaxError: source code .*null bytes.*\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("is_file", [True, False])
def test_a_file_that_cannot_be_imported_is_one_line_with_the_place(tmp_path, monkeypatch, kind, is_file, caplog):
    text, said = FAULTS[kind]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "neighbour.py", "lacking\n")
    write(tmp_path / "my_rewards.py", text)
    with caplog.at_level(logging.INFO), pytest.raises(ConfigurationError, match=said) as caught:
        named_function(f"my_rewards{'.py' if is_file else ''}:score")
    assert "\n" not in str(caught.value) and "Traceback" in caplog.text
    assert "my_rewards" not in sys.modules, "it can be mended and imported again"
    write(tmp_path / "my_rewards.py", "def score(texts): return [1.0 for _ in texts]\n")
    assert score(f"my_rewards{'.py' if is_file else ''}:score") == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py:score", "there is no file nowhere.py: give the path"),
        ("nowhere_at_all:score", "there is no Python module nowhere_at_all"),
        ("json.nowhere:score", "there is no Python module json.nowhere"),
        ("..x:score", r"there is no Python module \.\.x"),
        ("json:nothing", "json has no function nothing"),
        ("json:__name__", "json has no function __name__"),
    ],
)
def test_a_function_that_is_not_there_is_named(name, said):
    with pytest.raises(ConfigurationError, match=said):
        named_function(name)


def test_functions_that_are_there_are_named(tmp_path):
    write(tmp_path / "mine.py", "from math import sin\ndef score(texts): return []\ndef longest(texts): return []\n")
    for name, said in (("scores", "did you mean score?"), ("sin2", "known are score, longest")):
        with pytest.raises(ConfigurationError) as refused:
            named_function(f"{tmp_path}/mine.py:{name}")
        assert str(refused.value).endswith(f"mine.py has no function {name}: {said}")


def test_the_search_path_stays_but_for_the_files_folder_at_its_end(tmp_path, monkeypatch):
    write(tmp_path / "a" / "my_rewards.py", "def score(texts): return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    named_function("a/my_rewards.py:score")
    assert sys.path == [*before, str(tmp_path / "a")]
    named_function("json:dumps")
    assert sys.path == [*before, str(tmp_path / "a")]
