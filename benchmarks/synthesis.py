"""The synthesis stage beside transformers' `generate` and vLLM: samples and tokens a second, rewards left out.

    python benchmarks/synthesis.py
    python benchmarks/synthesis.py --vllm other-environment/bin/python --json synthesis.json

All sample the same prompts, so many times each, from SmolLM2 at the stage's own settings (temperature 1, top-k 50; a
response ends at its end token or after 40 tokens), all rows at once; `generate` in batches of 256 rows, as the stage
has them. vLLM has its own wishes for versions, so its environment's Python is named by an option; starting it is not
counted. Each kind runs in a process of its own, in turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from search import OPENINGS, SMOLLM, machine
from trimtab.assets.resolve import Assets
from trimtab.config.models import Dtype, ModelConfig
from trimtab.config.pairs import SynthesizeConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load import load_causal_lm
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.training.saved_model import able_to_pad

ROWS = SynthesizeConfig().rows
VLLM = """
import json, sys, time
from vllm import LLM, SamplingParams
folder, dtype, prompts, samples, tokens, repeats = json.loads(sys.argv[1])
model = LLM(folder, dtype=dtype, max_model_len=256, seed=0)
settings = SamplingParams(n=samples, temperature=1.0, top_k=50, max_tokens=tokens)
found = []
for _ in range(repeats + 1):
    started = time.perf_counter()
    made = model.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - started
    found.append([seconds, sum(len(one.token_ids) for each in made for one in each.outputs)])
print(json.dumps(found[1:]))
"""


def prompts_of(count: int) -> list[str]:
    return [OPENINGS[number % len(OPENINGS)] for number in range(count)]


def trimtab_sampler(model: ModelConfig, config: SynthesizeConfig) -> Callable[[list[str]], int]:
    """A function that samples and tells how many tokens it has."""
    causal, tokenizer = load_causal_lm(model, Assets())
    proposer = LanguageModelProposer(CachedModel(causal, Vocabulary(tokenizer)), config.sampling, seed=0)
    search = Search(successors=config.samples, max_new_tokens=config.max_new_tokens, keep=config.samples)
    size = max(1, ROWS // config.samples)

    def sample(prompts: list[str]) -> int:
        records = [Prompt(str(number), text) for number, text in enumerate(prompts)]
        blocks = [records[start : start + size] for start in range(0, len(records), size)]
        return sum(
            len(each.token_ids) for block in blocks for group in search.run(block, proposer, None) for each in group
        )

    return sample


def generate_sampler(model: ModelConfig, config: SynthesizeConfig) -> Callable[[list[str]], int]:
    """The same by transformers' `generate`, left-padded."""
    causal, tokenizer = load_causal_lm(model, Assets())
    tokenizer = able_to_pad(tokenizer, tokenizer.eos_token_id, causal.get_input_embeddings().weight.shape[0])
    tokenizer.padding_side = "left"
    size = max(1, ROWS // config.samples)

    def sample(prompts: list[str]) -> int:
        count = 0
        for start in range(0, len(prompts), size):
            batch = tokenizer(prompts[start : start + size], return_tensors="pt", padding=True).to(causal.device)
            ids = causal.generate(
                **batch,
                do_sample=True,
                temperature=config.sampling.temperature,
                top_k=config.sampling.top_k,
                top_p=config.sampling.top_p,
                num_return_sequences=config.samples,
                max_new_tokens=config.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )[:, batch.input_ids.shape[1] :]
            # after its end a row is padding; with padding that is an end token the first of them counts
            ended = (ids == tokenizer.eos_token_id).cumsum(1) - (ids == tokenizer.eos_token_id).int()
            count += int((ended == 0).sum())
        return count

    return sample


KINDS = {"generate": generate_sampler, "trimtab": trimtab_sampler}


Runs = list[list[float]]
"""Seconds and tokens of each repeat."""


def once(kind: str, model: ModelConfig, config: SynthesizeConfig, prompts: list[str], repeats: int) -> Runs:
    """Seconds and tokens of each repeat, after one that is not counted."""
    sample = KINDS[kind](model, config)
    found = []
    for _ in range(repeats + 1):
        torch.manual_seed(0)
        started = time.perf_counter()
        tokens = sample(prompts)
        found.append([time.perf_counter() - started, tokens])
    return found[1:]


def in_vllm(python: str, model: ModelConfig, config: SynthesizeConfig, prompts: list[str], repeats: int) -> Runs:
    """The same by vLLM in another environment, on a copy of the model's folder as it is resolved here."""
    dtype = str(pick_dtype(model.dtype, torch.device("cpu"))).removeprefix("torch.")
    folder = str(Assets().model(model.name))
    settings = json.dumps([folder, dtype, prompts, config.samples, config.max_new_tokens, repeats])
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "sample.py"
        script.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in VLLM.splitlines()))
        printed = subprocess.run([python, str(script), settings], check=True, capture_output=True, text=True).stdout
    return told(printed)


def told(printed: str) -> Runs:
    """What a process printed of its runs; vLLM prints more, before and after."""
    found: Runs = json.loads([line for line in printed.splitlines() if line.startswith("[[")][-1])
    return found


def measure(
    model: ModelConfig, config: SynthesizeConfig, prompts: list[str], repeats: int, vllm: str | None
) -> dict[str, dict[str, Any]]:
    """Each kind in a process of its own."""
    rows = {}
    for kind in [*KINDS, *(["vllm"] if vllm else [])]:
        if kind == "vllm":
            runs = in_vllm(vllm or "", model, config, prompts, repeats)
        else:
            command = [sys.executable, __file__, "--once", kind, "--prompts", str(len(prompts))]
            command += ["--samples", str(config.samples), "--tokens", str(config.max_new_tokens)]
            command += ["--repeats", str(repeats), "--model", model.name, "--dtype", model.dtype]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs = told(printed)
        seconds = [each[0] for each in runs]
        samples = len(prompts) * config.samples
        rows[kind] = {
            "seconds": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "samples_per_second": samples / statistics.median(seconds),
            "tokens_per_second": statistics.median(tokens / spent for spent, tokens in runs),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default=SMOLLM)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--vllm", help="the Python of an environment that has vLLM")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--once", choices=list(KINDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtype: Dtype = arguments.dtype
    model = ModelConfig(name=arguments.model, dtype=dtype)
    config = SynthesizeConfig(samples=arguments.samples, max_new_tokens=arguments.tokens)
    prompts = prompts_of(arguments.prompts)
    if arguments.once:
        print(json.dumps(once(arguments.once, model, config, prompts, arguments.repeats)))
        return
    found = measure(model, config, prompts, arguments.repeats, arguments.vllm)
    table = Table(title=f"{arguments.prompts} prompts x {arguments.samples}, {dtype}, {machine(default_device())}")
    for column in ("kind", "seconds", "samples a second", "tokens a second"):
        table.add_column(column, justify="right")
    for kind, row in found.items():
        low, high = row["spread"]
        seconds = f"{row['seconds']:.1f} ({low:.1f} to {high:.1f})"
        table.add_row(kind, seconds, f"{row['samples_per_second']:.1f}", f"{row['tokens_per_second']:.0f}")
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
