"""Preference tuning beside TRL: pairs a second, peak memory, and the two loss curves.

    python benchmarks/training.py                       # every variant on SmolLM2-135M
    python benchmarks/training.py --variant lora-top-12 --pairs 64

`trl` is TRL's own DPOTrainer with gradient checkpointing off and the reference computed beforehand, rows in its random
order. `trl, same batches` is the same on the batches that trimtab makes, so that the losses of each step compare. Each
runs in a process of its own, in turns, on the same pairs: openings and continuations cut from film reviews.
"""

import argparse
import contextlib
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch.utils.data import RandomSampler, Sampler
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from search import machine
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.config.training import LoraSettings, TuneConfig
from trimtab.data.reviews import load_reviews
from trimtab.models.hardware import default_device
from trimtab.models.load import load_causal_lm
from trimtab.training.adapter import lora_config
from trimtab.training.attention import attention_for
from trimtab.training.batches import BatchOrder, arrange
from trimtab.training.checkpoints import Saving
from trimtab.training.job import TrainingJob
from trimtab.training.pair_trainer import PairTrainer, pair_arguments
from trimtab.training.saved_model import able_to_pad
from trimtab.training.tokens import PairTokens
from trimtab.training.trl_arguments import training_steps

VARIANTS = {
    "lora": TuneConfig(lora=LoraSettings(rank=16, alpha=32), logging_steps=1, evaluations=1),
    "lora-top-12": TuneConfig(lora=LoraSettings(rank=16, alpha=32, top_layers=12), logging_steps=1, evaluations=1),
    "full": TuneConfig(lora=None, learning_rate=1e-5, logging_steps=1, evaluations=1),
}
KINDS = ("trl", "trl, same batches", "trimtab")


class Stock(DPOTrainer):
    """TRL's trainer on rows that are ids already."""

    same_batches = False

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.same_batches:
            return BatchOrder(len(rows), self.args.per_device_train_batch_size, self.args.seed)
        return RandomSampler(rows, generator=torch.Generator().manual_seed(self.args.seed))


def rows(count: int, model: ModelConfig) -> list[PairTokens]:
    """Pairs of a prompt of 4 to 9 tokens and two responses of 20 to 60, from reviews."""
    _, tokenizer = load_causal_lm(model, Assets())
    reviews = load_reviews(Assets(), "imdb")[: 2 * count]
    ids = [tokenizer(review.text, add_special_tokens=False).input_ids for review in reviews]
    return [
        PairTokens(
            chosen[: 4 + n % 6],
            chosen[10 : 30 + 7 * n % 41],
            rejected[10 : 30 + 11 * n % 41],
        )
        for n, (chosen, rejected) in enumerate(zip(ids[:count], ids[count:], strict=True))
    ]


def once(kind: str, variant: str, pairs: int, model: ModelConfig) -> dict[str, object]:
    """Train one epoch in this process: seconds, peak memory and the loss of each step."""
    config = VARIANTS[variant]
    train = rows(pairs, model)
    causal, tokenizer = load_causal_lm(model, Assets())
    tokenizer = able_to_pad(tokenizer, tokenizer.eos_token_id, causal.get_input_embeddings().weight.shape[0])
    longest = max(row.length for row in train)
    how = attention_for(causal.device, longest) if kind == "trimtab" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, how:
        started = time.perf_counter()
        batched = arrange(train, config.batch_size, 0)
        job = TrainingJob(Path(folder), saving=Saving(Path(folder), math.inf))
        if kind == "trimtab":
            trainer: DPOTrainer = PairTrainer(causal, tokenizer, batched, train[:1], config, job)
        else:
            Stock.same_batches = kind != "trl"
            table, held_out = (
                Dataset.from_list([{name: getattr(row, name) for name in PairTokens.__slots__} for row in part])
                for part in (batched if Stock.same_batches else train, train[:1])
            )
            trainer = Stock(
                model=causal,
                args=pair_arguments(causal, config, job, training_steps(pairs, config)),
                data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
                train_dataset=table,
                eval_dataset=held_out,
                processing_class=tokenizer,
                peft_config=lora_config(causal, config.lora) if config.lora is not None else None,
            )
        trainer.train()
        seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak_gigabytes": peak, "losses": losses}


def measure(variant: str, pairs: int, repeats: int, model: ModelConfig) -> dict[str, dict[str, object]]:
    """Each kind `repeats` times in processes of their own, in turns."""
    runs: dict[str, list[dict[str, object]]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            command = [sys.executable, __file__, "--variant", variant, "--pairs", str(pairs), "--once", kind]
            command += ["--model", model.name, "--dtype", model.dtype]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[kind].append(json.loads(printed.splitlines()[-1]))
    found = {}
    for kind, each in runs.items():
        seconds = [float(run["seconds"]) for run in each]  # type: ignore[arg-type]
        found[kind] = {
            "seconds": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "pairs_per_second": pairs / statistics.median(seconds),
            "peak_gigabytes": each[0]["peak_gigabytes"],
            "losses": each[0]["losses"],
        }
    return found


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Between the two loss curves, step by step."""
    return max(abs(one - two) for one, two in zip(first, second, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(VARIANTS), nargs="*", default=list(VARIANTS))
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--once", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = ModelConfig(name=arguments.model, dtype=arguments.dtype)
    if arguments.once:
        print(json.dumps(once(arguments.once, arguments.variant[0], arguments.pairs, model)))
        return
    found = {name: measure(name, arguments.pairs, arguments.repeats, model) for name in arguments.variant}
    table = Table(title=f"DPO on {arguments.pairs} pairs, {arguments.dtype}, {machine(default_device())}")
    for column in ("variant", "kind", "seconds", "pairs a second", "times TRL", "peak GB", "losses apart by"):
        table.add_column(column, justify="right")
    for name, kinds in found.items():
        for kind, row in kinds.items():
            low, high = row["spread"]
            apart = largest_difference(row["losses"], kinds["trl, same batches"]["losses"]) if kind != "trl" else None
            table.add_row(
                name,
                kind,
                f"{row['seconds']:.1f} ({low:.1f} to {high:.1f})",
                f"{row['pairs_per_second']:.2f}",
                f"{kinds['trl']['seconds'] / row['seconds']:.2f}",
                f"{row['peak_gigabytes']:.1f}",
                "" if apart is None else f"{apart:.1e}",
            )
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
