"""Where the traces of a run's searches lie, and which searches have none."""

from pathlib import Path

from trimtab.config.guide import DecoderConfig
from trimtab.evaluation.coverage import too_long
from trimtab.pipeline.step import Step
from trimtab.records import Generation
from trimtab.search.trace import Node, Trace, read_traces
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import recorded_plan


def trace_file(run: Path, decoder: str, digest: str) -> Path:
    """Where a decoder's trace lies: beside the artifact of this digest, and not in it."""
    return run / "traces" / f"{decoder}-{digest}.jsonl"


def traced(file: Path) -> dict[str, Node]:
    """The search of each prompt in a trace, by its id; nothing where there is no trace."""
    return read_traces(file) if file.is_file() else {}


def blocks_without_trace(step: Step, artifact: Artifact, file: Path) -> list[int]:
    """The blocks of a finished step that hold a prompt whose search is not in the trace.

    Prompts that are too long are not searched.
    """
    plan = recorded_plan(artifact.folder)
    assert plan is not None, artifact.folder
    generations = artifact.records(Generation)
    excluded, have = too_long({step.name: generations}), traced(file).keys()
    ids = list(dict.fromkeys(generation.prompt_id for generation in generations))
    missing = (place for place, prompt in enumerate(ids) if prompt not in excluded and prompt not in have)
    return sorted({place // plan.prompts_a_block for place in missing})


def is_searched(step: Step) -> bool:
    """Whether a step's searches leave a trace: those of the test prompts do."""
    return step.folder == "guide" and isinstance(step.parts.get("decoder"), DecoderConfig)


def trace_of(step: Step, file: Path) -> Trace:
    """A trace of a step's searches that is written to `file`."""
    return Trace(file, valued=step.parts["decoder"].guided)
