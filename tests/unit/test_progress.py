"""Rates, time left, the view of all stages, and what a run says of memory before it begins."""

import contextlib
import dataclasses
import io
import queue
import re
import warnings
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console
from rich.jupyter import JupyterMixin
from rich.table import Table

from tiny_hub import tiny_hub
from trimtab.assets.resolve import Assets
from trimtab.cli import SHIPPED
from trimtab.config.file import load_experiment
from trimtab.pipeline import memory as budget
from trimtab.pipeline.experiment_steps import steps, up_to
from trimtab.pipeline.need import LIBRARY_BYTES
from trimtab.store.lock import Holder, holder_of, run_lock
from trimtab.store.progress import WINDOW, Stage, Watch, duration, lines_of, pace, stage_table, watching


def text(stages: list[Stage], now: float, height: int = 50) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(stage_table(stages, now, height))
    return console.export_text()


def test_what_was_kept_of_an_earlier_run_counts_for_no_rate() -> None:
    stage = Stage("guide base", "runs", began=100.0)
    stage.report(100.0, 60, 100)  # blocks that were found
    assert stage.rate is None and stage.seconds_left(100.0) is None
    stage.report(120.0, 70, 100)
    assert stage.rate == 0.5 and stage.seconds_left(120.0) == 60 and stage.seconds_left(130.0) == 50


def test_the_rate_follows_a_stage_that_gets_slower() -> None:
    stage = Stage("tune", "runs", began=0.0)
    for done in range(100):
        stage.report(done * 1.0, done, 200)
    for more in range(WINDOW):
        stage.report(100.0 + more * 10, 100 + more, 200)
    assert stage.rate == pytest.approx(0.1)


def test_reports_of_single_tokens_give_the_rate_of_whole_minutes() -> None:
    """A block took a minute: its 40 tokens 50 seconds, the values of its candidates the rest."""
    stage = Stage("guide bon-16", "runs", began=0.0)
    for block in range(3):
        for token in range(40):
            stage.report(60.0 * block + 1.25 * token, 12 * (block + token / 40), 96)
    stage.report(180.0, 36, 96)
    assert stage.rate == pytest.approx(0.2, rel=0.1) and stage.counts == "36/96"
    for token in range(1000):  # a small model's, in a second
        stage.report(181.0 + token / 1000, 36.75, 96)
    assert stage.rate == pytest.approx(0.2, rel=0.1)
    assert stage.counts == "36/96"  # whole prompts


def said(watching_at: Console) -> list[str]:
    """What a file was told, without times of day."""
    file = watching_at.file
    assert isinstance(file, io.StringIO)
    return [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]


def test_without_a_terminal_lines_tell_of_each_stage() -> None:
    """Nothing was shown in CI, under nohup and in a pipe, for eighty minutes."""
    console = Console(file=io.StringIO(), width=80)
    with watching(console=console) as watch:
        watch.plan(["data", "tune", "report"])
        watch.used_again("data")
        with contextlib.suppress(ZeroDivisionError), watch("tune") as advance:
            advance(10, 40)
            raise ZeroDivisionError
    assert said(console) == ["data: used again", "tune: begins", "tune: stopped after 0:00:00"]


def test_without_a_terminal_a_stage_that_runs_is_told_of_again_and_again() -> None:
    watch, heard = Watch(), queue.SimpleQueue[str]()
    with lines_of(watch, seconds=0.01), watch("tune") as advance:
        watch.print = heard.put
        while "tune: runs for 0:00:0" not in heard.get():
            pass
        for done in (10, 20.5):
            advance(done, 40)
            watch.stages["tune"].rate = 0.1
        while not re.search(r"tune: 20/40, 6\.0/min, 0:03:1\d left$", line := heard.get()):
            assert "tune: " in line
    assert len(watch.listeners) == 0


def test_a_state_of_two_words_takes_one_line() -> None:
    console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True)
    with watching(console=console) as watch:
        watch.plan(["synthesize validation", *map(str, range(20))])
        watch.used_again("synthesize validation")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert re.search(r"validation +used again *$", shown, re.MULTILINE), shown
    assert re.search(r"^0 +waits, 19 more", shown, re.MULTILINE), shown


def test_results_fill_below_the_stages_or_are_told_line_by_line() -> None:
    table = Table("decoder", "reward")
    table.add_row("base", "1.00")
    terminal = Console(file=io.StringIO(), width=80, height=30, force_terminal=True)
    with watching(console=terminal) as watch, watch("evaluate bon-16"):
        watch.show(table, "base: reward 1.00")
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "evaluate bon-16" in shown and "1.00" in shown and "base: reward" not in shown
    piped = Console(file=io.StringIO(), width=80)
    with watching(console=piped) as watch:
        watch.show(table, "base: reward 1.00")
    assert piped.file.getvalue() == "base: reward 1.00\n"  # type: ignore[attr-defined]


def test_the_view_shows_all_stages_and_never_more_lines_than_there_are() -> None:
    watch = Watch()
    watch.plan(["data", "tune", "guide base", "guide cbs", "report"])
    watch.used_again("data")
    with watch("tune") as advance:
        advance(0, 40)
        advance(10, 40)
        shown = text(list(watch.stages.values()), watch.stages["tune"].updated or 0)
        assert "data" in shown and "used again" in shown and "10/40" in shown and "left" in shown
        assert "guide base" in shown and "waits, 2 more" in shown
    many = [Stage(f"guide {number}", "made") for number in range(60)]
    assert len(text(many, 0.0, height=20).splitlines()) <= 20 and "guide 59" in text(many, 0.0, height=20)


def test_a_stage_that_fails_is_not_made() -> None:
    with watching(quiet=True) as watch, pytest.raises(ZeroDivisionError), watch("pairs"):
        raise ZeroDivisionError
    assert watch.stages["pairs"].state == "stopped"


def test_times_and_rates_are_readable() -> None:
    assert (duration(0), duration(59.6), duration(3723.4), duration(None)) == ("0:00:00", "0:01:00", "1:02:03", "")
    assert (pace(12.34), pace(0.05), pace(0.001), pace(None)) == ("12.3/s", "3.0/min", "3.6/h", "")


def test_the_memory_is_said_and_a_lack_of_it_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    experiment = load_experiment(SHIPPED / "imdb-cpu.yaml", ["guide.rows=128", "small.dtype=float32"])
    monkeypatch.setattr(budget, "machine_memory", lambda spread: (8e9, 4e9, "this machine"))
    (line,) = budget.memory_lines(steps(experiment), experiment, assets)
    assert line.startswith("memory: about 0.7 GB at most, in ") and line.endswith(
        "this machine has 8.0 GB, 4.0 GB free"
    )
    assert budget.memory_lines(up_to(experiment, "data"), experiment, assets) == []

    sizes = budget.model_sizes(experiment.small, assets)
    llama = (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) * 2 + 32 + 2 * 320 * 32  # layers, norm, both tables
    assert (sizes.weights, sizes.weight_bytes, sizes.vocabulary) == (llama, 4, 320)
    assert sizes.token_bytes == 2 * 2 * 2 * 8 * 4  # keys and values, layers, key heads, their width, bytes

    # a model of 400 times the layers: it must be said which setting to lower, and to what
    large = dataclasses.replace(sizes, token_bytes=sizes.token_bytes * 400)
    monkeypatch.setattr(budget, "model_sizes", lambda model, assets: large)
    needs = {need.step: need for need in budget.memory_needs(steps(experiment), assets)}
    warnings = budget.memory_lines(steps(experiment), experiment, assets)[1:]
    worst = needs["guide bon-16"]
    assert worst.rows == 128 and worst.total > 4e9
    fits = worst.fitting(4e9)
    assert f"lower guide.rows from 128 to {fits}" in "\n".join(warnings)
    for rows, fit in ((fits, True), (fits + 17, False)):
        lower = load_experiment(SHIPPED / "imdb-cpu.yaml", [f"guide.rows={rows}"])
        need = {each.step: each for each in budget.memory_needs(steps(lower), assets)}["guide bon-16"]
        assert (need.total <= 4e9) is fit


@pytest.mark.parametrize("accelerator", [False, True])
def test_rows_are_what_the_device_has_room_for(
    accelerator: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    settings = ["guide.rows=auto", "synthesize.rows=auto", "small.dtype=float32", "large.dtype=float32"]
    experiment = load_experiment(SHIPPED / "imdb-cpu.yaml", settings)
    monkeypatch.setattr(budget, "device_type", lambda: "cuda" if accelerator else "cpu")
    bon = experiment.guide.decoder("bon-16")

    def planned(total: float) -> tuple[int, int]:
        monkeypatch.setattr(budget, "machine_memory", lambda spread: (total, total / 2, "this machine"))
        needs = {need.step: need for need in budget.memory_needs(steps(experiment), assets)}
        rows = budget.decoding_rows(experiment, bon, assets), budget.synthesis_rows(experiment, assets)
        assert rows == (needs["guide bon-16"].value, needs["synthesize"].value)
        assert needs["guide bon-16"].rows == min(rows[0], 96 * 16)  # no more than the prompts give
        assert needs["guide bon-16"].total <= 0.7 * total or rows[0] == 16
        return rows

    assert planned(1e12) == ((2048, 2048) if accelerator else (256, 256))
    assert planned(1.0) == (16, 8)  # one prompt at the least
    need = next(each for each in budget.memory_needs(steps(experiment), assets) if each.step == "guide bon-16")
    assert planned((LIBRARY_BYTES + need.weights + 100.5 * need.row) / budget.MEMORY_FRACTION)[0] == 96  # whole prompts


def test_memory_is_that_of_the_rows_that_there_are(tmp_path: Path) -> None:
    """Eight short prompts and their pairs fill no batch of 32, and none of them has 256 tokens."""
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    file = tmp_path / "prompts.jsonl"

    def needs(words: int) -> dict[str, budget.Need]:
        file.write_text("".join(f'{{"prompt": "Tree {number}{" oak" * words}"}}\n' for number in range(24)))
        settings = [
            f"data.instructions={file}", "data.tuning_prompts=8", "data.validation_prompts=2", "data.test_prompts=8",
            "data.reviews=null", "reward={by: math:isfinite}", "tune.batch_size=32", "guide.decoders=[{successors: 4}]",
            "pairs.per_prompt=1",
        ]  # fmt: skip
        experiment = load_experiment(SHIPPED / "imdb-cpu.yaml", settings)
        return {need.step: need for need in budget.memory_needs(steps(experiment), assets)}

    short, long = needs(2), needs(200)
    assert {name: need.rows for name, need in short.items()} == {"synthesize": 64, "tune": 16, "guide bon-4": 32}
    assert short["guide bon-4"].value == 192 and short["guide bon-4"].used == 32  # lowering it to 100 changes nothing
    assert long["tune"].row > 4 * short["tune"].row and long["guide bon-4"].row > short["guide bon-4"].row


def test_files_that_a_container_has_read_take_no_memory_from_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux counts them as used until it wants the space: of a model that was just loaded one would be warned."""
    for name, text in (("max", "8000000\n"), ("current", "7000000\n"), ("stat", "anon 1\ninactive_file 5000000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(budget, "CGROUP", tmp_path)
    monkeypatch.setattr(budget, "device_type", lambda: "cpu")
    assert budget.machine_memory() == (8e6, 6e6, "this container")


def test_a_note_of_a_process_that_ended_or_whose_id_was_given_to_another_speaks_of_a_dead_one(tmp_path: Path) -> None:
    with run_lock(tmp_path) as previous:
        assert previous is None
        holder = holder_of(tmp_path / ".lock")
        assert holder is not None and holder.alive is True
    assert holder_of(tmp_path / ".lock") is None
    assert dataclasses.replace(holder, born=holder.born - 60).alive is False
    assert dataclasses.replace(holder, pid=2**22 + 1).alive is False
    assert dataclasses.replace(holder, host="elsewhere").alive is None
    assert isinstance(Holder.this().command, str)


def test_a_notebook_shows_the_stages_in_place_and_tables_as_html() -> None:
    """As IPython's own shell is told of it; no extension for widgets is asked for."""
    InteractiveShell.instance()
    with capture_output() as captured, warnings.catch_warnings():
        warnings.simplefilter("error")
        with watching(console=Console(force_jupyter=True)) as watch, watch("guide base") as advance:
            for done in range(200):
                advance(done, 200)
            watch.print("memory: about 1.9 GB")
    first, *others = captured.outputs
    assert not first.update and "memory: about 1.9 GB" in "".join(each.data["text/html"] for each in others)
    updates = [each.data["text/html"] for each in others if each.update]
    assert 2 <= len(updates) < 20  # where it begins and ends, and now and then in between
    assert "guide base" in updates[-1] and "made" in updates[-1] and "runs" not in updates[-1]
    assert isinstance(stage_table([], 0.0, 5), JupyterMixin)  # as all tables that trimtab gives


def test_the_view_names_who_works_on_what_within_80_columns() -> None:
    stages = [Stage("guide cbs-4-4-5", "runs", began=0.0), Stage("tune", "runs", began=0.0), Stage("report")]
    stages[0].workers = [f"10.0.0.{node} gpu {gpu}" for node in range(3) for gpu in range(1, 9)]
    stages[1].workers = ["10.0.1.7 gpu 1"]
    lines = [line.rstrip() for line in text(stages, 1.0).splitlines()]
    assert lines[-2:] == [
        "guide cbs-4-4-5: 10.0.0.0 gpu 1, 10.0.0.0 gpu 2, 10.0.0.0 gpu 3 and 21 more", "tune: 10.0.1.7 gpu 1",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert len(text(stages, 1.0, height=4).splitlines()) <= 4 + 1  # what waits has a line of its own
