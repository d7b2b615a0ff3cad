"""docs/plugins.md: its files are plug-ins that the command line knows, and its last experiment runs, on tiny models."""

import re
from pathlib import Path

import pytest
import yaml

from small_run import SETTINGS
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.executors.run import run
from trimtab.plugins.registry import REGISTRIES, registry
from trimtab.store.progress import watching

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
ADDED = {
    "loss": "squared",
    "strategy": "neighbours",
    "reward kind": "near_length",
    "value": "brevity",
    "column": "exclamations",
}
OF_THE_REWARD_OR_DECODERS = ("reward.", "guide.decoders")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the page's files."""
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / f"{yaml.safe_load(text)['name']}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_contributing_shows_the_same_loss_and_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n.*?```", text, flags=re.DOTALL)
    assert block in PAGE
    names = re.findall(r"`((?:src|tests)/[\w/.]+)`", text)
    assert len(names) > 8 and all((ROOT / name).exists() for name in names)


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    cli.main()
    return capsys.readouterr().out


def test_check_says_what_plugins_add(folder, monkeypatch, capsys):
    out = printed(monkeypatch, capsys, "check", "my-plugins.yaml", "--quick").splitlines()
    assert [line.partition(", ")[0] for line in out[1:]] == [f"plug-in: {noun} {name}" for noun, name in ADDED.items()]
    assert f"{folder / 'my_loss.py'}:squared" in out[1]


def test_plugins_can_be_named_on_the_command_line(folder, monkeypatch, capsys):
    out = printed(
        monkeypatch, capsys, "check", "quickstart", "--quick", "--set", "plugins=[my_loss.py]", "tune.loss=squared"
    )
    assert "plug-in: loss squared" in out


def test_entries_lists_every_entry_of_every_registry(folder, monkeypatch, capsys):
    out = printed(monkeypatch, capsys, "entries", "my-plugins.yaml")
    names = set(re.findall(r"\w+", out))  # in a table, or one below the other where that is too wide
    assert {name for noun in REGISTRIES for name in registry(noun)} <= names
    assert set(ADDED.values()) <= names and {"arXiv", "2310", "12036"} <= names


@pytest.mark.parametrize(("command", "noun"), [("tune", "loss"), ("pairs", "strategy")])
def test_help_lists_the_names_of_a_registry(command, noun, folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["trimtab", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    words = capsys.readouterr().out.replace(",", " ").replace(".\n", " ").split()
    assert set(registry(noun)) <= set(words)


def test_an_experiment_runs_with_all_of_them(folder):
    settings = [text for text in SETTINGS if not text.startswith(OF_THE_REWARD_OR_DECODERS)]
    experiment = load_experiment(folder / "my-plugins.yaml", settings)
    assets = Assets(cache=folder / "cache", path_map=tiny_hub(folder / "hub"))
    with watching(quiet=True) as watch:
        run(experiment, folder / "runs", assets, watch)
    page = (folder / "runs/my-plugins/report/report.html").read_text(encoding="utf-8")
    for words in ("IPO&#39;s squared margin", "neighbouring rewards", "exclamations", "by-brevity"):
        assert words in page
