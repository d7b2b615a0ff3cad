"""The search beside its reference and its floor: same models, same prompts, one process, one run.

    python benchmarks/search.py                         # all workloads
    python benchmarks/search.py --workload cbs --json cbs.json
    python benchmarks/search.py --device cuda           # all workloads of an accelerator; no downloads

`reference` is the algorithm as published, well made: one prompt at a time, all its candidates in one batch over a
key-value cache for the base; both guides read every candidate whole at every chunk, in one batch each, and compute the
logits of the response alone. For `sampling` it is transformers' `generate` with the same settings. `floor` is bare
forward passes of the token counts that the workload implies, all prompts together, over transformers' StaticCache:
neither sampling nor log-sum-exp. End tokens are ignored, so that every run decodes the same number of tokens.

A ratio is the reference's median over trimtab's; the floor's share is the floor's median over trimtab's.

The workloads of an accelerator have a base and guides of the shapes of gpt2-xl and gpt2 with random weights, and a
tokenizer of GPT-2's size, all made on the spot. They take 128 prompts, and need an accelerator of 80 GB for them.
"""

import argparse
import contextlib
import copy
import ctypes
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StaticCache,
)

from random_models import GPT2, GPT2_XL, byte_pairs, random_gpt2
from trimtab.assets.resolve import Assets
from trimtab.config.models import Dtype, ModelConfig
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load import load_causal_lm
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from trimtab.training.saved_model import able_to_pad

SMOLLM, GEMMA = "HuggingFaceTB/SmolLM2-135M-Instruct", "google/gemma-3-270m"
SAMPLING = SamplingConfig(temperature=0.7, top_k=50)
OPENINGS = [
    "This film", "I really wanted to like", "The director", "When I first saw this movie, I", "It is not often that",
    "A friend told me", "The acting", "From the very first scene", "Nobody", "I was surprised", "There is a moment in",
    "What a", "After twenty minutes", "The plot follows", "My wife and I", "Shot in black and white, this",
]  # fmt: skip


@dataclass(frozen=True)
class Models:
    """A base, two guides with one vocabulary, and the tokenizers of both."""

    base: PreTrainedModel
    tuned: PreTrainedModel
    untuned: PreTrainedModel
    base_tokenizer: PreTrainedTokenizerBase
    guide_tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Workload:
    """What is decoded: a search over `base`, guided where `guides` says by how many layers of SmolLM2 each.

    Over a base of gpt2-xl's shape the guides have gpt2's, and all of its layers.
    """

    base: str
    search: Search
    guides: int | None = None
    beta: float | None = None
    required: tuple[float, float] = (0, 0)
    aimed: tuple[float, float] = (0, 0)
    prompts: int = 16

    @property
    def for_accelerators(self) -> bool:
        return self.base == "gpt2-xl"


def workloads(tokens: int) -> dict[str, Workload]:
    """Those of the project's speed targets: required and aimed at, as times the reference and share of the floor."""
    cbs, bon = Search(4, 4, 5, tokens), Search(successors=16, max_new_tokens=tokens)
    plain = Search(max_new_tokens=tokens)
    return {
        "cbs": Workload(SMOLLM, cbs, 8, None, (5.5, 0.75), (7, 0.9)),
        "bon": Workload(SMOLLM, bon, 8, None, (3.5, 0.75), (4.5, 0.9)),
        "eft": Workload(SMOLLM, plain, 8, 1.0, (5, 0.75), (8, 0.9)),
        "cbs-cross": Workload(GEMMA, cbs, 30, None, (5, 0.7), (8, 0.85)),
        "sampling": Workload(SMOLLM, bon, None, None, (2.5, 0.75), (3.5, 0.9)),
        "sampling-large-vocabulary": Workload(GEMMA, bon, None, None, (5, 0.7), (8, 0.85)),
        "gpt2-xl-cbs": Workload("gpt2-xl", cbs, 12, None, (30, 0.5), (30, 0.5), prompts=128),
        "gpt2-xl-bon": Workload("gpt2-xl", bon, 12, prompts=128),
        "gpt2-xl-eft": Workload("gpt2-xl", plain, 12, 1.0, prompts=128),
        "gpt2-xl-sampling": Workload("gpt2-xl", bon, prompts=128),
    }


# ---------------------------------------------------------------------------------------------------------- models


def load(workload: Workload, dtype: torch.dtype, device: torch.device) -> Models:
    """The workload's models. The guides are the lowest layers of SmolLM2 under its own head, or of gpt2's shape with
    random weights; the tuned one is nudged."""
    if workload.for_accelerators:
        base, untuned = (random_gpt2(shape, dtype, device) for shape in (GPT2_XL, GPT2))
        base_tokenizer = guide_tokenizer = byte_pairs()
    else:
        base, base_tokenizer = _loaded(workload.base, dtype, device)
        small, guide_tokenizer = _loaded(SMOLLM, dtype, device)
        untuned = _lowest(small, workload.guides or 1)
    tuned = copy.deepcopy(untuned)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tuned.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(device)
            weight.add_((noise * weight.float().std(correction=0) * 0.02).to(weight))
    return Models(base, tuned.eval(), untuned.eval(), base_tokenizer, guide_tokenizer)


def _loaded(name: str, dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    named: Dtype = str(dtype).removeprefix("torch.")
    model, tokenizer = load_causal_lm(ModelConfig(name=name, dtype=named), Assets())
    return model.to(device), tokenizer


def _lowest(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    config = type(model.config).from_dict({**model.config.to_dict(), "num_hidden_layers": layers, "layer_types": None})
    cut = LlamaForCausalLM(config).to(model.device, model.dtype)
    cut.load_state_dict(model.state_dict(), strict=False)
    return cut


# ------------------------------------------------------------------------------------------------------- reference


class Reference:
    """The published algorithm, one prompt at a time."""

    def __init__(self, models: Models, workload: Workload) -> None:
        self.models, self.workload = models, workload
        self.same = models.base_tokenizer is models.guide_tokenizer or workload.base == SMOLLM

    @torch.inference_mode()
    def run(self, prompts: Sequence[str]) -> None:
        if self.workload.beta is not None:
            for prompt in prompts:
                self._emulated(prompt)
        elif self.workload.guides is None:
            self._generate(prompts)
        else:
            for prompt in prompts:
                self._search(prompt)

    def _generate(self, prompts: Sequence[str]) -> None:
        """All rows in one call of transformers' `generate`, left-padded, at the workload's sampling settings."""
        search, rows = self.workload.search, self.models.base.get_input_embeddings().weight.shape[0]
        tokenizer = able_to_pad(self.models.base_tokenizer, self.models.base_tokenizer.eos_token_id, rows)
        tokenizer.padding_side = "left"
        batch = tokenizer(
            [prompt for prompt in prompts for _ in range(search.candidates)], return_tensors="pt", padding=True
        )
        self.models.base.generate(
            **batch.to(self.models.base.device),
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            top_p=1.0,
            min_new_tokens=search.max_new_tokens,
            max_new_tokens=search.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )

    def _search(self, prompt: str) -> None:
        models, search = self.models, self.workload.search
        device = models.base.device
        prefix = models.base_tokenizer(prompt, return_tensors="pt").input_ids.to(device)
        cache = DynamicCache(config=models.base.config)
        logits = models.base(input_ids=prefix.expand(search.candidates, -1), past_key_values=cache).logits[:, -1]
        response = torch.empty(search.candidates, 0, dtype=torch.long, device=device)
        chunk = search.chunk or search.max_new_tokens
        for start in range(0, search.max_new_tokens, chunk):
            length = min(chunk, search.max_new_tokens - start)
            for offset in range(length):
                token = _sample(logits)
                response = torch.cat([response, token], dim=1)
                if start + offset + 1 < search.max_new_tokens:
                    logits = models.base(input_ids=token, past_key_values=cache).logits[:, -1]
            values = self._values(prompt, response)
            best = values.topk(search.width).indices.repeat_interleave(search.successors)
            response, logits = response[best], logits[best]
            cache.reorder_cache(best)

    def _values(self, prompt: str, response: torch.Tensor) -> torch.Tensor:
        """log p_tuned - log p_untuned of each candidate, read whole."""
        tokenizer = self.models.guide_tokenizer
        if self.same:
            rows = response.tolist()
        else:
            texts = self.models.base_tokenizer.batch_decode(response, skip_special_tokens=True)
            rows = tokenizer(texts, add_special_tokens=False).input_ids
        prefix = tokenizer(prompt).input_ids
        longest = max(map(len, rows))
        ids = torch.tensor([[*prefix, *row, *[0] * (longest - len(row))] for row in rows], device=response.device)
        mask = torch.tensor([[1] * (len(prefix) + len(row)) + [0] * (longest - len(row)) for row in rows]).to(ids)
        sums = [
            self._log_probabilities(model, ids, mask, len(prefix)) for model in (self.models.tuned, self.models.untuned)
        ]
        return sums[0] - sums[1]

    @staticmethod
    def _log_probabilities(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, prefix: int) -> torch.Tensor:
        count = ids.shape[1] - prefix
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=count + 1).logits[:, :-1]
        logs = torch.log_softmax(logits.float(), dim=-1).gather(2, ids[:, prefix:, None]).squeeze(2)
        return (logs * mask[:, prefix:]).sum(1)

    def _emulated(self, prompt: str) -> None:
        """One row over three caches."""
        models, beta = self.models, self.workload.beta
        ids = models.base_tokenizer(prompt, return_tensors="pt").input_ids.to(models.base.device)
        triple = (models.base, models.tuned, models.untuned)
        caches = [DynamicCache(config=model.config) for model in triple]
        for _ in range(self.workload.search.max_new_tokens):
            base, tuned, untuned = (
                model(input_ids=ids, past_key_values=cache).logits[:, -1].float()
                for model, cache in zip(triple, caches, strict=True)
            )
            ids = _sample(base + beta * (tuned - untuned))


def _sample(logits: torch.Tensor) -> torch.Tensor:
    """One token a row, [rows, 1], at the workload's temperature and top-k."""
    values, tokens = logits.topk(SAMPLING.top_k, dim=-1)
    drawn = torch.multinomial(torch.softmax(values.float() / SAMPLING.temperature, dim=-1), 1)
    return tokens.gather(1, drawn)


# ----------------------------------------------------------------------------------------------------------- floor


class Floor:
    """Bare forward passes of the same token counts, all prompts together, static shapes."""

    def __init__(self, models: Models, workload: Workload, ratio: float) -> None:
        self.models, self.workload = models, workload
        self.ratio = ratio  # guide tokens to a base token

    @torch.inference_mode()
    def run(self, prompts: Sequence[str]) -> None:
        search, models = self.workload.search, self.models
        steps, chunk = search.max_new_tokens, search.chunk or search.max_new_tokens
        base = _Passes(
            models.base, self._length(models.base_tokenizer, prompts), len(prompts), search.candidates, steps
        )
        guides = []
        if self.workload.guides is not None:
            length = self._length(models.guide_tokenizer, prompts)
            room = steps if self.workload.beta is not None else round(steps * self.ratio) + steps // chunk
            pair = (models.tuned, models.untuned)
            guides = [_Passes(model, length, len(prompts), search.candidates, room) for model in pair]
        for step in range(steps):
            base.read(1)
            if self.workload.beta is not None:
                for guide in guides:
                    guide.read(1)
            elif guides and (step + 1) % chunk == 0:
                for guide in guides:
                    guide.read(round(chunk * self.ratio))

    @staticmethod
    def _length(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> int:
        return round(statistics.mean(len(tokenizer(prompt).input_ids) for prompt in prompts))


class _Passes:
    """Forward passes of one model over a StaticCache, the prompt read once a prompt and then spread over the rows."""

    def __init__(self, model: PreTrainedModel, prompt: int, prompts: int, candidates: int, room: int) -> None:
        self.model, self.rows = model, prompts * candidates
        self.cache = StaticCache(config=model.config, max_cache_len=prompt + room)
        single = StaticCache(config=model.config, max_cache_len=prompt + room)
        self._forward(single, torch.zeros(prompts, prompt, dtype=torch.long))
        for layer, read in zip(self.cache.layers, single.layers, strict=True):
            layer.lazy_initialization(
                read.keys[:1].expand(self.rows, -1, -1, -1), read.values[:1].expand(self.rows, -1, -1, -1)
            )
            layer.keys.copy_(read.keys.repeat_interleave(candidates, 0))
            layer.values.copy_(read.values.repeat_interleave(candidates, 0))
            layer.cumulative_length.copy_(read.cumulative_length)

    def read(self, count: int) -> None:
        """`count` tokens a row, and the logits of all of them."""
        self._forward(self.cache, torch.zeros(self.rows, count, dtype=torch.long))

    def _forward(self, cache: StaticCache, ids: torch.Tensor) -> None:
        hidden = self.model.base_model(input_ids=ids.to(self.model.device), past_key_values=cache).last_hidden_state
        head = self.model.get_output_embeddings()
        for part in hidden.flatten(0, 1).split(256):  # as many rows of logits at a time as a decode step has
            torch.nn.functional.linear(part, head.weight)


# ------------------------------------------------------------------------------------------------------------ ours


def trimtab_run(models: Models, workload: Workload) -> tuple[Callable[[Sequence[str]], None], Callable[[], float]]:
    """A function that decodes prompts, and one that tells how many guide tokens were read for each base token."""
    base = CachedModel(copy.deepcopy(models.base), Vocabulary(models.base_tokenizer))
    tuned, untuned = (
        CachedModel(copy.deepcopy(m), Vocabulary(models.guide_tokenizer)) for m in (models.tuned, models.untuned)
    )
    model = base if workload.beta is None else emulate(base, [(tuned, untuned, workload.beta)])
    guided = workload.guides is not None and workload.beta is None
    value = ImplicitValue(tuned, untuned, base) if guided else None
    proposer = LanguageModelProposer(model, SAMPLING, seed=0, ignore_eos=True)

    def run(prompts: Sequence[str]) -> None:
        workload.search.run([Prompt(str(n), prompt) for n, prompt in enumerate(prompts)], proposer, value)

    return run, lambda: untuned.tokens_read / base.tokens_read if guided else 1.0


# ----------------------------------------------------------------------------------------------------- measurement


def measure(
    name: str, workload: Workload, prompts: Sequence[str], dtype: Dtype, repeats: int, device: torch.device
) -> dict[str, object]:
    """Seconds of the three, in turns, so that whatever else the machine does falls on all alike."""
    models = load(workload, pick_dtype(dtype, device), device)
    ours, ratio = trimtab_run(models, workload)
    ours(prompts[:2])
    runs: dict[str, Callable[[Sequence[str]], None]] = {
        "reference": Reference(models, workload).run,
        "trimtab": ours,
        "floor": Floor(models, workload, ratio()).run,
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    peaks: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(repeats):
        for kind, run in runs.items():
            torch.manual_seed(0)
            with peak_memory(peaks[kind], device):
                started = time.perf_counter()
                run(prompts)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[kind].append(time.perf_counter() - started)
    middle = {kind: statistics.median(times) for kind, times in seconds.items()}
    return {
        "workload": name,
        "ratio": middle["reference"] / middle["trimtab"],
        "floor_share": middle["floor"] / middle["trimtab"],
        "ratio_required": workload.required[0],
        "ratio_aimed": workload.aimed[0],
        "floor_share_required": workload.required[1],
        "floor_share_aimed": workload.aimed[1],
        "seconds": middle,
        "spread": {kind: [min(times), max(times)] for kind, times in seconds.items()},
        "peak_gigabytes": {kind: max(each) for kind, each in peaks.items()},
    }


@contextlib.contextmanager
def peak_memory(peaks: list[float], device: torch.device) -> Iterator[None]:
    """Appends the gigabytes that a block takes at most beyond what stood before it: of the device, or of the process.

    Of a process only Linux tells; elsewhere it is NaN.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        peaks.append((torch.cuda.max_memory_allocated(device) - before) / 1e9)
        return
    if not Path("/proc/self/clear_refs").exists():
        yield
        peaks.append(math.nan)
        return
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier block has freed counts for none
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (proc(5))
    before = _resident("VmRSS")
    yield
    peaks.append((_resident("VmHWM") - before) / 1e9)


def _resident(field: str) -> float:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def machine(device: torch.device) -> str:
    """What the figures hold for: the accelerator, or the processor and the threads on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def for_device(known: dict[str, Workload], device: torch.device) -> dict[str, Workload]:
    """The workloads that are measured where none is named."""
    return {name: each for name, each in known.items() if each.for_accelerators == (device.type != "cpu")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(workloads(50)), nargs="*", help="default: those for the device")
    parser.add_argument("--prompts", type=int, help="default: 16, and 128 for the workloads of an accelerator")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--dtype", default="auto", help="auto (by the device), float32 or bfloat16")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    device = arguments.device
    known = workloads(arguments.tokens)
    chosen = {name: known[name] for name in arguments.workload} if arguments.workload else for_device(known, device)
    found = {}
    for name, workload in chosen.items():
        count = arguments.prompts or workload.prompts
        prompts = [OPENINGS[number % len(OPENINGS)] for number in range(count)]
        found[name] = measure(name, workload, prompts, arguments.dtype, arguments.repeats, device)
    dtype = str(pick_dtype(arguments.dtype, device)).removeprefix("torch.")
    counts = sorted({arguments.prompts or workload.prompts for workload in chosen.values()})
    title = f"{' or '.join(map(str, counts))} prompts, {arguments.tokens} tokens, {dtype}, {machine(device)}"
    table = Table(title=title)
    columns = ("workload", "reference s", "trimtab s", "floor s", "times the reference", "share of the floor")
    for column in (*columns, "peak GB, reference and trimtab"):
        table.add_column(column, justify="right", no_wrap=column == "workload")
    for name, row in found.items():
        middle, spread = row["seconds"], row["spread"]
        cells = [
            f"{middle[k]:.1f} ({spread[k][0]:.1f} to {spread[k][1]:.1f})" for k in ("reference", "trimtab", "floor")
        ]
        needed = (
            _beside(f"{row['ratio']:.1f}", row["ratio_required"]),
            _beside(f"{row['floor_share']:.2f}", row["floor_share_required"]),
        )
        peaks = row["peak_gigabytes"]
        table.add_row(name, *cells, *needed, f"{peaks['reference']:.2f} {peaks['trimtab']:.2f}")
    Console(width=160).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _beside(found: str, required: float) -> str:
    return f"{found} (required {required:g})" if required else found


if __name__ == "__main__":
    main()
