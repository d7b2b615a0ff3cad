"""Tuning by several processes: the numbers of one, one writer, one line where it fails."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from small_run import SmallRun
from tiny import llama
from together import call_together, environments
from trimtab.cli.show import LAUNCH_CONFIGS
from warm import Warm

CASES: dict[str, dict[str, Any]] = {
    # the last batch has two pairs: one for each process; layers below the adapter run once
    "adapter on the upper layer": {"train": 22, "settings": {"lora": {"rank": 4, "top_layers": 1}}},
    # the last batch has one pair, and one process none; the likelihood is a mean over tokens, not over pairs
    "hinge with likelihood, all weights": {
        "train": 21,
        "model": "gpt2",
        "settings": {
            "lora": None, "loss": "hinge_sft", "sft_weight": 0.7, "learning_rate": 2e-3, "optimizer": "rmsprop"
        },
    },
    # shares of three and two pairs, the last batch of two and one; two batches make a step
    "accumulation": {
        "train": 23,
        "settings": {
            "batch_size": 5, "gradient_accumulation": 2, "lora": None, "learning_rate": 2e-3, "logging_steps": 2
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """These are processes on the CPU, and messages where there is no GPU; a warm process keeps what it finds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    process = Warm()
    yield process
    process.close()


def tuned(warm: Warm, folder: Path, count: int, job: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    codes = call_together(warm, "together:tune_tiny", {"folder": str(folder), "validation": 9, **job}, folder, count)
    assert codes == [0] * count, [(folder / f"errors-{index}.txt").read_text() for index in range(count)]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "made" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(warm: Warm, tmp_path: Path, name: str) -> None:
    """Losses, rewards, gradients, evaluations and weights in float32; pairs are of unlike lengths throughout."""
    for count in (1, 2):
        tuned(warm, tmp_path / str(count), count, CASES[name])
    one, two = log_of(tmp_path / "1"), log_of(tmp_path / "2")
    assert len(one) == len(two) >= 8
    for alone, together in zip(one, two, strict=True):
        assert alone.keys() == together.keys()
        for figure, value in alone.items():
            if figure != "total_flos":  # transformers counts a process's own
                assert together[figure] == pytest.approx(value, rel=1e-3, abs=2e-4), (figure, alone["step"])
    weights = [load_file(tmp_path / count / "made" / "model" / "model.safetensors") for count in ("1", "2")]
    for weight, tensor in weights[0].items():
        if "c_attn.bias" not in weight:  # the keys' has no gradient but noise, of which rmsprop makes whole steps
            assert tensor.allclose(weights[1][weight], atol=2e-4), weight


def test_the_model_is_wrapped_in_ddp(warm: Warm, tmp_path: Path) -> None:
    """accelerate would quietly wrap it in something else, or in nothing."""
    tuned(warm, tmp_path, 2, CASES["adapter on the upper layer"])
    for index in (0, 1):
        told = json.loads((tmp_path / f"told-{index}.json").read_text())
        assert told["wrappers"] == ["torch.nn.parallel.distributed.DistributedDataParallel"]


def test_a_training_goes_on_where_one_of_its_processes_died(warm: Warm, tmp_path: Path) -> None:
    """With a checkpoint at each step: the main process, then the other one, dies in the middle; the end is the same."""
    job = {"folder": str(tmp_path), "validation": 9, **CASES["adapter on the upper layer"], "checkpoint_seconds": 0}
    reference = 6 + 3
    for who, dies_at in ((0, reference + 3), (1, reference + 9)):
        codes = call_together(warm, "together:tune_tiny", {**job, "who_dies": who, "dies_at": dies_at}, tmp_path)
        assert codes[who] == 9 and codes[1 - who] != 0
    newest = max((tmp_path / "work").glob("checkpoint-*/files.json"), key=lambda file: file.stat().st_mtime)
    assert json.loads((newest.parent / "trainer_state.json").read_text())["global_step"] > 3
    tuned(warm, tmp_path, 2, job)
    whole = tmp_path / "whole"
    tuned(warm, whole, 2, CASES["adapter on the upper layer"])
    assert (tmp_path / "made" / "log.jsonl").read_bytes() == (whole / "made" / "log.jsonl").read_bytes()
    weights = "model/model.safetensors"
    assert (tmp_path / "made" / weights).read_bytes() == (whole / "made" / weights).read_bytes()


def test_weights_that_fsdp_has_cut_are_made_whole(warm: Warm, tmp_path: Path) -> None:
    codes = call_together(warm, "together:cut_and_make_whole", str(tmp_path), tmp_path)
    assert codes == [0, 0], (tmp_path / "errors-0.txt").read_text()
    found = torch.load(tmp_path / "whole.pt", weights_only=True)
    for name, weight in llama(0, dtype=torch.float32).named_parameters():
        assert torch.equal(found[name], weight), name


@pytest.fixture(scope="module")
def small_run(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return SmallRun(warm, tmp_path_factory.mktemp("small-run"))


@pytest.fixture(scope="module")
def pairs(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with all that comes before tuning; to be copied."""
    folder = tmp_path_factory.mktemp("pairs")
    assert small_run.finish("pairs", folder) == 0, small_run.errors(folder)
    return folder / "quickstart"


ACCELERATE = [
    str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2",
    "--config_file", str(LAUNCH_CONFIGS / "ddp.yaml"),
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def launch(small_run: SmallRun, folder: Path, *launcher: str, **environment: str) -> subprocess.Popen[str]:
    """Start the small run's tuning by a launcher, as a user would type it; the environment is that of its run."""
    words = [*launcher, "-m", "trimtab", *small_run.arguments("tune", folder)]
    return subprocess.Popen(words, text=True, stderr=subprocess.PIPE, env={**os.environ, **environment})


def lines_of_trimtab(errors: str) -> list[str]:
    """What is not the report that PyTorch's launcher prints of whatever fails."""
    return [line for line in errors.splitlines() if line.startswith("trimtab: ")]


def test_a_launched_tuning_is_the_run_s_own(small_run: SmallRun, pairs: Path, tmp_path: Path) -> None:
    """By accelerate's launcher: two processes tune, one of which writes. SIGTERM gives one line, with the command that
    resumes; it does, and the run goes on with the tuned model."""
    run = Path(shutil.copytree(pairs, tmp_path / "quickstart"))
    launched = launch(small_run, tmp_path, *ACCELERATE)
    while not list(run.glob("tune-*.work/checkpoint-*/files.json")):
        assert launched.poll() is None
        time.sleep(0.05)
    launched.terminate()
    (line,) = lines_of_trimtab(launched.communicate()[1])
    typed = f"accelerate {shlex.join(ACCELERATE[1:])} -m trimtab tune quickstart --quiet"
    assert line.startswith(f"trimtab: stopped; to resume: {typed} ")
    _, errors = (launched := launch(small_run, tmp_path, *ACCELERATE)).communicate()
    assert launched.returncode == 0, errors
    assert "find_unused_parameters" not in errors
    assert json.loads((run / "tuned" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert "tuned by 2 processes, each with its share of every batch, in DistributedDataParallel" in log_text(run)
    assert log_text(run).count(f"start: {typed}") == 2
    assert not [path.name for path in run.iterdir() if path.suffix in (".partial", ".work", ".tmp")]
    assert small_run.finish("guide", tmp_path) == 0, small_run.errors(tmp_path)


def test_a_launch_that_fails_says_one_line(small_run: SmallRun, pairs: Path, tmp_path: Path) -> None:
    """Both processes refuse, here under torchrun: accelerate would silently give DDP where the launch asks for FSDP."""
    run = Path(shutil.copytree(pairs, tmp_path / "quickstart"))
    _, errors = (launched := launch(small_run, tmp_path, *TORCHRUN, ACCELERATE_USE_FSDP="true")).communicate()
    assert launched.returncode == 1
    (line,) = lines_of_trimtab(errors)
    assert line.startswith("trimtab: the launch asks for FSDP, which divides a model among GPUs, and there is none: ")
    assert f"start: {shlex.join([Path(TORCHRUN[0]).name, *TORCHRUN[1:]])} -m trimtab tune quickstart" in log_text(run)


def log_text(run: Path) -> str:
    return (run / "log.txt").read_text(encoding="utf-8")


def test_what_cannot_be_done_together_is_said_in_one_line(small_run: SmallRun, tmp_path: Path) -> None:
    """By the main process alone: pairs that have not been made, and a stage that processes do not share."""
    for stage, said in (
        (
            "tune",
            "trimtab: data has not been made: run `trimtab pairs` before tune is launched as several processes\n",
        ),
        ("guide", "trimtab: guide was launched as 2 processes: only `trimtab tune` can be, without --ray\n"),
    ):
        folders = [tmp_path / stage / str(index) for index in range(2)]
        processes = []
        for folder, environment in zip(folders, environments(2), strict=True):
            folder.mkdir(parents=True)
            processes.append(small_run.start(stage, folder, environment=environment))
        assert [small_run.wait(process) for process in processes] == [2, 2]
        assert [small_run.errors(folder) for folder in folders] == [said, ""]
