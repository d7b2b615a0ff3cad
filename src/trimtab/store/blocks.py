"""Prompts decoded in blocks: the unit of resume and of sharing a stage out among processes and machines.

The list of prompts is cut by configuration alone and a block is always decoded as a whole, so whatever was killed,
resumed or shared out ends in the same bytes. A finished block is one file, written whole; a file that is cut counts
as none. How the prompts are cut is recorded beside the blocks when the first session begins, and kept with what they
make. Knows nothing of models.

    >>> Shard.parse("2/3").owns(4)
    True
    >>> [block for block in range(7) if Shard(2, 3).owns(block)]
    [1, 4]
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from trimtab.errors import ConfigurationError
from trimtab.records import Generation, Prompt, lines_of
from trimtab.store.files import write_json, write_text

PLAN = "plan.json"
Decode = Callable[[Sequence[Prompt]], "Block"]


@dataclass(frozen=True)
class Block:
    """What one block of prompts gave: its records, and what they cost.

    `flops` names each model's forward FLOPs; `seconds` is wall time and takes no part in any hash. `usage` is what an
    endpoint has counted: requests and tokens.
    """

    records: list[Generation]
    flops: dict[str, float]
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """So many `prompts` in so many `blocks`, each but the last of `prompts_a_block`."""

    prompts: int
    prompts_a_block: int
    blocks: int

    @classmethod
    def of(cls, prompts: int, size: int) -> "Plan":
        """So many prompts in blocks of `size`."""
        return cls(prompts, size, -(-prompts // size))


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`, counted from 1: every `count`-th block."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that `I/N` names.

        Raises:
            ConfigurationError: it names none.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigurationError(f"shard {text!r} names no share: write it as I/N with I from 1 to N, such as 2/4")
        return cls(int(index), int(count))

    def owns(self, block: int) -> bool:
        return block % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def block_size(rows: int, candidates: int) -> int:
    """How many prompts of `candidates` rows each are decoded together where `rows` are allowed: at least one."""
    return max(1, rows // candidates)


def planned(work: Path, prompts: int, size: int) -> Plan:
    """How `prompts` are cut: as recorded in `work`, or in blocks of `size`, which is recorded there now."""
    plan = recorded_plan(work)
    if plan is None:
        plan = Plan.of(prompts, size)
        write_json(work / PLAN, asdict(plan))
    return plan


def recorded_plan(folder: Path) -> Plan | None:
    """The plan that lies in `folder`, of open blocks or of what they have made."""
    try:
        return Plan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def planned_groups(work: Path, prompts: Sequence[Prompt], size: int) -> dict[int, Sequence[Prompt]]:
    """The prompts of each block, by its number: cut as recorded in `work`, else in blocks of `size`, and recorded."""
    return cut(prompts, planned(work, len(prompts), size).prompts_a_block)


def cut(prompts: Sequence[Prompt], size: int) -> dict[int, Sequence[Prompt]]:
    """The prompts of each block, by its number."""
    return {number: prompts[start : start + size] for number, start in enumerate(range(0, len(prompts), size))}


def decode_groups(
    work: Path, groups: Mapping[int, Sequence[Prompt]], decode: Decode, advance: Callable[[int, int], None]
) -> None:
    """Decode these blocks into `work`; finished ones are kept.

    `advance(done, all)` counts prompts, first those of the blocks that were finished before.
    """
    total = sum(map(len, groups.values()))
    open_blocks = [number for number in groups if not finished(work, number)]
    done = total - sum(len(groups[number]) for number in open_blocks)
    advance(done, total)
    for number in open_blocks:
        block = decode(groups[number])
        last = {"records": len(block.records), "flops": block.flops, "seconds": block.seconds, "usage": block.usage}
        write_text(block_file(work, number), [*lines_of(block.records), json.dumps(last) + "\n"])
        done += len(groups[number])
        advance(done, total)


def sharing_time(decode: Decode, beside: int) -> Decode:
    """The same, where `beside` processes decode at a time: each block counts its share of the time that passes."""

    def decode_beside(prompts: Sequence[Prompt]) -> Block:
        block = decode(prompts)
        return replace(block, seconds=block.seconds / beside)

    return decode_beside


def merge_blocks(work: Path, folder: Path) -> None:
    """Put all blocks together: `records.jsonl`, `cost.json` (FLOPs by model), seconds, their plan, and `usage.json`
    where an endpoint counted."""
    plan = recorded_plan(work)
    assert plan is not None, work
    numbers = range(plan.blocks)
    write_text(folder / "records.jsonl", (line + "\n" for number in numbers for line in _lines(work, number)[:-1]))
    blocks = [costs for number in numbers if (costs := _costs(work, number)) is not None]
    assert len(blocks) == plan.blocks, work
    write_json(folder / "cost.json", _total(block.flops for block in blocks))
    if usage := _total(block.usage for block in blocks):
        write_json(folder / "usage.json", usage)
    write_json(folder / "decode_seconds.json", sum(block.seconds for block in blocks))
    write_json(folder / PLAN, asdict(plan))


def _total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums by name."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def finished(work: Path, number: int) -> bool:
    """Whether this block lies in `work`, whole."""
    return _costs(work, number) is not None


def block_file(work: Path, number: int) -> Path:
    """Where a finished block lies."""
    return work / f"{number:05d}.jsonl"


def _lines(work: Path, number: int) -> list[str]:
    """The lines of a block's file, the last of which is its costs; a ValueError where the file does not end in one."""
    *lines, end = block_file(work, number).read_text(encoding="utf-8").split("\n")  # a text may hold other line breaks
    if end or not lines:
        raise ValueError(f"block {number} is cut")
    return lines


def _costs(work: Path, number: int) -> Block | None:
    """The last line of a finished block, without its records; None where there is no block, or one that was cut."""
    try:
        *records, last = _lines(work, number)
        values = json.loads(last)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(values, dict) or values.get("records") != len(records):
        return None
    return Block([], values["flops"], values["seconds"], values.get("usage", {}))
