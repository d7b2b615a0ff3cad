"""Prompts are decoded in blocks: the unit of resuming, and of sharing a step among processes and machines.

The configuration alone determines how the prompts are cut into blocks, and a block is always decoded as a whole. So a
run that is killed and resumed, or shared among processes, gives the same bytes. A finished block is one file, written
atomically. The plan (how the prompts are cut) is recorded beside the blocks by the first session. A block says where it
was cut, so that one of another plan is never taken for it.

    >>> [block for block in range(7) if Shard.parse("2/3").owns(block)]
    [1, 4]
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from trimtab.errors import ConfigurationError
from trimtab.records import Generation, Prompt, lines_of
from trimtab.store.files import write_json, write_text

PLAN = "plan.json"


class Within(Protocol):
    """Called with the share of a block that is done, from 0 to 1."""

    def __call__(self, share: float, /) -> None: ...


class Decode(Protocol):
    """Decodes one block of prompts. It calls `within` while it works, at each token where it sees tokens."""

    def __call__(self, prompts: Sequence[Prompt], *, within: Within = ...) -> "Block": ...


def ignored(share: float) -> None:
    """A `Within` that nobody watches."""


@dataclass(frozen=True)
class Block:
    """The records of one block of prompts and their cost.

    `flops`: forward FLOPs of each model. `seconds`: wall time, in no hash. `usage`: what an endpoint has counted, such
    as requests and tokens.
    """

    records: list[Generation]
    flops: dict[str, float]
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How prompts are cut: `blocks` of `prompts_a_block` each, of which the last may be smaller.

    Once all are decoded, `devices` names the devices that did it, each with its blocks.
    """

    prompts: int
    prompts_a_block: int
    blocks: int
    devices: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, prompts: int, size: int) -> "Plan":
        return cls(prompts, size, -(-prompts // size))

    def size_of(self, block: int) -> int:
        """How many prompts a block has."""
        return min(self.prompts_a_block, self.prompts - block * self.prompts_a_block)

    def range_of(self, block: int) -> list[int]:
        """The number of a block's first prompt, and of the first one behind it."""
        start = block * self.prompts_a_block
        return [start, start + self.size_of(block)]


@dataclass(frozen=True)
class Shard:
    """Every `count`-th block, starting with block `index` - 1: `index` is counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard written as `I/N`.

        Raises:
            ConfigurationError: the text is no such shard.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigurationError(f"{text!r} is no shard: write it as I/N with I from 1 to N, such as 2/4")
        return cls(int(index), int(count))

    def owns(self, block: int) -> bool:
        return block % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def block_size(rows: int, candidates: int) -> int:
    """Prompts in a block, at least one, for at most `rows` rows in a batch and `candidates` rows for each prompt."""
    return max(1, rows // candidates)


def recorded_plan(folder: Path) -> Plan | None:
    """The plan recorded in a folder of blocks, or in the artifact made of them."""
    try:
        return Plan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def ensure_plan(work: Path, prompts: int, size: int) -> Plan:
    """The plan recorded in `work`; if there is none, records one with blocks of `size` prompts."""
    plan = recorded_plan(work)
    if plan is None:
        plan = Plan.of(prompts, size)
        write_json(work / PLAN, asdict(plan))
    return plan


def joined(blocks: Sequence[Block]) -> Block:
    """One block of the records and costs of several, or of one."""
    if len(blocks) == 1:
        return blocks[0]
    records = [record for block in blocks for record in block.records]
    usage = {name: int(count) for name, count in _total(block.usage for block in blocks).items()}
    return Block(records, _total(block.flops for block in blocks), sum(block.seconds for block in blocks), usage)


def write_block(work: Path, plan: Plan, number: int, block: Block, device: str, beside: int = 1) -> None:
    """Write a decoded block of a plan to `work`. Where `beside` processes decode at the same time, it counts its share
    of the wall time.

    Raises:
        RunError: the disk is full.
    """
    cost = {
        "prompts": plan.range_of(number), "records": len(block.records), "flops": block.flops,
        "seconds": block.seconds / beside, "usage": block.usage, "device": device,
    }  # fmt: skip
    write_text(block_file(work, number), [*lines_of(block.records), json.dumps(cost) + "\n"])


def merge_blocks(work: Path, folder: Path) -> None:
    """Merge all blocks in `work` into `records.jsonl`, with their cost, seconds, plan and any endpoint's usage."""
    plan = recorded_plan(work)
    assert plan is not None, work
    parts = [part for number in range(plan.blocks) if (part := _read(work, plan, number)) is not None]
    assert len(parts) == plan.blocks, work
    costs = [cost for _, cost, _ in parts]
    for number, (_, _, device) in enumerate(parts):
        plan.devices.setdefault(device, []).append(number)
    write_text(folder / "records.jsonl", (line + "\n" for lines, _, _ in parts for line in lines))
    write_json(folder / "cost.json", _total(cost.flops for cost in costs))
    if usage := _total(cost.usage for cost in costs):
        write_json(folder / "usage.json", usage)
    write_json(folder / "decode_seconds.json", sum(cost.seconds for cost in costs))
    write_json(folder / PLAN, asdict(plan))


def finished(work: Path, plan: Plan, number: int) -> bool:
    """Whether the block of this plan was decoded and its file is intact."""
    return _read(work, plan, number) is not None


def block_file(work: Path, number: int) -> Path:
    return work / f"{number:05d}.jsonl"


def _read(work: Path, plan: Plan, number: int) -> tuple[list[str], Block, str] | None:
    """The lines of a finished block's records, a `Block` that holds their cost alone, and the device that decoded it.

    None if there is no such block, or its file is truncated or of another plan: its last line must give the cost, count
    the others, and name the block's prompts.
    """
    try:
        text = block_file(work, number).read_text(encoding="utf-8")
        *lines, last, end = text.split("\n")  # not splitlines: texts may hold other line breaks
        values = json.loads(last)
    except (FileNotFoundError, ValueError):
        return None
    if end or not isinstance(values, dict) or values.get("records") != len(lines):
        return None
    if values.get("prompts") != plan.range_of(number):
        return None
    return lines, Block([], values["flops"], values["seconds"], values.get("usage", {})), values.get("device", "")


def _total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of the values of each name."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0) + value
    return sums
