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

from noted_runs import note_runs, words_of
from trimtab import cli
from trimtab.config.file import is_study, load_experiment, parse_experiment
from trimtab.config.guides import guide_pairs
from trimtab.pipeline.experiment_steps import steps
from trimtab.study.study_file import load_study

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
    """Parsed by the real command line, and by accelerate's; what they would run is noted, not done."""
    ran = note_runs(monkeypatch)
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    for line in re.findall(r"^    ((?:trimtab|accelerate) .*)$", text, flags=re.MULTILINE):
        monkeypatch.setattr("sys.argv", words_of(line))
        with contextlib.suppress(SystemExit):
            cli.main()
    assert [until for _, until in ran] == ["tune", "pairs", "tune", "tune"]


def test_commands_of_the_page_on_clusters_are_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real command line parses them, those of batch scripts too; a shard's number is the queue's to give."""
    ran, studied = note_runs(monkeypatch), []
    monkeypatch.setattr("trimtab.study.command.run_command", lambda path, *_: studied.append(path.stem))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("name: my\n", encoding="utf-8")
    text = (DOCS / "cluster.md").read_text(encoding="utf-8").replace("$SLURM_ARRAY_TASK_ID", "1")
    for line in re.findall(r"(?<!`)\btrimtab (?:run|guide|tune|study) [^`\n]*", text):
        monkeypatch.setattr("sys.argv", re.sub(r'[")]', "", line).replace("$head", "10.0.0.1").split())
        cli.main()
    assert [until for _, until in ran].count("report") >= 4 and {"guide", "tune"} <= {until for _, until in ran}
    assert studied == ["slic-study-cpu"] * 2


def test_the_table_of_steps_is_the_list_of_steps() -> None:
    """Each stage in its order, with every function that makes its steps."""
    rows = [
        line.split("|")[1:4]
        for line in (DOCS / "architecture.md").read_text().splitlines()
        if line.startswith("|") and "`makers." in line
    ]
    table = [(stage.strip(), name) for stage, _, makers in rows
             for name in re.findall(r"`makers\.(\w+)`", makers)]  # fmt: skip
    listed: dict[tuple[str, str], None] = {}
    for file in sorted(cli.SHIPPED.glob("*.yaml")):
        experiment = load_study(file, (), cli.experiment_file).runs[0].experiment if is_study(file) else (
            load_experiment(file)
        )  # fmt: skip
        listed |= dict.fromkeys((step.stage, step.make.__name__) for step in steps(experiment))
    # no shipped experiment starts from another's pairs, or values candidates by a function
    unused = {("pairs", "existing_pairs"), ("reward", "try_value")}
    assert set(table) == set(listed) | unused
    assert list(dict.fromkeys(stage for stage, _ in table)) == [
        "data", "reward", "sft", "synthesize", "pairs", "tune", "guide", "evaluate", "report"
    ]  # fmt: skip
