"""A folder at a URL, of any file system that fsspec knows: requests that fail are repeated, then fail in one line.

>>> folder = UrlFolder("memory://runs/demo")
>>> folder.write_json("summary.json", {"pairs": 256})
>>> folder.read_json("summary.json"), folder.sizes()
({'pairs': 256}, {'summary.json': 14})
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.errors import ConfigurationError, RunError, one_line, suggestion

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PAUSES = (1.0, 4.0, 10.0)
"""Seconds before a request's second, third and fourth try."""
T = TypeVar("T")


class UrlFolder:
    """The files of a folder at a URL, by their names in it. While `patient`, requests that fail are repeated.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.patient = True
        self._files, self._root = _file_system(url)
        self._is_local = url.startswith(("file://", "local://"))
        self.url = f"file://{self._root}" if self._is_local else url.rstrip("/")  # a relative path is meant from here

    def sizes(self) -> dict[str, int]:
        """The size of each file, by its name; 0 where a server does not tell."""
        self._files.invalidate_cache()
        found = self._request(self._files.find, self._root, detail=True).items()
        named = ((path[len(self._root) :].lstrip("/"), int(info["size"] or 0)) for path, info in found)
        return {name: size for name, size in named if not name.endswith(".tmp")}

    def exists(self, name: str) -> bool:
        return self._request(self._files.exists, self._path(name))

    def download(self, name: str, file: Path) -> None:
        """Replace a local file; FileNotFoundError where there is none at the URL."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(file.name + ".tmp")
        self._request(self._files.get_file, self._path(name), str(temporary))
        temporary.replace(file)

    def upload(self, file: Path, name: str) -> None:
        """Replace a file at the URL."""
        self._replace(name, lambda path: self._files.put_file(str(file), path))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file; None where there is no such file or it holds none."""
        try:
            values = json.loads(self._request(self._files.cat_file, self._path(name)))
        except (FileNotFoundError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def write_json(self, name: str, values: Mapping[str, Any], *, create: bool = False) -> None:
        """Replace a JSON file; with `create`, FileExistsError where there is one, if the file system can tell."""
        data = json.dumps(values).encode()
        if create:
            self._make_folder(self._path(name))
            self._store(self._files.pipe_file, self._path(name), data, mode="create")
        else:
            self._replace(name, lambda path: self._files.pipe_file(path, data))

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.exists(name):
            self._request(self._files.rm_file, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _replace(self, name: str, send: Callable[[str], object]) -> None:
        """Replace a file atomically: object stores do so, folders by renaming."""
        path = self._path(name)
        target = f"{path}.tmp" if self._is_local else path
        self._make_folder(path)
        self._store(send, target)
        if self._is_local:
            self._store(self._files.mv, target, path)

    def _make_folder(self, path: str) -> None:
        """Make the folder of a file. A path that begins with a bucket has none, and must not make a misspelt bucket."""
        if path.startswith("/"):
            self._store(self._files.makedirs, path.rpartition("/")[0], exist_ok=True)

    def _store(self, do: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Request something that no missing file explains."""
        try:
            self._request(do, *arguments, **options)
        except FileNotFoundError as error:
            raise self._refusal(error) from None

    def _request(self, do: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """The result of a method of the file system, which is tried again where it fails."""
        pauses = iter(PAUSES if self.patient else ())
        while True:
            try:
                return do(*arguments, **options)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # noqa: BLE001 (the library behind a protocol has errors of its own)
                final = isinstance(error, PermissionError | NotImplementedError)
                if final or (pause := next(pauses, None)) is None:
                    raise self._refusal(error) from None
            time.sleep(pause)

    def _refusal(self, error: Exception) -> RunError:
        return RunError(
            f"{self.url} cannot be read or written ({_reason(error)}): check address, rights and network; what is "
            "finished is kept on this machine, and the same command goes on and uploads it"
        )


def _file_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL, and the path in it without a slash at its end."""
    from fsspec.core import url_to_fs  # imported here: it takes 70 ms
    from fsspec.registry import known_implementations, registry

    protocol, _, path = url.partition("://")
    if protocol not in (known := {*known_implementations, *registry}):
        raise ConfigurationError(f"{url} has an unknown protocol: {suggestion(protocol, sorted(known))}")
    if not path.strip("/"):
        raise ConfigurationError(f"{url} names no folder: give one, such as {protocol}://bucket/runs")
    try:
        files, root = url_to_fs(url)
    except Exception as error:  # noqa: BLE001 (as above)
        raise ConfigurationError(f"{url} cannot be used ({_reason(error)}): mend it, or give a local folder") from None
    return files, root.rstrip("/")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error))[:200]}"
