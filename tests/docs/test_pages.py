"""The pages of docs/ that are a tour: their experiments are sound, and what they name is there."""

import contextlib
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from trimtab import cli
from trimtab.config.file import load_experiment, parse_experiment
from trimtab.config.guides import guide_pairs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["chat.md", "closed-bases.md", "models.md", "own-data.md", "own-reward.md", "pairs.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [block for name, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL) if name == language]


@pytest.mark.parametrize("page", PAGES)
def test_experiments_are_sound(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(page, "yaml")
    assert found
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        if file := re.match(r"# (\w+\.py)\n", block):  # a file that experiments of the page name
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
    for block in found:
        values = yaml.safe_load(block)
        if "name" in values:
            parse_experiment(values, origin=page)
        else:  # a file of guides
            (tmp_path / "guides.yaml").write_text(block, encoding="utf-8")
            assert set(values) <= set(guide_pairs(tmp_path / "guides.yaml"))


@pytest.mark.parametrize("page", ["models.md"])
def test_commands_run(page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for line in [line for block in blocks(page, "bash") for line in block.splitlines()]:
        monkeypatch.setattr("sys.argv", shlex.split(line, comments=True))
        cli.main()
        assert capsys.readouterr().out


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|src|benchmarks)/[\w/.]+)`", text):
        assert (DOCS.parent / name).exists(), name
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCS / target).exists(), target


def test_the_kinds_of_public_bug_reports_have_as_many_tests_as_the_page_says() -> None:
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    section = page[page.index("## Public bug reports") : page.index("## Trust")]
    promised = {file: int(count) for file, count in re.findall(r"`(tests/[\w/.]+)`: (\d+)", section)}
    assert promised
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *promised],
        cwd=DOCS.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = Counter(line.partition("::")[0] for line in listed.stdout.splitlines())
    assert {file: found[file] for file in promised if found[file] < promised[file]} == {}


def test_commands_of_the_page_on_tuning_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the real command line; what they would run and launch is noted, not done."""
    ran = []

    def noted(options: cli.Options, until: str) -> None:
        load_experiment(cli.experiment_file(options.file), options.overrides)
        ran.append(until)

    def launched(file: Path, count: int, arguments: list[str], command: str) -> int:
        ran.append(f"{file.stem} as {count}")
        return 0

    monkeypatch.setattr(cli, "_run", noted)
    monkeypatch.setattr(cli, "launch_processes", launched)
    monkeypatch.setattr("trimtab.cli.launch.process_count", lambda file, wanted: wanted or 4)
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    for line in re.findall(r"^    (trimtab .*)$", text, flags=re.MULTILINE):
        monkeypatch.setattr("sys.argv", shlex.split(line, comments=True))
        with contextlib.suppress(SystemExit):
            cli.main()
    assert ran == ["tune", "pairs", "ddp as 4", "pairs", "ddp as 2", "pairs"]
