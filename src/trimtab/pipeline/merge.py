"""Merges the shards of a run, also those of several run directories, into what the run without shards makes.

Each shard leaves a note beside its blocks: which shard it is, of how many blocks, and what the artifact is made from.
So `merge` needs no experiment file to check that every shard exists, none twice, and all of one configuration.
"""

import dataclasses
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
from trimtab.store.files import append_text, is_sealed, sync, write_json
from trimtab.store.lock import run_lock, suffix

TIMES = {"seconds.json", "decode_seconds.json", "files.json"}
"""Files of an artifact that hold times, or the lengths of files that do."""
NOTES = "shard-*-of-*.json"
_ARTIFACT = re.compile(r"[a-z]+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Part:
    """One shard of an artifact in one run directory. `label` is the step's name, `plan` that of all shards together."""

    directory: Path
    artifact: Artifact
    label: str
    shard: Shard
    plan: Plan

    @property
    def blocks(self) -> list[int]:
        """The numbers of the shard's blocks."""
        return [number for number in range(self.plan.blocks) if self.shard.owns(number)]


def note_shard(artifact: Artifact, label: str, shard: Shard, plan: Plan) -> None:
    """Leave beside a shard's blocks what `merge_shards` must know of them."""
    note = {"label": label, "shard": str(shard), "plan": asdict(plan), "made_from": artifact.made_from}
    write_json(artifact.work / f"shard{suffix(shard)}.json", note)


def plan_of_shards(artifact: Artifact) -> Plan | None:
    """How shards of an artifact that were decoded in this run directory cut its prompts; None where there are none.

    Raises:
        RunError: they were cut in unlike ways, as by sessions that began at the same time with other settings; or a
            note cannot be read.
    """
    parts = [_read_part(note) for note in sorted(artifact.work.glob(NOTES))]
    if any(part.plan != parts[0].plan for part in parts):
        cuts = ", ".join(f"{part.plan.prompts_a_block} in shard{suffix(part.shard)}.json" for part in parts)
        raise RunError(
            f"the shards of {parts[0].label} cut their prompts into blocks of unlike sizes ({cuts}): delete "
            f"{artifact.work} and decode it anew, all with the same number of rows"
        )
    return parts[0].plan if parts else None


def merge_shards(directories: Sequence[Path], into: Path | None = None) -> list[str]:
    """Merge the shards in `directories` to artifacts in `into`; gives a line about each artifact.

    With a single directory, `into` may be left out. All other artifacts of the directories are copied along.

    Raises:
        ConfigurationError: there are several directories and no `into`.
        RunError: shards are missing, unfinished, there twice or of different configurations; the message lists all.
    """
    if not directories or (into is None and len(directories) > 1):
        raise ConfigurationError("give the run directories that hold shards, and --into DIR where they are several")
    missing = [str(directory) for directory in directories if not directory.is_dir()]
    if missing:
        raise RunError(f"{', '.join(missing)}: no run directory; give directories in which --shard has decoded")
    groups: dict[str, list[Part]] = {}
    for directory in dict.fromkeys(directories):
        for part in _read_parts(directory):
            groups.setdefault(part.artifact.folder.name, []).append(part)
    if not groups:
        raise RunError(f"{', '.join(map(str, directories))}: no shards here; give directories where --shard decoded")
    parts = [part for group in groups.values() for part in group]
    faults = [
        *_differing_artifacts(directories),
        *(fault for group in groups.values() for fault in _faults(group, parts)),
    ]
    if faults:
        raise RunError("; ".join(dict.fromkeys(faults)))
    target = RunDirectory(into or directories[0])
    with run_lock(target.path):
        for directory in directories:
            _copy_results(directory, target.path)
        return [_merge(group, target) for group in groups.values()]


def _read_parts(directory: Path) -> Iterator[Part]:
    """The shards in a run directory that have not been merged.

    Raises:
        RunError: a note cannot be read.
    """
    yield from map(_read_part, sorted(directory.glob(f"*.work/{NOTES}")))


def _read_part(note: Path) -> Part:
    """The shard that has left a note."""
    folder = note.parent.with_suffix("")
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
        stage, _, digest = folder.name.rpartition("-")
        artifact = Artifact(stage, digest, folder, values["made_from"])
        return Part(folder.parent, artifact, values["label"], Shard.parse(values["shard"]), Plan(**values["plan"]))
    except (OSError, ValueError, TypeError, KeyError):
        raise RunError(f"{note} cannot be read: decode this shard again, once you have deleted it") from None


def _faults(group: Sequence[Part], parts: Sequence[Part]) -> Iterator[str]:
    """Why the shards of one artifact cannot be merged; `parts` are those of all artifacts."""
    first = group[0]
    label, count = first.label, first.shard.count
    for part in group:
        if part.shard.count != count:
            yield (
                f"{label} is cut into {count} shards in {first.directory} and into {part.shard.count} in "
                f"{part.directory}: decode it anew in one way"
            )
            return
        if part.plan != first.plan:
            yield (
                f"{label} is cut into blocks of {first.plan.prompts_a_block} of {first.plan.prompts} prompts in "
                f"{first.directory} and of {part.plan.prompts_a_block} of {part.plan.prompts} in {part.directory}: "
                "decode it anew in one way, with the same number of rows"
            )
            return
        missing = [number for number in part.blocks if not finished(part.artifact.work, part.plan, number)]
        if missing:
            yield (
                f"shard {part.shard} of {label} in {part.directory} lacks {len(missing)} of {len(part.blocks)} blocks: "
                "the same command with --shard goes on with it"
            )
    for index in range(1, count + 1):
        directories = [str(part.directory) for part in group if part.shard.index == index]
        if len(directories) > 1:
            yield f"shard {index}/{count} of {label} is in {' and in '.join(directories)}: leave one of them out"
        if not directories:
            yield _absence(index, first, parts)


def _absence(index: int, part: Part, parts: Sequence[Part]) -> str:
    """Why a shard is missing: it was made in another configuration, or not at all."""
    for other in parts:
        if other.label == part.label and other.shard.index == index and other.artifact.digest != part.artifact.digest:
            where = difference(part.artifact.made_from, other.artifact.made_from)
            return f"{part.label} is not of one configuration in {part.directory} and in {other.directory}: {where}"
    return f"shard {index}/{part.shard.count} of {part.label} is missing: decode it, or give its run directory too"


def difference(left: Any, right: Any, path: str = "") -> str:
    """The first value in which two JSON objects differ, as `configuration.decoder.chunk is 5 and 10`.

    >>> difference({"decoder": {"chunk": 5}}, {"decoder": {"chunk": 10}})
    'decoder.chunk is 5 and 10'
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for name in dict.fromkeys([*left, *right]):
            if left.get(name) != right.get(name):
                return difference(left.get(name), right.get(name), f"{path}.{name}".removeprefix("."))
    return f"{path} is {json.dumps(left)} and {json.dumps(right)}"


def _differing_artifacts(directories: Sequence[Path]) -> Iterator[str]:
    """Artifacts of one name that differ in the directories, such as a guide that was tuned in each of them."""
    first: dict[str, Path] = {}
    for directory in directories:
        for folder in _artifacts(directory):
            other = first.setdefault(folder.name, folder)
            if (name := _differing_file(other, folder)) is not None:
                yield (
                    f"{other} and {folder} differ in {name}: make it once, and copy the run directory before the "
                    "shards are decoded"
                )


def _differing_file(left: Path, right: Path) -> str | None:
    """The first file that two folders do not both have with the same content, files of times apart."""
    files = {path.relative_to(folder) for folder in (left, right) for path in folder.rglob("*") if path.is_file()}
    names = sorted(file.as_posix() for file in files if file.name not in TIMES)
    _, mismatched, absent = filecmp.cmpfiles(left, right, names, shallow=False)
    return min([*mismatched, *absent], default=None)


def _artifacts(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if _ARTIFACT.fullmatch(path.name) and is_sealed(path)]


def _copy_results(directory: Path, target: Path) -> None:
    """Copy artifacts and traces to the target; where this is killed, no half artifact is left."""
    if directory.resolve() == target.resolve():
        return
    for folder in _artifacts(directory):
        if not is_sealed(target / folder.name):
            partial = target / f"{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target / folder.name, ignore_errors=True)
            shutil.copytree(folder, partial)
            for path in partial.rglob("*"):
                sync(path)
            partial.rename(target / folder.name)
    for trace in sorted(directory.glob("traces/*.jsonl")):
        append_text(target / "traces" / trace.name, trace.read_text(encoding="utf-8"))


def _merge(group: Sequence[Part], target: RunDirectory) -> str:
    """Make the artifact of its shards in the target; gives a line about it."""
    plan, source = group[0].plan, group[0].artifact
    artifact = dataclasses.replace(source, folder=target.path / source.folder.name)
    if not artifact.whole:
        artifact.work.mkdir(exist_ok=True)
        for part in group:
            work = part.artifact.work
            if work.resolve() != artifact.work.resolve():
                blocks = [block_file(work, number) for number in part.blocks]
                for file in [*blocks, *work.glob(f"seconds{suffix(part.shard)}.json")]:
                    shutil.copyfile(file, artifact.work / file.name)
        ensure_plan(artifact.work, plan.prompts, plan.prompts_a_block)
        with target.writing(artifact) as folder:
            merge_blocks(artifact.work, folder)
    return f"{group[0].label}: {len(group)} shards, {plan.blocks} blocks, in {artifact.folder}"
