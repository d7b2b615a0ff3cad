"""A trace of searches: each step's candidates, their values and which were kept, as JSON lines.

A line is one step of one prompt. A prompt that was decoded again is in the file again, and its last search counts.
Knows nothing of models or artifacts.

    >>> trace = Trace(Path("cbs-4-4-5.jsonl"), valued=True)                             # doctest: +SKIP
    >>> search.run(prompts, proposer, value, partial(trace.observe, prompts))           # doctest: +SKIP
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, RunError
from trimtab.records import Prompt
from trimtab.search.hypothesis import Beam, Step


class Trace:
    """Writes what a search tells it at the end of a file; `valued` where its hypotheses have values."""

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
        for prompt, candidates, kept, old in zip(prompts, step.candidates, step.kept, before, strict=True):
            held = {id(beam) for beam in old}
            place_of = {id(beam): place for place, beam in enumerate(kept)}
            entries = [
                {
                    "text": beam.hypothesis.text,
                    "value": beam.hypothesis.value if self.valued else None,
                    "finish": beam.hypothesis.finish,
                    "parent": beam.parent,
                    "kept": place_of.get(id(beam)),
                    "held": id(beam) in held,
                }
                for beam in candidates
            ]
            entry = {"prompt_id": prompt.id, "prompt": prompt.text, "step": step.number, "candidates": entries}
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        self._before = step.kept
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from None


@dataclass
class Node:
    """What one candidate added to its parent. `kept` says whether it went on, or was returned at the end."""

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
    root = Node(prompt if isinstance(prompt, str) else "\n".join(each["content"] for each in prompt))
    before: dict[int, tuple[str, Node]] = {0: ("", root)}
    for step in steps:
        now: dict[int, tuple[str, Node]] = {}
        standing = [(text, node) for text, node in before.values() if node.finish is not None]
        for each in step["candidates"]:
            if each["held"]:
                place = [text for text, _ in standing].index(each["text"])
                _, node = standing.pop(place)
                node.kept = each["kept"] is not None
            else:
                text, parent = before[each["parent"]]
                node = Node(each["text"].removeprefix(text), each["value"], each["finish"], each["kept"] is not None)
                parent.children.append(node)
            if each["kept"] is not None:
                now[each["kept"]] = (each["text"], node)
        before = now
    return root
