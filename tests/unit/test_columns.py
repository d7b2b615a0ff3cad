"""The registry of the report's columns: a plug-in's is seen wherever the table is, and its faults are one line each."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console

from tiny_report import report, run
from trimtab.config.experiment import Experiment
from trimtab.errors import ConfigurationError
from trimtab.report.columns import COLUMNS
from trimtab.report.overview import table_columns
from trimtab.report.tables import terminal_tables

PLUGIN = """
from trimtab.report.columns import COLUMNS, Column

def exclamations({arguments}):
    {body}

COLUMNS.add(Column(
    name="exclamations", heading="shouts", function=exclamations, words="Mean number of exclamation marks.",
    paper="Munroe 2009", limits="It says nothing of volume.", rounded=lambda value: f"{{value:.1f}}",
))
"""
COUNT = "return sum(each.text.count('!') for each in answers) / len(answers) if row.gain is not None else None"
DECODERS = [{"name": "base"}, {"successors": 2}]


@pytest.fixture
def experiment(tmp_path: Path):
    """Gives experiments with the plug-in's column, and forgets it afterwards."""

    def of(body: str = COUNT, arguments: str = "row, answers, scores", **evaluate: object) -> Experiment:
        file = tmp_path / "columns_of_mine.py"
        file.write_text(PLUGIN.format(body=body, arguments=arguments))
        settings = {"columns": ["exclamations"], "examples": 1, "bootstrap": 100, **evaluate}
        return run(*DECODERS, plugins=[str(file)], evaluate=settings)

    yield of
    COLUMNS.discard("exclamations")


def test_a_column_of_a_plug_in_is_seen_in_every_table(tmp_path, experiment):
    rows = []
    page = report(tmp_path, text="!", experiment=experiment(), seen=rows).read_text(encoding="utf-8")
    assert [row.extra for row in rows] == [{"exclamations": None}, {"exclamations": 2.0}]
    meaning = "Mean number of exclamation marks. Source: Munroe 2009. It says nothing of volume."
    assert f"<dt>shouts</dt><dd>{meaning}</dd>" in page
    assert '<th scope="col">shouts</th>' in page and "<td>2.0</td>" in page
    read = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [line["exclamations"] for line in read] == ["", "2.0"]
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert markdown[0].endswith("| shouts |") and markdown[2].endswith("|  |") and markdown[3].endswith("| 2.0 |")
    assert f"- **shouts**: {meaning}" in markdown
    console = rich.console.Console(width=140, record=True, file=io.StringIO())
    console.print(*terminal_tables(rows, 140, table_columns(experiment(), rows)))
    assert "shouts" in (text := console.export_text()) and " 2.0" in text


def test_a_column_that_is_not_asked_for_is_not_computed(tmp_path, experiment):
    page = report(tmp_path, experiment=experiment("raise ValueError", columns=[])).read_text(encoding="utf-8")
    assert "shouts" not in page and "exclamations" not in (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize(
    "body, reason",
    [
        ("raise ValueError('too\\nloud')", r"columns_of_mine\.py, line 5 \(ValueError: too loud\)"),
        ("return 'many'", r"\(ValueError: could not convert"),
        ("return [1, 2]", r"\(TypeError: float\(\) argument"),
    ],
)
def test_a_column_that_fails_is_one_line_that_names_it(tmp_path, experiment, body, reason):
    with pytest.raises(
        ConfigurationError, match=rf"^the column exclamations failed on decoder base .*{reason}"
    ) as error:
        report(tmp_path, experiment=experiment(body))
    assert "\n" not in str(error.value)


def test_a_column_with_other_arguments_is_one_line_that_names_what_it_is_called_with(experiment):
    with pytest.raises(ValueError, match=r"column exclamations has .*\(row\), which is called with \(row, answers, sc"):
        experiment(arguments="row")


def test_an_unknown_column_is_named_with_the_nearest_one():
    with pytest.raises(ValueError, match="'gains' is no column: did you mean gain"):
        run(*DECODERS, evaluate={"columns": ["gains"]})


def test_columns_are_imported_without_heavy_libraries():
    code = "import sys, trimtab.report.columns; print(*{'torch', 'matplotlib', 'transformers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_column_of_ours_says_what_it_means():
    assert all(column.own and column.words for column in COLUMNS.values())
