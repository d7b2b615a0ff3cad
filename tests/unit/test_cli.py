"""The command line: experiments are found by path or name, mistakes are one line and exit code 2, help is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab import cli
from trimtab.config.file import is_study, load_experiment
from trimtab.errors import ConfigurationError
from trimtab.study.study_file import load_study


@pytest.mark.parametrize("file", sorted(cli.SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_sound_and_named_after_its_file(file: Path) -> None:
    name = load_study(file, (), cli.experiment_file).name if is_study(file) else load_experiment(file).name
    assert name == file.stem
    assert cli.experiment_file(file.stem) == file


def test_the_experiments_folder_of_the_checkout_is_the_shipped_one() -> None:
    assert (Path(__file__).parents[2] / "experiments").resolve() == cli.SHIPPED.resolve()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    cli.main()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["check", "quickstrat"],
            "there is no file quickstrat: give the path of an experiment file, or one of chat, imdb-cpu, imdb-gpt2",
        ),
        (["check", "quickstart", "--set", "tune.betta=1"], "tune.betta is unknown: did you mean beta?"),
        (["check", "quickstart", "--set", "tune.beta=-1", "guide.rows=0"], "tune.beta is -1: input should be greater"),
        (["guide", "quickstart", "--shard", "3/2"], "'3/2' is no shard: write it as I/N"),
        (["run", "quickstart", "--jobs", "0"], "jobs is 0: give at least 1"),
        (["run", "quickstart", "--jobs", "-2"], "jobs is -2: give at least 1"),
        (["launch-config", "dpp"], "give the path of a configuration of accelerate, or one of ddp, fsdp, zero2"),
        (["check", "quickstart", "--set", "seed"], "override 'seed' has no `=`: write it as part.field=value"),
        (["check", "quickstart", "--set", "plugins=[nowhere.py]", "seed=x"], "nowhere.py"),
        (["check", "quickstart", "--set", "plugins=[nowhere.py]", "seed=x"], "seed is 'x'"),
        (["check", "quickstart", "--set", "seed=x", "--set", "name=a"], "seed is 'x'"),
        (["check", "quickstart", "--set=seed=x", "--set=name=a"], "seed is 'x'"),
        (["check", "quickstart", "--set", "guide.decoders.99.chunk=2"], "there is no entry 99"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert len(error.splitlines()) == 1 and line in error


def test_launch_configurations_are_accelerates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """accelerate reads each of them, with the kind of training that its name says."""
    from accelerate.commands.config.config_args import load_config_from_file

    for name, kind in (("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("zero2", "DEEPSPEED")):
        run(monkeypatch, "launch-config", name)
        assert load_config_from_file(capsys.readouterr().out.strip()).distributed_type == kind


def test_all_faults_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"tune\.beta is -1.*guide\.rows: 0 is no number"):
        load_experiment(cli.SHIPPED / "quickstart.yaml", ["tune.beta=-1", "guide.rows=0"])


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.cli.options.load_experiment", stopped)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "run", "quickstart")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "trimtab: stopped; to resume: trimtab run quickstart\n"


HEAVY = ("torch", "transformers", "datasets", "trl", "pandas", "sklearn", "matplotlib", "huggingface_hub")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], (*HEAVY, "numpy", "trimtab.training", "trimtab.preferences", "trimtab.report")),
        (
            ["check", "quickstart", "--quick"],
            HEAVY,
        ),  # pair strategies, which it looks up, are functions of numpy arrays
    ],
)
def test_help_and_check_load_no_heavy_library(arguments: list[str], heavy: tuple[str, ...]) -> None:
    """They answer at once: what takes long to import is imported where a stage needs it."""
    code = (
        "import sys, trimtab.cli\n"
        f"sys.argv = ['trimtab', *{arguments!r}]\n"
        "try: trimtab.cli.main()\n"
        "except SystemExit: pass\n"
        f"print('loaded:', *[name for name in {heavy!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].strip() == "loaded:"
