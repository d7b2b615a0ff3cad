"""Where the traces of a run's searches lie, and how a trace is completed."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from trimtab.pipeline.step import Decoding
from trimtab.search.trace import Node, Trace, read_traces
from trimtab.store.blocks import Plan, advance_within, cut
from trimtab.store.progress import Advance


def trace_file(run: Path, decoder: str, digest: str) -> Path:
    """Where a decoder's trace lies: beside the artifact of this digest, and not in it."""
    return run / "traces" / f"{decoder}-{digest}.jsonl"


def traced(file: Path) -> dict[str, Node]:
    """The search of each prompt in a trace, by its id; nothing where there is no trace."""
    return read_traces(file) if file.is_file() else {}


def missing_traces(trace: Trace, ids: Iterable[str]) -> set[str]:
    """Those of the prompts' ids that were decoded without a trace."""
    return set(ids) - traced(trace.path).keys()


def trace_blocks(missing: set[str], decoding: Decoding, plan: Plan | None, advance: Advance) -> None:
    """Decode the blocks that hold a prompt of `missing` again, in the blocks of `plan`; only the trace is kept."""
    size = decoding.block_size if plan is None else plan.prompts_a_block
    blocks = [block for block in cut(decoding.prompts, size).values() if any(prompt.id in missing for prompt in block)]
    total, done = sum(map(len, blocks)), 0
    for block in blocks:
        decoding.decode(block, within=partial(advance_within, advance, done, len(block), total))
        done += len(block)
        advance(done, total)
