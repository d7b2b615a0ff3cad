"""A study's tables and page: the write-up's form, LaTeX, CSV that reads back, what users wrote shown and never run."""

import csv
import io
import re

import pytest
from rich.console import Console

from tiny_report import SCRIPT
from tiny_study_report import CHANGES, ROWS, facts, row, study_report, value
from trimtab.report import study_plots
from trimtab.report.palette import dark_colours
from trimtab.report.study_page import write_study_report
from trimtab.report.study_tables import print_cells, text_of, write_tables


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_study_report(folder, facts(failures={"x-seed-1": f"tune: {SCRIPT}"}), ROWS, CHANGES)
    return folder


def test_the_markdown_table_has_the_write_up_s_form(report):
    lines = (report / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[:5] == [
        "| strategy | loss | beta | reward (std) | diversity (std) |",
        "| --- | --- | --- | --- | --- |",
        "| untuned |  |  | 0.507 | 5.975 |",
        "| random | hinge | 0.1 | 2.738 (0.005) | 4.193 (0.003) |",
        "| random | hinge_sft | 1 | 2.240 (0.014) | 4.522 (0.005) |",
    ]
    assert "| random-hinge-0.1 | 2 | 2.738 [2.720, 2.750] | 4.193 (0.003) | yes |" in lines
    assert any("x-seed-1 failed and is left out" in line for line in lines) and "<script>" not in lines


def test_the_latex_table_needs_no_package_and_escapes(report):
    assert (report / "table.tex").read_text(encoding="utf-8").splitlines() == [
        r"\begin{tabular}{lllrr}", r"\hline", r"strategy & loss & beta & reward (std) & diversity (std) \\", r"\hline",
        r"untuned &  &  & 0.507 & 5.975 \\",
        r"random & hinge & 0.1 & 2.738 (0.005) & 4.193 (0.003) \\",
        r" & hinge\_sft & 1 & 2.240 (0.014) & 4.522 (0.005) \\",
        r"\hline", r"\end{tabular}",
    ]  # fmt: skip


def test_csv_files_read_back_in_full(report):
    def read(name):
        return list(csv.DictReader(io.StringIO((report / name).read_text(encoding="utf-8"))))

    table = read("table.csv")
    assert float(table[1]["reward_std"]) == 0.0051 and table[1]["tune.loss"] == "hinge" and table[0]["reward_std"] == ""
    assert [float(each["reward"]) for each in read("runs.csv")] == [0.507, 2.733, 2.743, 2.23, 2.25]
    assert read("comparisons.csv")[1]["low"] == "-0.1"


def test_what_users_wrote_is_shown_and_never_run(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_the_page_says_who_is_best_and_which_differences_are_sure(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "random-hinge-0.1 has the most reward: 2.738 [2.720,\N{NO-BREAK SPACE}2.750] nats" in page
    assert "random-hinge_sft-1 keeps the most diversity" in page
    # the baseline is the second of one comparison and the first of the other
    assert "−2.200 <span" in page and "−2.100] *</span>" in page  # untuned minus the baseline: sure
    assert "−0.500 <span" in page and "0.100]</span>" in page  # the other cell minus it: not
    assert page.count("<h1>") == 1 and page.count("<figure>") == 4


def test_one_cell_without_anything_to_measure_it_against_has_a_page(tmp_path):
    alone = [row("demo", value(1.0, None, 0.9, 1.1), value(2.0), {}, reference=None, frontier=True)]
    write_study_report(tmp_path, facts(baseline="demo"), alone, [])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Comparisons" not in page and page.count("<figure>") == 3


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda narrow: study_plots.frontier(ROWS, unit="nats", narrow=narrow),
        lambda narrow: study_plots.seeds(ROWS, "reward", confidence=0.9, narrow=narrow),
        lambda narrow: study_plots.histograms(ROWS, unit="nats", narrow=narrow),
    ],
    ids=["frontier", "seeds", "histograms"],
)
def test_figures_name_their_cells_and_axes(draw, narrow):
    figure = draw(narrow)
    figure.draw_without_rendering()
    texts = {text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))}
    assert "random-hinge-0.1" in texts and any("reward" in text for text in texts)


def test_the_frontier_s_figure_names_the_cells_on_it_and_no_other():
    figure = study_plots.frontier(ROWS, unit="nats")
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == {"untuned", "random-hinge-0.1"}


def test_histograms_of_all_cells_share_one_axis():
    figure = study_plots.histograms(ROWS, unit="nats")
    first, second = figure.axes[:2]
    assert first.get_xlim() == second.get_xlim() and first.get_title(loc="left") == "random-hinge-0.1"


def test_a_mean_of_one_seed_has_no_parentheses():
    one = row("demo", value(1.0), value(2.0), reference=None, positive=value(0.5, 0.25))
    assert [text_of(one, name, "spread") for name in ("reward", "positive", "kl")] == ["1.000", "50.0 (25.0)", ""]


def test_the_terminal_s_table_has_every_cell():
    for width in (60, 80, 140):
        console = Console(width=width, file=io.StringIO())
        print_cells(ROWS, console)
        printed = console.file.getvalue()
        assert all(row.name in printed for row in ROWS) and "…" not in printed


def test_tables_of_cells_on_no_axis_name_them(tmp_path):
    write_tables(tmp_path, [row("demo", value(1.0), value(2.0), {}, reference=None)], [], [])
    assert (tmp_path / "table.md").read_text().splitlines()[2] == "| demo | 1.000 | 2.000 |"


@pytest.mark.parametrize("long", [False, True])
def test_every_colour_of_a_study_s_figure_has_a_counterpart_on_a_dark_page(long, tmp_path):
    page = study_report(tmp_path, long).read_text(encoding="utf-8")
    drawn = {f"#{colour}" for colour in re.findall(r"var\(--\w{6}, #(\w{6})\)", page)}
    assert len(drawn) > 5 and drawn <= set(dark_colours())
