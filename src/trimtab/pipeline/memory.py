"""What a run will take of the machine's memory, said before it begins: an estimate from sizes, without any weights.

For each stage: the weights of its models, what its rows hold (keys and values of every token, with the copy that a
fork makes; logits), and for tuning gradients, optimizer and activations. Prompts are counted at their longest words
with two tokens each, instructions at 256 tokens.

    >>> memory_lines(experiment, Assets(), until="report")                              # doctest: +SKIP
    ['memory: about 3.1 GB at most, in guide cbs-4-4-5 with 256 rows at once; this machine has 15.6 GB, 12.0 GB free']
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
import torch
from safetensors import SafetensorError

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.training import TrainingConfig
from trimtab.errors import ConfigurationError
from trimtab.executors.pool import processes_a_device, visible_devices
from trimtab.models.load import default_device
from trimtab.models.sizes import Sizes, model_sizes
from trimtab.store.blocks import block_size

GIGA = 1e9
CGROUP = Path("/sys/fs/cgroup")
INSTRUCTION = 256  # tokens of an instruction in its chat template; few are longer
FORKED = 2  # a fork of the rows stands beside what it was made of
LOGITS = 3 * 4  # bytes for each: float32, once as they come, once sorted, once as probabilities
ACTIVATIONS = 34  # bytes for each token, layer and unit of width at 16 bits (Korthikanti et al. 2022, section 4.1)
SHARE = 0.7
"""Of a device's memory, what rows are worked out for: estimates are rough, and others may want some."""
ENOUGH = {False: 256, True: 2048}
"""Rows beyond which a token of each costs no less: on a CPU, and with an accelerator."""
LIBRARIES = 0.7 * GIGA  # what Python and the libraries take themselves
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """What one stage takes: bytes in all and for one row; `rows` are what `setting`, now `value`, makes. So many
    processes `beside` each other take as much each."""

    stage: str
    weights: float
    row: float
    rows: int
    setting: str
    value: int
    remedy: str = "take a smaller model or machine"
    beside: int = 1

    @property
    def total(self) -> float:
        return self.beside * (LIBRARIES + self.weights + self.rows * self.row)

    def fitting(self, room: float) -> int:
        """The largest value of the setting that fits."""
        return max(int((room / self.beside - LIBRARIES - self.weights) / (self.row * self.rows / self.value)), 0)


def memory_lines(experiment: Experiment, assets: Assets, until: str, jobs: int = 1) -> list[str]:
    """The largest need beside what there is, and a warning for each that will not fit; of stages up to `until`, which
    so many `jobs` decode."""
    try:
        needs = list(memory_needs(experiment, assets, until, jobs))
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        _log.warning("the memory cannot be told before the models are loaded: %s", error)
        return []
    if not needs:
        return []
    most, (total, free, name) = max(needs, key=lambda need: need.total), machine_memory(_takes_all(experiment, jobs))
    said = [
        f"memory: about {most.total / GIGA:.1f} GB at most, in {most.stage} with {most.rows} rows at once"
        f"{f' in each of {most.beside} processes' if most.beside > 1 else ''}; "
        f"{name} has {total / GIGA:.1f} GB, "
        f"{free / GIGA:.1f} GB free"
    ]
    for need in needs:
        if need.total > free:
            fits = need.fitting(free)
            remedy = f"lower {need.setting} from {need.value} to {fits}" if fits else need.remedy
            warning = f"{need.stage} takes about {need.total / GIGA:.1f} GB and {free / GIGA:.1f} GB are free: {remedy}"
            said.append(warning)
    return [*said, *_waiting(experiment, assets, until)]


def _waiting(experiment: Experiment, assets: Assets, until: str) -> Iterator[str]:
    """A warning where more weights are to wait in the host's memory than it has room for."""
    if until in ("data", "reward") or default_device().type != "cuda":
        return
    waiting = sum(model_sizes(model, assets).host_bytes for model in {experiment.small, experiment.base})
    free = psutil.virtual_memory().available
    if waiting > free:
        yield (
            f"device_map: cpu leaves {waiting / GIGA:.1f} GB of weights in the host's memory, of which "
            f"{free / GIGA:.1f} GB are free: set device_map: disk"
        )


def lowered(experiment: Experiment, assets: Assets, until: str, jobs: int = 1) -> str:
    """What to lower where memory was wanting, and to what: half, or less where the estimates say so."""
    try:
        needs = list(memory_needs(experiment, assets, until, jobs))
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
        needs = []
    total, _, _ = machine_memory(_takes_all(experiment, jobs))
    settings: dict[str, tuple[int, int]] = {}
    for need in needs:
        fits = max(1, min(need.value // 2, need.fitting(total)))
        value, least = settings.get(need.setting, (need.value, fits))
        settings[need.setting] = max(value, need.value), min(least, fits)
    spoken = [f"{name} from {value} to {fits}" for name, (value, fits) in settings.items() if value > 1]
    if experiment.reward.batch_size > 1:
        spoken.append(f"reward.batch_size from {experiment.reward.batch_size} to {experiment.reward.batch_size // 2}")
    return " or ".join(filter(None, [", ".join(spoken[:-1]), *spoken[-1:]])) or "the sizes of your models"


def spreads(experiment: Experiment) -> bool:
    """Whether a model is shared out over all devices."""
    return any(each.device_map in ("auto", "balanced", "sequential") for each in (experiment.base, experiment.small))


def check_jobs(experiment: Experiment, jobs: int) -> None:
    """Raise ConfigurationError where each of several processes has one GPU, and a model would be spread over all."""
    if jobs > 1 and spreads(experiment) and (devices := len(visible_devices())) > 1:
        raise ConfigurationError(
            f"jobs is {jobs}, each of which has one of {devices} GPUs, and a device_map spreads a model over all of "
            "them: leave out --jobs, or that device_map"
        )


def _takes_all(experiment: Experiment, jobs: int) -> bool:
    """Whether a process has the memory of all devices: of several processes each has one device."""
    return jobs == 1 and spreads(experiment)


def machine_memory(spread: bool = False) -> tuple[float, float, str]:
    """Bytes of memory in all and free, of the device that models run on, or all if `spread`; and what it is called."""
    if default_device().type == "cuda":
        count = torch.cuda.device_count() if spread else 1
        both = [torch.cuda.mem_get_info(number) for number in range(count)]
        name = torch.cuda.get_device_name()
        return sum(total for _, total in both), sum(free for free, _ in both), name if count == 1 else f"{count} {name}"
    memory, limit = psutil.virtual_memory(), CGROUP / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    if text == "max":
        return memory.total, memory.available, "this machine"
    # what files have left in memory counts as used there, and is given up where it is wanted
    pages = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    used = int((CGROUP / "memory.current").read_text()) - int(pages["inactive_file"])
    return min(int(text), memory.total), min(int(text) - used, memory.available), "this container"


def memory_needs(experiment: Experiment, assets: Assets, until: str, jobs: int = 1) -> Iterator[Need]:
    """What each stage up to `until` that runs a language model takes."""
    if until in ("data", "reward"):
        return
    sizes = cache(lambda model: model_sizes(model, assets))
    small, prompt = sizes(experiment.small), _prompt(experiment)
    synthesis, sft, tune = experiment.synthesize, experiment.sft, experiment.tune
    if sft is not None:
        yield _training("sft", sft, small, sft.max_length, sft.batch_size)
    if until == "sft":
        return
    if not experiment.data.preferences and experiment.tunes:
        yield _sampling(experiment, small, jobs)
    if until not in ("synthesize", "pairs") and experiment.tunes:
        yield _training("tune", tune, small, prompt + synthesis.max_new_tokens, 2 * tune.batch_size)
    if until in ("synthesize", "pairs", "tune"):
        return
    large = sizes(experiment.base)
    for decoder in experiment.guide.decoders:
        if decoder.best_of is None:
            yield _decoding(experiment, decoder, small, large, jobs)


def decoding_rows(experiment: Experiment, decoder: DecoderConfig, assets: Assets, jobs: int = 1) -> int:
    """How many rows this decoder has at once: `guide.rows`, or as many as its device has room for in each of `jobs`
    processes."""
    guide = experiment.guide
    if guide.rows != "auto":
        return guide.rows
    small, large = (model_sizes(model, assets) for model in (experiment.small, experiment.base))
    return _decoding(experiment, decoder, small, large, jobs).rows


def synthesis_rows(experiment: Experiment, assets: Assets, jobs: int = 1) -> int:
    """How many rows are sampled at once: `synthesize.rows`, or as many as the device has room for in each of `jobs`
    processes."""
    rows = experiment.synthesize.rows
    return rows if rows != "auto" else _sampling(experiment, model_sizes(experiment.small, assets), jobs).rows


def _prompt(experiment: Experiment) -> int:
    """Tokens of a prompt."""
    return 2 * experiment.data.prompt_words[1] if experiment.data.instructions is None else INSTRUCTION


def _rows(wanted: int | Literal["auto"], candidates: int, weights: float, row: float, spread: bool, beside: int) -> int:
    """Rows at once, whole prompts of `candidates` rows of so many bytes each. `auto` is what a share of all memory of
    the device has room for in each of `beside` processes, of which a machine that is the same has always the same, up
    to where more would not be faster."""
    if wanted != "auto":
        return block_size(wanted, candidates) * candidates
    total, _, _ = machine_memory(spread)
    room = int((SHARE * total / beside - LIBRARIES - weights) / row)
    return block_size(min(room, ENOUGH[default_device().type == "cuda"]), candidates) * candidates


def _sampling(experiment: Experiment, small: Sizes, jobs: int) -> Need:
    """The untuned model's rows."""
    config = experiment.synthesize
    tokens = _prompt(experiment) + len(experiment.small.template) // 4 + config.max_new_tokens
    row = FORKED * tokens * small.token_bytes + LOGITS * small.vocabulary
    beside = processes_a_device(jobs, default_device().type)
    rows = _rows(config.rows, config.samples, small.bytes, row, _takes_all(experiment, jobs), beside)
    return Need("synthesize", small.bytes, row, rows, "synthesize.rows", rows, beside=beside)


def _decoding(experiment: Experiment, decoder: DecoderConfig, small: Sizes, large: Sizes, jobs: int) -> Need:
    """The base's rows, and those of the pair that guides or is added to it; all models stay loaded once they are."""
    guide = experiment.guide
    base = large if decoder.model == "large" else small
    tokens = _prompt(experiment) + len(experiment.base.template) // 4 + guide.max_new_tokens
    pair = 2 * decoder.guided_by_pair + 2 * len(decoder.terms)
    row = FORKED * tokens * (base.token_bytes + pair * small.token_bytes) + LOGITS * base.vocabulary
    beside = guide.tuned is not None and guide.tuned.adapter is not None
    weights = (1 if beside else 2) * small.bytes + (0 if experiment.large is None else large.bytes)
    processes = processes_a_device(jobs, default_device().type)
    candidates = decoder.width * decoder.successors
    rows = _rows(guide.rows, candidates, weights, row, _takes_all(experiment, jobs), processes)
    parts = [("small", small), *([] if experiment.large is None else [("large", large)])]
    remedy = _remedy(*max(parts, key=lambda each: each[1].bytes))
    return Need(f"guide {decoder.name}", weights, row, rows, "guide.rows", rows, remedy, processes)


def _remedy(part: str, sizes: Sizes) -> str:
    """What to do about a model, the part of the experiment that is given, whose weights alone are too many."""
    options = []
    if sizes.config.quantization is None:
        options.append(
            f"set {part}.quantization: 4bit ({sizes.stored('4bit') / GIGA:.1f} GB of weights instead of "
            f"{sizes.stored(None) / GIGA:.1f})"
        )
    if sizes.config.device_map is None:
        options.append(f"set {part}.device_map: {'auto' if default_device().type == 'cuda' else 'disk'}")
    return ", or ".join([*options, "take a smaller model or machine"])


def _training(stage: str, config: TrainingConfig, small: Sizes, tokens: int, rows: int) -> Need:
    """Weights, for each trained one a gradient and two moments, and activations of `rows` texts of so many tokens."""
    trained = small.weights if config.lora is None else 0  # an adapter is too small to count
    layers = small.layers if config.lora is None else config.lora.top_layers or small.layers
    row = tokens * layers * small.width * ACTIVATIONS * small.weight_bytes / 2 + LOGITS * small.vocabulary
    weights = small.bytes + 3 * trained * small.weight_bytes
    return Need(stage, weights, row, rows, f"{stage}.batch_size", config.batch_size)
