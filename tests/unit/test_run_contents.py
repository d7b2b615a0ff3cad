"""Reports of other settings are kept, and `trimtab runs` says which folder is which setting."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab import cli
from trimtab.config.experiment import Experiment
from trimtab.pipeline.contents import contents, differences
from trimtab.pipeline.reports import report_folder
from trimtab.store.artifacts import Artifact, RunDirectory


def experiment(**values: Any) -> Experiment:
    return Experiment.model_validate({"name": "demo", **values})


def made(run: RunDirectory, stage: str, configuration: dict[str, Any], *inputs: Artifact) -> Artifact:
    """An artifact with nothing in it."""
    artifact = run.artifact(stage, configuration, inputs)
    if not artifact.whole:
        with run.writing(artifact):
            pass
    return artifact


def report(run: RunDirectory, experiment: Experiment, artifacts: dict[str, Artifact], text: str) -> None:
    with report_folder(run.path, experiment, artifacts) as folder:
        (folder / "report.html").write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "demo")


def pages(run: RunDirectory) -> dict[str, str]:
    return {page.parent.name: page.read_text() for page in run.path.glob("report*/report.html")}


def test_a_report_of_the_same_settings_is_replaced(run: RunDirectory) -> None:
    data = {"data": made(run, "data", {"seed": 0})}
    report(run, experiment(), data, "first")
    report(run, experiment(guide={"rows": 8}), data, "again")  # rows change no result
    assert pages(run) == {"report": "again"}


def test_a_report_of_other_settings_or_artifacts_is_kept_beside_it(run: RunDirectory) -> None:
    data = {"data": made(run, "data", {"seed": 0})}
    report(run, experiment(), data, "first")
    report(run, experiment(evaluate={"bootstrap": 500}), data, "more")
    report(run, experiment(evaluate={"bootstrap": 500}), {"data": made(run, "data", {"seed": 1})}, "third")
    assert pages(run).pop("report") == "third" and sorted(pages(run).values()) == ["first", "more", "third"]
    report(run, experiment(), data, "first again")  # which was kept, and is the last one now
    assert pages(run).pop("report") == "first again" and sorted(pages(run).values()) == ["first again", "more", "third"]


def test_a_report_that_fails_leaves_the_last_one(run: RunDirectory) -> None:
    report(run, experiment(), {}, "first")
    with pytest.raises(ValueError, match="full"), report_folder(run.path, experiment(seed=1), {}):
        raise ValueError("full")
    assert {name: page for name, page in pages(run).items() if name != "report.partial"} == {"report": "first"}


def test_a_report_of_an_earlier_version_is_kept(run: RunDirectory) -> None:
    (run.path / "report").mkdir(parents=True)
    (run.path / "report" / "report.html").write_text("old")
    report(run, experiment(), {}, "new")
    assert sorted(pages(run).values()) == ["new", "old"]


def test_reports_of_a_study_are_told_apart_by_its_grid(run: RunDirectory) -> None:
    """They name no artifacts: the folders of a study serve many cells."""
    made(run, "data", {"seed": 0})
    for betas in ([0.1, 1], [0.1, 2], [0.1, 2]):
        with report_folder(run.path, experiment(), {}, {"study": {"grid": {"tune.beta": betas}}}) as folder:
            (folder / "report.html").write_text("page")
    found = {folder.name: folder.apart for folder in contents(run.path)}
    assert found.pop("report") == "study.grid.tune.beta [0.1, 2]"
    assert sorted(found.values()) == ["", "study.grid.tune.beta [0.1, 1]"]


def test_only_what_differs_is_said_also_of_what_a_folder_was_made_from(run: RunDirectory) -> None:
    data = made(run, "data", {"data": {"test_prompts": 2}, "data is": ["a1"], "seed": 0})
    tuned = [
        made(run, "tune", {"tune": {"beta": beta, "loss": "hinge"}, "seed": seed}, data)
        for beta, seed in ((0.1, 0), (0.1, 1), (0.2, 0))
    ]
    decoder = {"width": 1, "successors": 4}
    guides = [made(run, "guide", {"decoder": decoder, "seed": 0}, model) for model in tuned]
    scores = [made(run, "evaluate", {"decoder": "bon-4"}, guide) for guide in guides[:2]]
    first = {"data": data, "tune": tuned[0], "guide mine": guides[0], "evaluate bon-4": scores[0]}
    report(run, experiment(tune={"beta": 0.1}), first, "first")
    report(run, experiment(tune={"beta": 0.2}), {**first, "tune": tuned[2], "guide mine": guides[2]}, "second")
    found = {folder.name: folder for folder in contents(run.path)}
    assert found[data.folder.name].apart == ""
    assert [found[artifact.folder.name].apart for artifact in tuned] == [
        "tune.beta 0.1, tune.seed 0", "tune.beta 0.1, tune.seed 1", "tune.beta 0.2, tune.seed 0",
    ]  # fmt: skip
    assert [found[artifact.folder.name].step for artifact in guides] == ["guide mine", "guide bon-4", "guide mine"]
    assert [found[artifact.folder.name].apart for artifact in guides] == ["tune.beta 0.1", "", "tune.beta 0.2"]
    assert [found[artifact.folder.name].apart for artifact in scores] == ["tune.seed 0", "tune.seed 1"]
    assert found["report"].apart == "tune.beta 0.2" and len(found[data.folder.name].reports) == 2
    assert found[tuned[1].folder.name].reports == []


def test_files_and_inputs_that_changed_are_told_apart_by_their_hashes(run: RunDirectory) -> None:
    one = made(run, "reward", {"reward": {"by": "r.py:f"}, "reward is": ["aaaa"]})
    two = made(run, "reward", {"reward": {"by": "r.py:f"}, "reward is": ["bbbb"]})
    found = {folder.name: folder.apart for folder in contents(run.path)}
    assert (found[one.folder.name], found[two.folder.name]) == ("files of reward ['aaaa']", "files of reward ['bbbb']")
    assert differences([{"a": 1}, {"b": [1, 2]}]) == ["a 1", "b [1, 2]"]


def test_the_command_names_folders_and_reports_at_80_columns(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    betas = {beta: made(run, "tune", {"tune": {"beta": beta}, "seed": 0}) for beta in (0.1, 0.2)}
    data = made(run, "data", {"seed": 0})
    for beta, model in betas.items():
        report(run, experiment(tune={"beta": beta}), {"tune": model, "data": data}, "page")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["trimtab", "runs", str(run.path.parent)])
    cli.main()
    printed = capsys.readouterr().out
    assert "demo: 3 artifacts, 2 reports" in printed and f"the only ones of their steps: {data.folder.name}" in printed
    assert "tune.beta 0.1" in printed and "tune.beta 0.2" in printed
    assert all(model.folder.name in printed for model in betas.values())
    assert all(folder.name in printed for folder in run.path.glob("report-*"))
    monkeypatch.setattr("sys.argv", ["trimtab", "runs", str(run.path), "--json"])
    cli.main()
    listed = json.loads(capsys.readouterr().out)[str(run.path)]
    assert {folder["settings"].get("tune.beta") for folder in listed if folder["step"] == "tune"} == {0.1, 0.2}


def test_bad_directories_are_one_line(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = made(run, "data", {"seed": 0}).folder / "made_from.json"
    for text, line in (("{", "is damaged (made_from.json)"), ("[1]", "is damaged"), (None, "demo holds no run")):
        broken.unlink() if text is None else broken.write_text(text)
        monkeypatch.setattr("sys.argv", ["trimtab", "runs", str(run.path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        error = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and len(error.splitlines()) == 1 and line in error
