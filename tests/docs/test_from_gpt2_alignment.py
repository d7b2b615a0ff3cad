"""Every command and file of docs/from-gpt2-alignment.md is sound: parsed by the real command line, loaded, not run."""

import re
import shlex
from pathlib import Path

import pytest

from noted_runs import note_runs
from trimtab import cli
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment

PAGE = (Path(__file__).parents[2] / "docs" / "from-gpt2-alignment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
TABLE = re.findall(r"^\| `(python3 \w+\.py)[^`]*` \| `(trimtab [^`]+)`", PAGE, flags=re.MULTILINE)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Experiment, str]]:
    """Runs every command of the page in its order; what each would have run."""
    (yaml,) = [text for kind, text in BLOCKS if kind == "yaml"]
    (tmp_path / "slic-smollm2.yaml").write_text(yaml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = note_runs(monkeypatch)
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    for command in [command for _, command in TABLE] + lines:
        monkeypatch.setattr("sys.argv", shlex.split(command))
        cli.main()
    return ran


def test_all_blocks_are_of_a_kind_that_is_exercised() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "yaml"}


def test_each_script_has_its_command(ran: list[tuple[Experiment, str]]) -> None:
    scripts = ["text_generation", "prepare_dataset", "fine_tune", "calculate_metrics", "process_results"]
    assert [script.removeprefix("python3 ").removesuffix(".py") for script, _ in TABLE] == scripts
    assert [until for _, until in ran[:5]] == ["synthesize", "pairs", "tune", "report", "report"]
    assert {experiment.name for experiment, _ in ran[:5]} == {"slic-gpt2"} and ran[4][0].seed == 1


def test_every_strategy_and_loss_of_the_write_up_is_there(ran: list[tuple[Experiment, str]]) -> None:
    strategies = {experiment.pairs.strategy for experiment, _ in ran}
    assert strategies == {"random", "margin", "straddle", "flat", "rarer_wins"}
    assert {experiment.tune.loss for experiment, _ in ran} == {"sigmoid", "hinge", "hinge_sft"}
    assert ran[-2][1] == "sft" and ran[-1][0].sft is not None


def test_the_shipped_cell_has_the_write_ups_settings() -> None:
    cell = load_experiment(cli.SHIPPED / "slic-gpt2.yaml")
    assert cell.data.tuning_prompts * cell.synthesize.samples == 10_000
    for part in (cell.synthesize, cell.guide):
        assert part.max_new_tokens + 1 == 64
        assert (part.sampling.temperature, part.sampling.top_k, part.sampling.top_p) == (1.0, 50, 0.85)
    assert (cell.pairs.strategy, cell.pairs.total, cell.guide.unprompted) == ("random", 20_000, 5_000)
    tune = cell.tune
    assert (tune.loss, tune.beta, tune.optimizer, tune.learning_rate, tune.warmup) == ("hinge", 1, "rmsprop", 5e-3, 50)
    assert (tune.epochs, tune.batch_size, tune.lora, cell.reward.definition) == (3, 8, None, "positive_logit")
