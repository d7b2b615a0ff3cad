"""From a name to local files: the path map or a local folder, then the model hub or its cache, then the catalogue.

Loads no model and reads no data set; it only says where they lie, and makes them lie there.

    folder = Assets().model("google/gemma-3-270m")
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from trimtab.assets.catalog import CATALOG, Entry, Kind, find
from trimtab.assets.digests import content_digest
from trimtab.assets.download import download, making, sha256_of
from trimtab.assets.hub import TOKENIZERS, from_hub
from trimtab.config.yaml_values import read_mapping, text_wanted
from trimtab.errors import AssetError, shown

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AssetRow:
    """One line of `trimtab assets`. `size` is the download in bytes; `place` is None where it has not been fetched."""

    name: str
    kind: Kind
    what: str
    licence: str
    size: int
    place: Path | None


class Assets:
    """Where models and data sets lie.

    `cache` defaults to the environment's TRIMTAB_CACHE, or `trimtab` in the user's cache directory. `path_map` is a
    YAML file of names and folders; it defaults to TRIMTAB_PATH_MAP, or `paths.yaml` in the cache if there is one.
    """

    def __init__(self, cache: Path | None = None, path_map: Path | None = None) -> None:
        named = os.environ.get("TRIMTAB_CACHE")
        self.cache = cache or (Path(named).expanduser() if named else platformdirs.user_cache_path("trimtab"))
        mapped = os.environ.get("TRIMTAB_PATH_MAP")
        chosen = path_map or (Path(mapped).expanduser() if mapped else None)
        if chosen is None and (self.cache / "paths.yaml").is_file():
            chosen = self.cache / "paths.yaml"
        self.path_map = chosen
        self._said: set[str] = set()
        self._paths = {} if chosen is None else read_path_map(chosen)

    def model(self, name: str, *, allow_pickle: bool = False) -> Path:
        """A folder that `from_pretrained` reads; GGUF weights are converted once, into the cache.

        Raises:
            AssetError: the name resolves to nothing, or to weights that are pickled, against `allow_pickle`.
        """
        place = self._place(name, "model", allow_pickle=allow_pickle)
        return self._readable(place, allow_pickle=allow_pickle)

    def dataset(self, name: str) -> Path:
        """The file or folder of a data set.

        Raises:
            AssetError: the name resolves to nothing.
        """
        return self._place(name, "dataset", allow_pickle=False)

    def tokenizer(self, name: str) -> Path:
        """The folder of a tokenizer, which may hold a model or not.

        Raises:
            AssetError: the name resolves to nothing, or to a folder without a tokenizer.
        """
        folder = self._place(name, "tokenizer", allow_pickle=False)
        if not any((folder / file).is_file() for file in TOKENIZERS):
            raise AssetError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)}): name a folder that has one")
        return folder

    def adapter(self, name: str) -> Path:
        """The folder of a PEFT adapter, with `adapter_config.json` and safetensors in it.

        Raises:
            AssetError: the name resolves to nothing, or to a folder that is no adapter.
        """
        folder = self._place(name, "model", allow_pickle=False)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise AssetError(f"{folder} is no PEFT adapter: {file} is missing; save it with save_pretrained")
        return folder

    def catalogued(self, name: str) -> Path:
        """The downloaded folder of an entry of the catalogue, whatever else may bear its name."""
        entry = CATALOG[name]
        return download(entry, self._download_folder(entry))

    def entry_of(self, place: Path) -> Entry | None:
        """The entry of the catalogue that `place` was downloaded for; None where it came from elsewhere."""
        return next((entry for entry in CATALOG.values() if place == self._download_folder(entry)), None)

    def identity(self, place: Path) -> str:
        """A hash of what the files of a model or data set hold, wherever they lie: see `digests`.

        Raises:
            AssetError: a file cannot be read.
        """
        return content_digest(place, self.cache / "digests")

    def describe(self) -> list[AssetRow]:
        """What the catalogue knows and where it lies; downloads nothing."""
        return [
            AssetRow(entry.name, entry.kind, entry.what, entry.licence, entry.size, self._present(entry))
            for entry in CATALOG.values()
        ]

    def _place(self, name: str, kind: Kind, *, allow_pickle: bool) -> Path:
        self._say_what_is_taken(name)
        if name in self._paths:
            mapped = self._paths[name]
            if not mapped.exists():
                raise AssetError(f"the path map gives {mapped} for {name}, which does not exist: mend the path map")
            return _snapshot(mapped)
        local = Path(name).expanduser()
        if local.exists():
            return _snapshot(local)
        found, reason = from_hub(name, kind, allow_pickle=allow_pickle)
        if found is not None:
            return found
        entry = find(name)
        if entry is not None and entry.kind == kind:
            return self.catalogued(entry.name)
        known = ", ".join(other.name for other in CATALOG.values() if other.kind == kind)
        raise AssetError(
            f"{kind} {name!r} is no local path, not in the path map, not to be had from the model hub ({reason}) and "
            f"not in the catalogue ({known}): give a folder, or map the name to one"
        )

    def _say_what_is_taken(self, name: str) -> None:
        """Where a local path bears the name of something else, say once which of the two is meant."""
        if name in self._said or not Path(name).exists():
            return
        self._said.add(name)
        if name in self._paths:
            _log.warning("%s: the path map's %s is taken, not the local path of that name", name, self._paths[name])
        elif find(name) is not None:
            _log.warning("%s: the local path is taken, not what `trimtab assets` lists; rename it to have that", name)

    def _readable(self, place: Path, *, allow_pickle: bool) -> Path:
        if place.suffix == ".gguf":
            return self._converted(place)
        if not place.is_dir():
            raise AssetError(f"{place} is not a folder: give the folder that holds config.json and the weights")
        if any(place.glob("*.safetensors")):
            return place
        ggufs = sorted(place.glob("*.gguf"))
        if len(ggufs) == 1:
            return self._converted(ggufs[0])
        if ggufs:
            raise AssetError(f"{place} holds {len(ggufs)} GGUF files: name one of them, such as {ggufs[0]}")
        if any(place.glob("*.bin")):
            if allow_pickle:
                return place
            raise AssetError(
                f"{place} has only pickled weights (*.bin), which can run code when read: convert them to safetensors, "
                f"or set allow_pickle: true if you trust their origin"
            )
        raise AssetError(f"{place} holds no weights: a model folder needs *.safetensors or one *.gguf")

    def _converted(self, gguf: Path) -> Path:
        known = self._known_sha256(gguf)
        # the catalogue's files are quantised; others may have been rounded to bfloat16 under the plain name, before
        target = self._converted_folder(known) if known else self._converted_folder(sha256_of(gguf), "-2")
        if target.is_dir():
            return target
        with making(target) as partial:
            if partial is not None:
                # Imported here: it takes seconds, and only the first use of a GGUF file needs it.
                from trimtab.assets.convert import convert_gguf

                _log.info("converting %s to safetensors, once", gguf.name)
                convert_gguf(gguf, partial)
        return target

    def _known_sha256(self, gguf: Path) -> str | None:
        """The sha256 of a file that this cache downloaded and checked, without reading it again."""
        entry = self.entry_of(gguf.parent)
        return None if entry is None else next(file.sha256 for file in entry.files if file.name == gguf.name)

    def _download_folder(self, entry: Entry) -> Path:
        return self.cache / "downloads" / f"{entry.name.replace('/', '--')}-{entry.digest}"

    def _converted_folder(self, sha256: str, version: str = "") -> Path:
        return self.cache / "converted" / f"{sha256[:16]}{version}"

    def _present(self, entry: Entry) -> Path | None:
        for name in (entry.name, *entry.aliases):
            if name in self._paths:
                return self._paths[name]
        for file in entry.files:
            if file.name.endswith(".gguf") and self._converted_folder(file.sha256).is_dir():
                return self._converted_folder(file.sha256)
        folder = self._download_folder(entry)
        return folder if folder.is_dir() else None


def _snapshot(path: Path) -> Path:
    """The files of a repository that lies as the hub's cache lays it out; any other path itself."""
    main = path / "refs" / "main"
    return path / "snapshots" / main.read_text().strip() if main.is_file() else path


def read_path_map(path: Path) -> dict[str, Path]:
    """Names and the folders they stand for, `~` expanded; relative folders are relative to the map's own.

    Raises:
        AssetError: the file cannot be read, or is not a mapping of names to paths.
    """
    values = read_mapping(path, "path map", remedy="mend TRIMTAB_PATH_MAP", example="name: folder", error=AssetError)
    for name, folder in values.items():
        if not isinstance(folder, str):
            raise AssetError(
                f"the path map {path} gives no folder for {name!r} but {shown(folder, 80)}: write `name: folder`; "
                f"{text_wanted(folder)}"
            )
    return {name: path.parent / Path(folder).expanduser() for name, folder in values.items()}
