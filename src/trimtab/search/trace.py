"""A trace of searches: each step's candidates, their values and which were kept, as JSON lines.

A line is one step of one prompt. A prompt that was decoded again is in the file again, and its last search counts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.errors import DataError
from trimtab.records import Prompt
from trimtab.search.hypothesis import Beam, Step
from trimtab.store.files import append_text


class Trace:
    """Appends the steps of searches to a file; `valued` where their hypotheses have values."""

    def __init__(self, path: Path, *, valued: bool) -> None:
        self.path = path
        self.valued = valued
        self._before: list[list[Beam]] = []

    def observe(self, prompts: Sequence[Prompt], step: Step) -> None:
        """Append one line for each prompt.

        Raises:
            RunError: the file cannot be written.
        """
        lines = []
        before = self._before if step.number else [[] for _ in prompts]
        for prompt, candidates, kept, previous in zip(prompts, step.candidates, step.kept, before, strict=True):
            kept_as, held_as = ({id(beam): index for index, beam in enumerate(beams)} for beams in (kept, previous))
            entries = [
                {
                    "text": beam.hypothesis.text,
                    "value": beam.hypothesis.value if self.valued else None,
                    "finish": beam.hypothesis.finish,
                    "parent": held_as.get(id(beam), beam.parent),
                    "kept": kept_as.get(id(beam)),
                    "held": id(beam) in held_as,
                }
                for beam in candidates
            ]
            entry = {"prompt_id": prompt.id, "prompt": prompt.text, "step": step.number, "candidates": entries}
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        self._before = step.kept
        append_text(self.path, "".join(lines))


@dataclass
class Node:
    """The text that one candidate added to its parent. `kept`: it was continued, or returned at the end."""

    text: str
    value: float | None = None
    finish: str | None = None
    kept: bool = True
    children: list["Node"] = field(default_factory=list)


def read_traces(path: Path) -> dict[str, Node]:
    """The search of each prompt as a tree, by the prompt's id; a step that was cut while it was written is left out.

    Raises:
        DataError: there is no such file, or it is no trace; the message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # texts may hold other line breaks
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no trace that can be read: {error}") from None
    searches: dict[str, list[Mapping[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)
            steps = searches.setdefault(step["prompt_id"], [])
            if step["step"] == 0:
                steps.clear()
            steps.append(step)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise DataError(f"{path}, line {number}: no step of a trace; write it anew with --trace") from None
    try:
        return {prompt_id: _tree(steps) for prompt_id, steps in searches.items() if steps}
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path} holds steps that do not follow from each other ({error}): write it anew") from None


def _tree(steps: Sequence[Mapping[str, Any]]) -> Node:
    prompt = steps[0]["prompt"]
    root = Node(prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt))
    before: dict[int, tuple[str, Node]] = {0: ("", root)}
    for step in steps:
        now: dict[int, tuple[str, Node]] = {}
        for candidate in step["candidates"]:
            text, node = before[candidate["parent"]]  # a candidate that is held has itself as parent
            if candidate["held"] and text != candidate["text"]:
                raise ValueError(f"{text!r} is held as {candidate['text']!r}")
            if not candidate["held"]:
                parent, added = node, candidate["text"].removeprefix(text)
                node = Node(added, candidate["value"], candidate["finish"])
                parent.children.append(node)
            node.kept = candidate["kept"] is not None
            if node.kept:
                now[candidate["kept"]] = (candidate["text"], node)
        before = now
    return root
