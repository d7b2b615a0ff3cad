"""Plug-ins add entries to registries: named by an experiment or installed, and a faulty one is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import parse_experiment
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError
from trimtab.plugins.load import load_installed, load_plugins
from trimtab.plugins.registry import REGISTRIES, Entry, Registry, registry
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.kinds import REWARD_KINDS, RewardKind
from trimtab.rewards.load import load_reward

KIND = """
from trimtab import FunctionReward
from trimtab.rewards.kinds import REWARD_KINDS, RewardKind

def vowels(config, assets, folder):
    return FunctionReward(lambda texts: [float(sum(letter in "aeiou" for letter in text)) for text in texts])

REWARD_KINDS.add(RewardKind(name="vowels", function=vowels, words="the number of vowels"))
"""


@pytest.fixture(autouse=True)
def installed_plugins_stay_in_their_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    load_installed.cache_clear()


def write(file: str, text: str) -> str:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
    return file


def experiment(**parts: Any) -> Experiment:
    return parse_experiment({"name": "demo", **parts}, origin="demo.yaml")


def scores(config: RewardConfig) -> list[float]:
    return load_reward(config, Assets(), None).score(["a tree"], [" in bloom"])


def test_a_reward_kind_of_a_plugin_file_is_used_by_an_experiment() -> None:
    plugin = write("my_kind.py", KIND)
    config = experiment(plugins=[plugin], reward={"definition": "vowels"}).reward
    assert scores(config) == [6.0]
    assert config.hashed() == {"definition": "vowels"} and config.label == "vowels"


def test_a_reward_kind_of_an_installed_package_is_used_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", monkeypatch, KIND)
    load_plugins()
    assert scores(RewardConfig(definition="vowels")) == [6.0]
    assert registry("reward kind")["vowels"].origin == f"{tmp_path}/site/vowels_plugin.py:vowels"


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, target: str = "vowels_plugin") -> None:
    """Put a distribution with one module and one entry point into a folder on the search path."""
    write(f"{folder}/vowels_plugin.py", code)
    write(f"{folder}/vowels-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: vowels\nVersion: 1.0\n")
    write(f"{folder}/vowels-1.0.dist-info/entry_points.txt", f"[trimtab.plugins]\nvowels = {target}\n")
    monkeypatch.syspath_prepend(str(folder))
    load_installed.cache_clear()


def test_the_identity_of_an_entry_changes_with_its_code_and_that_of_its_neighbours() -> None:
    write("letters.py", 'VOWELS = "aeiou"\n')
    code = KIND.replace('"aeiou"', "VOWELS").replace("\nfrom trimtab ", "\nfrom letters import VOWELS\nfrom trimtab ")
    load_plugins([write("my_kind.py", code)])
    identities = []
    for file, text in ((None, ""), ("letters.py", 'VOWELS = "aeiouy"\n'), ("my_kind.py", code + "# changed\n")):
        if file is not None:
            write(file, text)
        load_plugins(["my_kind.py"])
        identities += REWARD_KINDS["vowels"].identity().items()
    assert len(set(identities)) == 3 and dict(identities).keys() == {"code of vowels"}
    assert REWARD_KINDS["margin"].identity() == {}, "trimtab's own code is known by trimtab's version"


def test_a_changed_plugin_replaces_its_entry() -> None:
    load_plugins([write("my_kind.py", KIND)])
    load_plugins([write("my_kind.py", KIND.replace("aeiou", "t"))])
    assert scores(RewardConfig(definition="vowels")) == [1.0]


def test_a_kind_reads_the_settings_that_its_entry_names() -> None:
    def judge(config: RewardConfig, assets: Assets, folder: Path | None) -> FunctionReward:
        return FunctionReward(lambda texts: [float(config.max_length)] * len(texts))

    entry = RewardKind(
        name="judge",
        function=judge,
        words="how good a judge finds it",
        reads=frozenset({"model", "max_length"}),
        defaults={"max_length": 99},
    )
    REWARD_KINDS.add(entry)
    config = RewardConfig(definition="judge", model="me/judge")
    assert scores(config) == [99.0] and config.label == "me/judge" and config.kind == "reward_model"
    assert config.hashed() == {"definition": "judge", "model": "me/judge", "max_length": 99}
    faults = {
        "definition judge needs a ready model: name it in model": {},
        "definition judge does not read template: drop it, or give definition scalar": {"model": "a", "template": "b"},
        "definition judge does not read template, training: drop it": {"model": "a", "template": "b", "training": {}},
    }
    for message, settings in faults.items():
        with pytest.raises(ConfigurationError, match=message):
            experiment(reward={"definition": "judge", **settings})
    with pytest.raises(ConfigurationError, match="the reward kind mine reads modle, no setting of a reward"):
        RewardKind(name="mine", function=judge, words="mine", reads=frozenset({"modle"}))


FAULTS = {
    "a file that is not there": ("", "nowhere.py", r"plugins.0: there is no plug-in nowhere\.py: give the path"),
    "a module that is not there": ("", "nowhere_at_all", "no plug-in nowhere_at_all: give the path of its file"),
    "a function instead of a module": ("", "my_kind.py:vowels", r"no plug-in my_kind\.py:vowels: give the path"),
    "code that fails": ("1 / 0\n", "my_kind.py", r"my_kind\.py cannot be imported in .*my_kind\.py, line 1 \(ZeroDiv"),
    "code that ends": ("exit(3)\n", "my_kind.py", r"my_kind\.py cannot be imported .*\(SystemExit: 3\): mend it"),
    "other arguments": (
        KIND.replace("(config, assets, folder)", "(config, *, assets)"),
        "my_kind.py",
        r"the reward kind vowels has the function .*my_kind\.py:vowels\(config, \*, assets\), which is called with "
        r"\(config, assets, folder\): mend its arguments",
    ),
    "no function": (
        KIND.replace("function=vowels", "function=3"),
        "my_kind.py",
        "the reward kind 'vowels' has as function 3: give a function made by def",
    ),
    "no name": (
        KIND.replace('name="vowels"', 'name="my vowels"'),
        "my_kind.py",
        "the reward kind 'my vowels' has no good name: use letters, digits",
    ),
    "a name of trimtab's": (
        KIND.replace('name="vowels"', 'name="margin"'),
        "my_kind.py",
        r"two entries are the reward kind margin, trimtab\.rewards\.kinds:_classifier and .*my_kind\.py:vowels: rename",
    ),
    "one name twice": (
        KIND + KIND.replace("def vowels", "def others").replace("function=vowels", "function=others"),
        "my_kind.py",
        "two entries are the reward kind vowels, .*my_kind.py:vowels and .*my_kind.py:others: rename one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_plugin_is_one_line(kind: str) -> None:
    code, place, message = FAULTS[kind]
    write("my_kind.py", code)
    with pytest.raises(ConfigurationError, match=message) as caught:
        experiment(plugins=[place])
    assert "\n" not in str(caught.value) and "module:function" not in str(caught.value)
    assert REWARD_KINDS["margin"].own


def test_a_kind_whose_plugin_is_gone_is_named() -> None:
    plugin = write("my_kind.py", KIND)
    load_plugins([plugin])
    Path(plugin).unlink()
    with pytest.raises(ConfigurationError, match=r"the plug-in .*my_kind\.py, which adds vowels, is gone: put it back"):
        REWARD_KINDS["vowels"].identity()
    with pytest.raises(ConfigurationError, match=r"there is no plug-in my_kind\.py"):
        experiment(plugins=[plugin], reward={"definition": "vowels"})


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        ("1 / 0\n", "vowels_plugin", r"\(ZeroDivisionError: division by zero\): mend vowels, or uninstall it"),
        ("", "vowels_plugin:nothing", r"vowels_plugin:nothing of vowels cannot be imported \(AttributeError"),
        ("", "nowhere_at_all", r"\(ModuleNotFoundError: No module named 'nowhere_at_all'\): mend vowels"),
        (
            KIND.replace('"vowels"', '"margin"'),
            "vowels_plugin",
            "vowels_plugin of vowels: two entries are the reward k",
        ),
    ],
)
def test_an_installed_plugin_that_fails_is_one_line_and_fails_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, target: str, message: str
) -> None:
    installed(tmp_path / "site", monkeypatch, code, target)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=message) as caught:
            load_plugins()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("noun", REGISTRIES)
def test_importing_a_registry_imports_nothing_heavy(noun: str) -> None:
    code = f"""
import sys
from trimtab.plugins.registry import registry
assert registry({noun!r})
print({{"torch", "transformers", "httpx2", "pandas", "sklearn"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "set()\n", result.stderr


def test_each_reward_kind_says_what_it_is() -> None:
    for entry in REWARD_KINDS.values():
        assert entry.own and entry.words and entry.limits.endswith(".") and entry.noun
        assert "arXiv" in entry.paper or not entry.paper
    assert {name for name, entry in REWARD_KINDS.items() if "training" in entry.reads} == {"margin", "positive_logit"}


def test_a_name_that_is_no_entry_is_one_line() -> None:
    voices: Registry[Entry] = Registry("voice", arguments=())
    voices.add(Entry(name="loud", function=lambda: None, words="loud"))
    with pytest.raises(ConfigurationError, match=r"'lout' is no voice: did you mean loud?"):
        voices["lout"]
    with pytest.raises(ConfigurationError, match="'x' is no voice: known are loud"):
        voices["x"]
    assert "x" not in voices and voices.get("x") is None


@pytest.mark.parametrize(
    ("name", "said"), [("dpo", "write sigmoid for DPO"), ("SLiC-HF", "write hinge for SLiC-HF's hinge loss")]
)
def test_the_fields_word_for_an_entry_is_understood(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name!r} is no loss: {said}"):
        registry("loss")[name]
