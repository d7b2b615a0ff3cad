"""Several processes that work on one thing, as a launcher would start them, each forked from a warm process.

The environment is that of `torchrun` but for its store, which these tests do without.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from warm import Warm

ROOT = Path(__file__).parents[1]


def environments(count: int) -> list[dict[str, str]]:
    """What each of `count` processes on this machine finds in its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for index in range(count)
    ]  # fmt: skip


def call_together(warm: Warm, function: str, argument: object, folder: Path, count: int = 2) -> list[int]:
    """The exit codes of processes that all call `module:name`; what each says goes to `folder`/errors-INDEX.txt."""
    processes = [
        warm.call(function, argument, errors=folder / f"errors-{index}.txt", environment=environment)
        for index, environment in enumerate(environments(count))
    ]
    return [warm.wait(process) for process in processes]


def tune_tiny(job: dict[str, Any]) -> None:
    """Tune a tiny model; `job` has the settings, how many pairs, where to write, and after how many batches to die.

    Leaves in `folder` beside the artifact what each process has wrapped its model in.
    """
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    from test_training_preference import make_pairs, settings

    from tiny import gpt2, llama, tokenizer
    from trimtab.store.distributed import launched
    from trimtab.training import preference
    from trimtab.training.checkpoints import Saving
    from trimtab.training.job import TrainingJob
    from trimtab.training.pair_trainer import PairTrainer

    wrappers = []

    class Watched(PairTrainer):
        def forget(self) -> None:
            wrappers.append(f"{type(self.model_wrapped).__module__}.{type(self.model_wrapped).__name__}")
            super().forget()

    def advance(done: int, total: int) -> None:
        assert done <= total
        if done == job.get("dies_at") and launched().index == job.get("who_dies", 0):
            raise SystemExit(9)

    import torch

    folder = Path(job["folder"])
    model = {"llama": llama, "gpt2": gpt2}[job.get("model", "llama")](0, dtype=torch.float32)
    preference.PairTrainer = Watched
    train, validation = make_pairs(job["train"], 1), make_pairs(job["validation"], 2, "validation")
    saving = Saving(folder / "work", job.get("checkpoint_seconds", 1e9))
    training = TrainingJob(folder / "made", 0, advance, saving)
    summary = preference.tune(train, validation, model, tokenizer(), settings(**job["settings"]), training)
    (folder / f"told-{launched().index}.json").write_text(json.dumps({"summary": summary, "wrappers": wrappers}))


def cut_and_make_whole(folder: str) -> None:
    """FSDP2 cuts a tiny model over the processes, which then put whole weights back; the main one saves them."""
    import torch
    from torch.distributed import init_device_mesh, init_process_group
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    from tiny import llama
    from trimtab.store.distributed import launched
    from trimtab.training.data_parallel import make_whole

    init_process_group("gloo")
    model = llama(0, dtype=torch.float32)
    mesh = init_device_mesh("cpu", (launched().count,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    make_whole(model)
    assert not any(isinstance(weight, DTensor) for weight in model.parameters())
    if launched().main:
        torch.save(dict(model.named_parameters()), Path(folder) / "whole.pt")
