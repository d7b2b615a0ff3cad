"""What the searches of a run depend on beyond their configuration, and where their traces lie.

Knows nothing of how artifacts are made.

    >>> trace_file(Path("runs/demo"), decoder, "0123456789ab")                          # doctest: +SKIP
    PosixPath('runs/demo/traces/cbs-4-4-5-0123456789ab.jsonl')
"""

from collections.abc import Callable
from pathlib import Path

from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.records import Prompt
from trimtab.search.trace import Node, Trace, read_traces
from trimtab.store.blocks import Decode, Plan


def further_parts(experiment: Experiment, decoder: DecoderConfig) -> dict[str, ModelConfig | str | list[str]]:
    """What else a decoder's generations are made from: further models, the code of its value functions, and which
    settings a budget leaves alone."""
    parts: dict[str, ModelConfig | str | list[str]] = {}
    if decoder.uses_tuned and experiment.guide.tuned is not None:
        parts |= {"tuned": experiment.guide.tuned, "untuned": experiment.small}
    if any(term.untuned is None for term in decoder.terms) and not decoder.uses_tuned:
        parts["untuned"] = experiment.small  # else the tuned model, which is made of it, stands for it
    for number, term in enumerate(decoder.emulate):
        parts |= {f"tuned {number}": term.tuned} if term.tuned is not None else {}
        parts |= {f"untuned {number}": term.untuned} if term.untuned is not None else {}
    if decoder.budget is not None:  # of `width: 1` and no width the former alone is kept
        parts["given"] = sorted({"width", "successors", "chunk"} & decoder.model_fields_set)
    for value in decoder.value:
        parts |= value.identity()
    return parts


def trace_file(run: Path, decoder: DecoderConfig, digest: str) -> Path:
    """Where a decoder's trace lies: beside the artifact of this digest, and no part of it."""
    return run / "traces" / f"{decoder.name}-{digest}.jsonl"


def traced(file: Path) -> dict[str, Node]:
    """The search of each prompt in a trace, by its id; nothing where there is no trace."""
    return read_traces(file) if file.is_file() else {}


def trace_rest(
    trace: Trace, prompts: list[Prompt], ready: Callable[[], tuple[list[Prompt], Decode, int]], plan: Plan | None
) -> None:
    """Decode again what of `prompts` was decoded without a trace, in the blocks of `plan`; what it gives is there."""
    missing = {prompt.id for prompt in prompts} - traced(trace.path).keys()
    if not missing:
        return
    every, decode, wanted = ready()
    size = wanted if plan is None else plan.prompts_a_block
    for start in range(0, len(every), size):
        block = every[start : start + size]
        if any(prompt.id in missing for prompt in block):
            decode(block)
