"""Puts the shards of a run together, also where they were made in run directories of their own.

Each shard leaves a note beside its blocks: which share it is, of how many blocks, and what they are made from. So
without an experiment file it can be told that all shards are there, none twice, and of one configuration. What comes
out is what the run without shards would have made. Knows nothing of what the blocks hold.

    >>> merge_shards([Path("a/demo"), Path("b/demo")], Path("all/demo"))                # doctest: +SKIP
    ['guide base: 2 shards, 6 blocks, in all/demo/guide-0a1b2c3d4e5f']
"""

import filecmp
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigurationError, RunError
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Plan, Shard, block_file, ensure_plan, finished, merge_blocks
from trimtab.store.files import is_sealed, sync, write_json
from trimtab.store.lock import run_lock, suffix

TIMES = {"seconds.json", "decode_seconds.json", "files.json"}
"""Files of an artifact that hold times, or the lengths of files that do."""
_ARTIFACT = re.compile(r"[a-z]+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Part:
    """One shard of an artifact in one run directory; `plan` is that of all shards together."""

    directory: Path
    artifact: Artifact
    label: str
    shard: Shard
    plan: Plan

    @property
    def own(self) -> list[int]:
        """The numbers of the shard's blocks."""
        return [number for number in range(self.plan.blocks) if self.shard.owns(number)]


def note_shard(artifact: Artifact, label: str, shard: Shard, plan: Plan) -> None:
    """Leave beside a shard's blocks what `merge_shards` must know of them."""
    note = {"label": label, "shard": str(shard), "plan": asdict(plan), "made_from": artifact.made_from}
    write_json(artifact.work / f"shard{suffix(shard)}.json", note)


def merge_shards(directories: Sequence[Path], into: Path | None = None) -> list[str]:
    """Make of the shards in `directories` the artifacts that they are shards of, in `into`, and say which.

    A single directory may be put together in itself. Whatever else has been made in the directories comes along.

    Raises:
        ConfigurationError: it is not said where to.
        RunError: shards are missing, not finished, there twice or of unlike configurations; the message lists all.
    """
    if not directories or (into is None and len(directories) > 1):
        raise ConfigurationError("give the run directories that hold shards, and --into DIR where they are several")
    lacking = [str(each) for each in directories if not each.is_dir()]
    if lacking:
        raise RunError(f"{', '.join(lacking)}: no run directory; give directories in which --shard has decoded")
    parts = [part for directory in dict.fromkeys(directories) for part in read_parts(directory)]
    if not parts:
        raise RunError(f"{', '.join(map(str, directories))}: no shards here; give directories where --shard decoded")
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.artifact.folder.name, []).append(part)
    faults = [*_unlike_artifacts(directories), *(fault for group in groups.values() for fault in _faults(group, parts))]
    if faults:
        raise RunError("; ".join(dict.fromkeys(faults)))
    target = RunDirectory(into or directories[0])
    with run_lock(target.path):
        for directory in directories:
            _bring(directory, target.path)
        return [_join(group, target) for group in groups.values()]


def read_parts(directory: Path) -> Iterator[Part]:
    """The shards that have decoded in a run directory and have not been put together.

    Raises:
        RunError: a note cannot be read.
    """
    for note in sorted(directory.glob("*.work/shard-*-of-*.json")):
        folder = note.parent.with_suffix("")
        try:
            values = json.loads(note.read_text(encoding="utf-8"))
            stage, _, digest = folder.name.rpartition("-")
            artifact = Artifact(stage, digest, folder, values["made_from"])
            yield Part(directory, artifact, values["label"], Shard.parse(values["shard"]), Plan(**values["plan"]))
        except (OSError, ValueError, TypeError, KeyError):
            raise RunError(f"{note} cannot be read: decode this shard again") from None


def _faults(group: Sequence[Part], every: Sequence[Part]) -> Iterator[str]:
    """What keeps the shards of one artifact from being put together."""
    label, count = group[0].label, group[0].shard.count
    for part in group:
        if part.shard.count != count or part.plan != group[0].plan:
            yield (
                f"{label} is cut into {count} shards in {group[0].directory} and into {part.shard.count} in "
                f"{part.directory}: decode it anew in one way"
            )
            return
        missing = [number for number in part.own if not finished(part.artifact.work, number)]
        if missing:
            yield (
                f"shard {part.shard} of {label} in {part.directory} lacks {len(missing)} of {len(part.own)} blocks: "
                "the same command with --shard goes on with it"
            )
    for index in range(1, count + 1):
        places = [str(part.directory) for part in group if part.shard.index == index]
        if len(places) > 1:
            yield f"shard {index}/{count} of {label} is in {' and in '.join(places)}: leave one of them out"
        if not places:
            yield _absence(index, group[0], every)


def _absence(index: int, part: Part, every: Sequence[Part]) -> str:
    """Why a shard is missing: it was made in another configuration, or not at all."""
    what = f"shard {index}/{part.shard.count} of {part.label}"
    for other in every:
        if other.label == part.label and other.shard.index == index and other.artifact.digest != part.artifact.digest:
            where = difference(part.artifact.made_from, other.artifact.made_from)
            return f"{part.label} is not of one configuration in {part.directory} and in {other.directory}: {where}"
    return f"{what} is missing: decode it, or give its run directory too"


def difference(left: Any, right: Any, place: str = "") -> str:
    """The first value in which two JSON objects differ, as `configuration.decoder.chunk is 5 and 10`."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for name in dict.fromkeys([*left, *right]):
            if left.get(name) != right.get(name):
                return difference(left.get(name), right.get(name), f"{place}.{name}".removeprefix("."))
    return f"{place} is {json.dumps(left)} and {json.dumps(right)}"


def _unlike_artifacts(directories: Sequence[Path]) -> Iterator[str]:
    """What was made before the shards must be the same wherever it is there: a guide that was tuned twice is two."""
    first: dict[str, Path] = {}
    for directory in directories:
        for folder in _whole(directory):
            other = first.setdefault(folder.name, folder)
            if (name := _unlike_file(other, folder)) is not None:
                yield (
                    f"{other} and {folder} differ in {name}: make it once, and copy the run directory before the "
                    "shards are decoded"
                )


def _unlike_file(left: Path, right: Path) -> str | None:
    files = {
        file.relative_to(folder).as_posix() for folder in (left, right) for file in folder.rglob("*") if file.is_file()
    }
    for name in sorted(files):
        if Path(name).name in TIMES:
            continue
        both = (left / name).is_file() and (right / name).is_file()
        if not both or not filecmp.cmp(left / name, right / name, shallow=False):
            return name
    return None


def _whole(directory: Path) -> list[Path]:
    return [each for each in sorted(directory.iterdir()) if _ARTIFACT.fullmatch(each.name) and is_sealed(each)]


def _bring(directory: Path, target: Path) -> None:
    """Copy what has been made, and traces, to the target; a kill in between leaves no half artifact."""
    if directory.resolve() == target.resolve():
        return
    for folder in _whole(directory):
        if not is_sealed(target / folder.name):
            partial = target / f"{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target / folder.name, ignore_errors=True)
            shutil.copytree(folder, partial)
            for path in partial.rglob("*"):
                sync(path)
            partial.rename(target / folder.name)
    for trace in sorted(directory.glob("traces/*.jsonl")):
        (target / "traces").mkdir(exist_ok=True)
        with (target / "traces" / trace.name).open("a", encoding="utf-8") as file:
            file.write(trace.read_text(encoding="utf-8"))


def _join(group: Sequence[Part], target: RunDirectory) -> str:
    """Make the artifact of all its blocks, and say so."""
    first = group[0]
    artifact = Artifact(first.artifact.stage, first.artifact.digest, target.path / first.artifact.folder.name,
                        first.artifact.made_from)  # fmt: skip
    said = f"{first.label}: {len(group)} shards, {first.plan.blocks} blocks, in {artifact.folder}"
    if artifact.whole:
        return said
    artifact.work.mkdir(exist_ok=True)
    for part in group:
        names = [*(block_file(part.artifact.work, number) for number in part.own),
                 *part.artifact.work.glob(f"seconds{suffix(part.shard)}.json")]  # fmt: skip
        for file in names:
            if file.parent.resolve() != artifact.work.resolve():
                shutil.copyfile(file, artifact.work / file.name)
    ensure_plan(artifact.work, first.plan.prompts, first.plan.prompts_a_block)
    with target.writing(artifact) as folder:
        merge_blocks(artifact.work, folder)
    return said
