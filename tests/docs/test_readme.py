"""The README: its example is run, on a tiny model, too; its figures and names are those of the project."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import trimtab
from tiny_hub import save_chat_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
NUMBER = r"-?\d+\.\d+"


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def table(heading: str, rest: str = README) -> list[list[str]]:
    """The cells of the rows of the table whose first column has this heading."""
    (rows,) = re.findall(rf"^\| {heading} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", rest, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def test_all_blocks_are_of_a_kind_that_is_exercised() -> None:
    assert {name for name, _ in BLOCKS} == {"bash", "python", "text"}


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    path_map = tmp_path / "paths.yaml"
    path_map.write_text(f"HuggingFaceTB/SmolLM2-135M-Instruct: {save_chat_model(tmp_path / 'smol')}", encoding="utf-8")
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(path_map))
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # the README is ours
    assert isinstance(names["steered"], trimtab.GuidedModel) and capsys.readouterr().out.strip()


@pytest.mark.real
def test_the_example_works_on_the_real_model_and_does_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    question, plain = "Explain inflation to a child.", trimtab.Search()
    model, reward = names["model"], names["short_words"]
    unsteered = trimtab.Guide.by_reward(reward).steer(model, search=plain).generate(question, max_new_tokens=40)
    steered = names["steered"].generate(question, max_new_tokens=40)
    assert reward([f"{question} {steered}"]) > reward([f"{question} {unsteered}"])


def test_commands_are_targets_and_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()}
    commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    assert {command[1] for command in commands if command[0] == "make"} == {"quickstart", "test"} <= targets
    installed = {command[2] for command in commands if command[:2] == ["pip", "install"]}
    extras = {name for cells in table("extra") for name in re.findall(r"`([\w-]+)`", cells[0])}
    assert extras == set(project["optional-dependencies"])
    assert {place.removeprefix(".").strip("[]") for place in installed} - {""} <= extras


def test_figures_stand_in_the_pages_that_they_are_taken_from() -> None:
    results = (ROOT / "docs/results/quickstart.md").read_text(encoding="utf-8")
    benchmarks = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    names = {"unguided": "base", "best of 8": "bon-8", "CBS 4/4/5": "cbs-4-4-5"}
    rows = {cells[0]: cells for cells in table("decoder", results)}
    assert [cells[0] for cells in table("Gemma-3-270M")] == list(names)
    for name, *cells in table("Gemma-3-270M"):
        assert set(cells) - {""} <= set(rows[names[name]]), name
    (sentence,) = re.findall(r"^The tuned SmolLM2 alone .*", README, flags=re.MULTILINE)
    assert all(figure in " ".join(rows["tuned"]) for figure in re.findall(NUMBER, sentence))
    assert all(time in results for time in re.findall(r"\d+ min \d+ s", README))
    times = re.findall(r"([\d.]+) times as fast", README)
    assert len(times) == 3 and all(f"| {figure} |" in benchmarks for figure in times)


def test_the_tree_is_the_repository_s() -> None:
    (tree,) = blocks("text")
    top, package = tree.split("src/trimtab/\n")
    assert all((ROOT / name.strip()).exists() for line in top.splitlines() for name in line.split("  ")[0].split(","))
    rooms = [line.split()[0].strip("/") for line in package.splitlines()]
    assert set(rooms) == {path.parent.name for path in (ROOT / "src/trimtab").glob("*/__init__.py")}


def test_public_names_are_few_and_all_there() -> None:
    assert len(trimtab.__all__) <= 20
    assert sorted(trimtab.__all__) == trimtab.__all__ == sorted(trimtab._MODULES)
    for name in trimtab.__all__:
        assert trimtab.__getattr__(name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trimtab.__getattr__("nothing")
