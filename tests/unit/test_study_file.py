"""Study files: which cells a grid gives, what they are called, and that every mistake is one line."""

from pathlib import Path

import pytest
import yaml

from trimtab import cli
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError
from trimtab.study.study_file import load_study

JOINT = {
    "random": {"pairs.strategy": "random"},
    "margin > 1": {"pairs.strategy": "margin", "pairs.margin": {"value": 1.0}},
}
EXPERIMENT = {"guide": {"decoders": [{"model": "untuned"}, {"model": "tuned"}]}}


def dumped(**values) -> str:
    return yaml.safe_dump({"name": "demo", "experiment": EXPERIMENT, **values}, sort_keys=False)


def study(tmp_path: Path, sets=(), experiment=EXPERIMENT, **values):
    file = tmp_path / "study.yaml"
    file.write_text(dumped(experiment=experiment, **values), encoding="utf-8")
    return load_study(file, sets, cli.experiment_file)


def names(planned):
    return [cell.name for cell in planned.cells]


def test_a_grid_is_the_product_of_its_axes_in_their_order(tmp_path):
    planned = study(tmp_path, grid={"tune.loss": ["hinge", "sigmoid"], "tune.beta": [0.1, 1.0], "tune.seed": [3, 4]})
    assert names(planned) == ["hinge-0.1", "hinge-1", "sigmoid-0.1", "sigmoid-1"]
    assert [run.name for run in planned.runs][:3] == ["hinge-0.1-seed-3", "hinge-0.1-seed-4", "hinge-1-seed-3"]
    tune = planned.runs[1].experiment.tune
    assert (tune.loss, tune.beta, tune.seed) == ("hinge", 0.1, 4)
    assert planned.cells[0].labels == {"tune.loss": "hinge", "tune.beta": "0.1"}
    assert {run.experiment.name for run in planned.runs} == {"demo"}


def test_named_settings_go_together_and_single_cells_may_use_their_names(tmp_path):
    planned = study(
        tmp_path,
        grid={"strategy": JOINT, "tune.beta": [0.1], "tune.seed": [0, 1]},
        cells=[
            {"strategy": "margin > 1", "tune.beta": [1, 2]},
            {"strategy": {"best": {"pairs.strategy": "best_worst"}}, "tune.lora": None, "tune.seed": 7},
        ],
    )
    assert names(planned) == ["random-0.1", "margin-1-0.1", "margin-1-1", "margin-1-2", "best-lora-none"]
    margin = planned.runs[2].experiment.pairs
    assert (margin.strategy, margin.margin.value) == ("margin", 1.0)
    assert planned.cells[1].labels["strategy"] == "margin > 1"
    assert len(planned.runs) == 4 * 2 + 1 and planned.runs[-1].experiment.tune.seed == 7


def test_any_field_can_be_an_axis_also_one_of_a_list(tmp_path):
    named = {"guide.decoders.3.name": "searched"}
    grid = {"guide.decoders.3.chunk": [2, 4]}
    planned = study(tmp_path, experiment="quickstart", overrides=named, grid=grid, measure=["searched"])
    assert [run.experiment.guide.decoder("searched").chunk for run in planned.runs] == [2, 4]


def test_seeds_alone_are_one_cell(tmp_path):
    planned = study(tmp_path, grid={"seed": [0, 1, 2]})
    assert names(planned) == ["demo"] and planned.runs[0].name == "demo-seed-0"


def test_overrides_lie_below_the_grid(tmp_path):
    planned = study(
        tmp_path, ["tune.epochs=3", "tune.beta=9"], overrides={"tune.batch_size": 4}, grid={"tune.beta": [0.1]}
    )
    (run,) = planned.runs
    assert (run.experiment.tune.epochs, run.experiment.tune.batch_size, run.experiment.tune.beta) == (3, 4, 0.1)


def test_what_has_a_reference_is_measured_unless_decoders_are_named(tmp_path):
    grid = {"tune.beta": [0.1]}
    assert study(tmp_path, grid=grid).measured == ("tuned",)
    assert study(tmp_path, grid=grid, measure=["untuned"]).measured == ("untuned",)
    planned = study(tmp_path, experiment="quickstart", grid=grid)
    assert planned.measured == ("bon-8", "gold-bon-8", "cbs-4-4-5", "tuned", "eft-2")
    assert [each.name for each in planned.decoders(planned.runs[0])][:2] == ["base", "bon-8"]


def test_an_experiment_s_path_is_looked_up_beside_the_study(tmp_path):
    (tmp_path / "quickstart").write_text("name: other\nguide: {decoders: [{model: tuned}]}\n", encoding="utf-8")
    assert study(tmp_path, experiment="quickstart", grid={"tune.beta": [1]}).measured == ("tuned",)


BAD = [
    ({"grid": {}}, "the grid is empty: give in grid at least one field with its values"),
    ({}, "the grid is empty"),
    ({"grid": {"tune.beta": []}}, "grid.tune.beta is empty: give at least one value"),
    ({"grid": {"strategy": {}}}, "grid.strategy is empty"),
    ({"grid": {"tune.betta": [1]}}, "tune.betta is unknown: did you mean beta?"),
    ({"grid": {"tune.beta.gamma": [1]}}, "tune.beta is {'gamma': 1}: input should be a valid number"),
    ({"grid": {"tunes.beta": [1]}}, "grid.tunes.beta is no field of an experiment: mend its name, or give settings"),
    ({"grid": {"tune.beta": [-1, 1]}}, "tune.beta is -1: input should be greater than 0"),
    ({"grid": {"tune.beta": [1, 1.0]}}, "cells 1 and 1 are the same: drop one of them"),
    ({"grid": {"tune.loss": ["hinge"]}, "cells": [{"tune.loss": "hinge"}]}, "cells hinge and hinge are the same"),
    (
        {"grid": {"a": {"x": {"tune.beta": 1}}}, "cells": [{"a": {"x": {"tune.beta": 2}}}]},
        "two cells are named x: give one of them settings of another name",
    ),
    ({"grid": {"tune.lora": [{"rank": 4}]}}, "grid.tune.lora: {'rank': 4} has no name of its own: give it one"),
    ({"grid": {"guide.decoders.9.chunk": [1]}}, "there is no entry 9 in a list of 2"),
    ({"grid": {"a": {"x": {"tune.beta": 1}}}, "cells": [{"a": "y"}]}, "cells.0.a is no field of an experiment"),
    ({"grid": {"tune.beta": [1]}, "measure": ["nobody"]}, "measure names nobody, which is no decoder of cell 1"),
    ({"grid": {"tune.beta": [1]}, "baseline": "2"}, "baseline names 2, which is no cell: there are 1"),
    ({"grid": {"tune.beta": [1]}, "gird": {}}, "is no study: gird is unknown: did you mean grid?"),
    ({"grid": {"tune.beta": [1]}, "experiment": "nothing"}, "there is no file nothing"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_mistake_is_one_line_and_exit_code_2(values, message, tmp_path, monkeypatch, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(dumped(**values), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["trimtab", "check", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert len(error.splitlines()) == 1 and message in error and "Traceback" not in error


def test_all_faults_are_named_at_once_each_once(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        study(tmp_path, grid={"tune.betta": [1, 2], "tune.epochs": [-1], "tune.seed": [0, 1]})
    message = str(caught.value)
    assert message.count("tune.betta is unknown") == 1 and message.count("tune.epochs is -1") == 1


def test_a_study_is_no_experiment(tmp_path):
    study(tmp_path, grid={"tune.beta": [1]})
    with pytest.raises(ConfigurationError, match="is a study: run it with `trimtab study`"):
        load_experiment(tmp_path / "study.yaml")


def test_a_sound_study_is_said_to_be_so(tmp_path, monkeypatch, capsys):
    study(tmp_path, grid={"tune.beta": [1, 2], "tune.seed": [0, 1]})
    monkeypatch.setattr("sys.argv", ["trimtab", "check", str(tmp_path / "study.yaml"), "--quick"])
    cli.main()
    assert capsys.readouterr().out == "demo: sound; 2 cells, 4 runs\n"


def test_cells_whose_names_differ_in_case_alone_are_refused(tmp_path):
    """Where file names ignore case, the tuned model of one would be that of the other."""
    grid = {"strategy": {"A": {"tune.beta": 1}, "a": {"tune.beta": 2}}}
    with pytest.raises(ConfigurationError, match="two cells are named a"):
        study(tmp_path, grid=grid)
