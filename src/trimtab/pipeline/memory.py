"""How much of the machine's memory steps need: estimates from the sizes of models, before any weights are loaded.

A language model needs its weights, the keys and values of every token of its rows (twice, since a fork copies them) and
logits; training adds gradients, optimizer states and activations. Rows are those that there are: as many as the
settings allow, and no more than the data give. A prompt counts as the longest one of the data. Only the number of rows
under `rows: auto` follows from the configuration alone, by which blocks are cut: there an instruction has 256 tokens.
"""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.training import TrainingConfig
from trimtab.errors import ConfigurationError, TrimtabError
from trimtab.models.hardware import device_type, processes_a_device, visible_devices
from trimtab.models.sizes import Sizes, model_sizes
from trimtab.pipeline.known_prompts import about_tokens, known_prompts
from trimtab.pipeline.need import GIGA, LIBRARY_BYTES, Need
from trimtab.pipeline.step import Step
from trimtab.store.blocks import block_size

CGROUP = Path("/sys/fs/cgroup")
INSTRUCTION_TOKENS = 256  # tokens of an instruction in its chat template; few are longer
FORK_COPIES = 2  # while rows are forked, their cache and its copy exist together
LOGIT_BYTES = 3 * 4  # per logit, three float32 numbers: as computed, sorted, and as a probability
ACTIVATION_BYTES = 34  # per token, layer and unit of width, at 16 bits (Korthikanti et al. 2022, section 4.1)
MEMORY_FRACTION = 0.7
"""The part of a device's memory that `rows: auto` may fill: estimates are rough, and other programs need some."""
MAX_AUTO_ROWS = {False: 256, True: 2048}
"""More rows than this at once do not decode faster: on a CPU (False), on an accelerator (True)."""
_UNREADABLE = (OSError, ValueError, KeyError, AttributeError)
_log = logging.getLogger(__name__)


def memory_lines(steps: Iterable[Step], experiment: Experiment, assets: Assets, jobs: int = 1) -> list[str]:
    """A line that compares the largest need of these steps with the machine's memory, and a warning for each need that
    does not fit."""
    try:
        needs = memory_needs(steps, assets, jobs)
        waiting = _waiting_warnings(experiment, assets) if needs else []
    except _UNREADABLE as error:
        _log.warning("the memory cannot be estimated before the models are loaded: %s", error)
        return []
    if not needs:
        return []
    most, (total, free, name) = max(needs, key=lambda need: need.total), machine_memory(_takes_all(experiment, jobs))
    processes = f" in each of {most.beside} processes" if most.beside > 1 else ""
    lines = [
        f"memory: about {most.total / GIGA:.1f} GB at most, in {most.step} with {most.rows} rows at once{processes}; "
        f"{name} has {total / GIGA:.1f} GB, {free / GIGA:.1f} GB free"
    ]
    for need in needs:
        if need.total > free:
            fits = need.fitting(free)
            remedy = f"lower {need.setting} from {need.value} to {fits}" if fits else need.remedy
            lines.append(
                f"{need.step} takes about {need.total / GIGA:.1f} GB and {free / GIGA:.1f} GB are free: {remedy}"
            )
    return [*lines, *waiting]


def _waiting_warnings(experiment: Experiment, assets: Assets) -> list[str]:
    """A warning where `device_map: cpu` leaves more weights in the host's memory than it has room for."""
    if device_type() != "cuda":
        return []
    waiting = sum(model_sizes(model, assets).host_bytes for model in {experiment.small, experiment.base})
    free = psutil.virtual_memory().available
    if waiting <= free:
        return []
    return [
        f"device_map: cpu leaves {waiting / GIGA:.1f} GB of weights in the host's memory, of which "
        f"{free / GIGA:.1f} GB are free: set device_map: disk"
    ]


def lowered(steps: Iterable[Step], experiment: Experiment, assets: Assets, jobs: int = 1) -> str:
    """After memory ran out: which settings to lower, and to what: half, or less where the estimates say so."""
    try:
        needs = memory_needs(steps, assets, jobs)
    except _UNREADABLE:
        needs = []
    total, _, _ = machine_memory(_takes_all(experiment, jobs))
    settings: dict[str, tuple[int, int]] = {}
    for need in needs:
        fits = max(1, min(need.used // 2, need.fitting(total)))
        value, least = settings.get(need.setting, (need.used, fits))
        settings[need.setting] = max(value, need.used), min(least, fits)
    options = [f"{name} from {value} to {fits}" for name, (value, fits) in settings.items() if value > 1]
    batch = experiment.reward.batch_size if "batch_size" in experiment.reward.entry.reads else 1
    options += [f"reward.batch_size from {batch} to {batch // 2}"] if batch > 1 else []
    return " or ".join(filter(None, [", ".join(options[:-1]), *options[-1:]])) or "the sizes of your models"


def spreads(experiment: Experiment) -> bool:
    """Whether a model is spread over all devices."""
    return any(model.device_map in ("auto", "balanced", "sequential") for model in (experiment.base, experiment.small))


def check_jobs(experiment: Experiment, jobs: int) -> None:
    """Raise ConfigurationError where each of several processes has one GPU, and a model would be spread over all."""
    if jobs > 1 and spreads(experiment) and (devices := len(visible_devices())) > 1:
        raise ConfigurationError(
            f"jobs is {jobs}, each of which has one of {devices} GPUs, and a device_map spreads a model over all of "
            "them: leave out --jobs, or that device_map"
        )


def _takes_all(experiment: Experiment, jobs: int) -> bool:
    """Whether a process may use the memory of all devices; with several processes, each uses one device."""
    return jobs == 1 and spreads(experiment)


def machine_memory(spread: bool = False) -> tuple[float, float, str]:
    """Total and free bytes of the memory that models run in, and its name for messages.

    This is the memory of the first GPU (with `spread` of all GPUs together), or else of the machine or its container.
    """
    if device_type() == "cuda":
        import torch  # late: without a GPU, the command `plan` never loads it

        count = torch.cuda.device_count() if spread else 1
        free, total = map(sum, zip(*(torch.cuda.mem_get_info(index) for index in range(count)), strict=True))
        name = torch.cuda.get_device_name()
        return total, free, name if count == 1 else f"{count} {name}"
    memory, limit = psutil.virtual_memory(), CGROUP / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    if text == "max":
        return memory.total, memory.available, "this machine"
    # the cgroup counts cached file pages as used, although the kernel frees them on demand
    pages = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    used = int((CGROUP / "memory.current").read_text()) - int(pages["inactive_file"])
    return min(int(text), memory.total), min(int(text) - used, memory.available), "this container"


def memory_needs(steps: Iterable[Step], assets: Assets, jobs: int = 1) -> list[Need]:
    """The needs of those steps that run a language model; equal needs are listed once."""
    return list(dict.fromkeys(step.memory(assets, jobs) for step in steps if step.memory is not None))


def decoding_rows(experiment: Experiment, decoder: DecoderConfig, assets: Assets, jobs: int = 1) -> int:
    """How many rows a decoder decodes at once: `guide.rows`, or as many as fit where `jobs` processes share memory."""
    rows = experiment.guide.rows
    return rows if rows != "auto" else of_decoding(experiment, decoder, assets, jobs).value


def synthesis_rows(experiment: Experiment, assets: Assets, jobs: int = 1) -> int:
    """How many rows are sampled at once: `synthesize.rows`, or as many as fit where `jobs` processes share memory."""
    rows = experiment.synthesize.rows
    return rows if rows != "auto" else of_sampling(experiment, assets, jobs).value


def longest_prompt(experiment: Experiment, assets: Assets) -> int:
    """An estimate of the tokens of the longest prompt of the data sets, from their first rows."""
    data = experiment.data
    if data.instructions is None and data.preferences is None:
        return prompt_tokens(experiment)
    try:
        known = known_prompts(data, experiment.seed, assets)
    except (TrimtabError, OSError):  # which the checks of a run name
        return prompt_tokens(experiment)
    return max(map(about_tokens, (*known.tuning, *known.test)), default=0)


def prompt_tokens(experiment: Experiment) -> int:
    """An estimate of the tokens of a prompt from the configuration alone."""
    return 2 * experiment.data.prompt_words[1] if experiment.data.instructions is None else INSTRUCTION_TOKENS


def _rows(
    setting: int | Literal["auto"], candidates: int, weights: float, row: float, spread: bool, beside: int
) -> int:
    """How many rows are decoded at once: a multiple of `candidates`, the rows of one prompt.

    `auto` is as many as fit in `MEMORY_FRACTION` of the memory, up to `MAX_AUTO_ROWS`, where each of `beside` processes
    loads `weights` bytes and takes `row` bytes for each row. It depends on the total memory, not on what is free now,
    so that a machine always gets the same number.
    """
    if setting != "auto":
        return block_size(setting, candidates) * candidates
    total, _, _ = machine_memory(spread)
    room = int((MEMORY_FRACTION * total / beside - LIBRARY_BYTES - weights) / row)
    return block_size(min(room, MAX_AUTO_ROWS[device_type() == "cuda"]), candidates) * candidates


def of_sampling(experiment: Experiment, assets: Assets, jobs: int) -> Need:
    """Memory to sample the untuned model in `synthesize`."""
    config, small, data = experiment.synthesize, model_sizes(experiment.small, assets), experiment.data
    more = len(experiment.small.template) // 4 + config.max_new_tokens

    def row(prompt: int) -> float:
        return FORK_COPIES * (prompt + more) * small.token_bytes + LOGIT_BYTES * small.vocabulary

    beside, spread = processes_a_device(jobs, device_type()), _takes_all(experiment, jobs)
    rows = _rows(config.rows, config.samples, small.bytes, row(prompt_tokens(experiment)), spread, beside)
    most = max(data.tuning_prompts, data.validation_prompts) * config.samples
    longest = row(longest_prompt(experiment, assets))
    return Need("synthesize", small.bytes, longest, min(rows, most), "synthesize.rows", rows, beside=beside)


def of_decoding(experiment: Experiment, decoder: DecoderConfig, assets: Assets, jobs: int) -> Need:
    """Memory to decode: the base's rows and those of the pairs that guide it or are added to it.

    The weights are those of all models of the run, since models stay loaded from one decoder to the next.
    """
    guide, small, large = experiment.guide, model_sizes(experiment.small, assets), model_sizes(experiment.base, assets)
    base = large if decoder.model == "large" else small
    more = len(experiment.base.template) // 4 + guide.max_new_tokens
    pair = 2 * decoder.guided_by_pair + 2 * len(decoder.terms)
    token_bytes = FORK_COPIES * (base.token_bytes + pair * small.token_bytes)

    def row(prompt: int) -> float:
        return (prompt + more) * token_bytes + LOGIT_BYTES * base.vocabulary

    one_copy = guide.tuned is not None and guide.tuned.adapter is not None  # an adapter shares the untuned weights
    weights = (1 if one_copy else 2) * small.bytes + (0 if experiment.large is None else large.bytes)
    processes, spread = processes_a_device(jobs, device_type()), _takes_all(experiment, jobs)
    candidates = decoder.width * decoder.successors
    rows = _rows(guide.rows, candidates, weights, row(prompt_tokens(experiment)), spread, processes)
    most = (guide.unprompted or experiment.data.test_prompts) * candidates
    parts = [("small", small), *([] if experiment.large is None else [("large", large)])]
    remedy = _remedy(*max(parts, key=lambda part: part[1].bytes))
    longest = row(0 if guide.unprompted else longest_prompt(experiment, assets))
    return Need(f"guide {decoder.name}", weights, longest, min(rows, most), "guide.rows", rows, remedy, processes)


def _remedy(part: str, sizes: Sizes) -> str:
    """How to make the weights of a model smaller; `part` is its name in the experiment, `small` or `large`."""
    options = []
    if sizes.config.quantization is None:
        options.append(
            f"set {part}.quantization: 4bit ({sizes.stored('4bit') / GIGA:.1f} GB of weights instead of "
            f"{sizes.stored(None) / GIGA:.1f})"
        )
    if sizes.config.device_map is None:
        options.append(f"set {part}.device_map: {'auto' if device_type() == 'cuda' else 'disk'}")
    return ", or ".join([*options, "take a smaller model or machine"])


def of_sft(experiment: Experiment, assets: Assets, jobs: int) -> Need:
    """Memory for supervised fine-tuning on reviews."""
    assert experiment.sft is not None
    texts, length = experiment.data.sft_reviews, experiment.sft.max_length
    return _training("sft", experiment.sft, experiment, assets, tokens=length, texts=texts)


def of_tuning(experiment: Experiment, assets: Assets, jobs: int) -> Need:
    """Memory for preference tuning, with two responses for each pair."""
    tokens, pairs = experiment.synthesize.max_new_tokens, experiment.pairs
    count = pairs.total or experiment.data.tuning_prompts * pairs.per_prompt
    if experiment.data.preferences is not None:
        with contextlib.suppress(TrimtabError, OSError):  # which the checks of a run name
            known = known_prompts(experiment.data, experiment.seed, assets)
            tokens, count = max(map(about_tokens, known.responses), default=0), known.pairs or count
    tokens += longest_prompt(experiment, assets)
    return _training("tune", experiment.tune, experiment, assets, tokens=tokens, texts=count, texts_each=2)


def _training(
    step: str,
    config: TrainingConfig,
    experiment: Experiment,
    assets: Assets,
    *,
    tokens: int,
    texts: int,
    texts_each: int = 1,
) -> Need:
    """Weights, a gradient and two moments of each trained weight, and activations of a batch of texts of `tokens` each.

    There are `texts` examples of `texts_each` texts; what is longer than `max_length` is cut.
    """
    small = model_sizes(experiment.small, assets)
    trained = small.weights if config.lora is None else 0  # an adapter is too small to count
    layers = small.layers if config.lora is None else config.lora.top_layers or small.layers
    tokens = min(tokens, config.max_length)
    row = tokens * layers * small.width * ACTIVATION_BYTES * small.weight_bytes / 2 + LOGIT_BYTES * small.vocabulary
    weights = small.bytes + 3 * trained * small.weight_bytes
    rows = texts_each * min(config.batch_size, texts)
    setting = f"{step}.batch_size"
    return Need(step, weights, row, rows, setting, config.batch_size, rows_each=texts_each)
