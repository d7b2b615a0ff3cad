"""Which search a number of FLOPs pays for: what a setting costs, and the largest setting within a budget.

>>> base, guide = ModelSize(body=1e8, head=3e7), ModelSize(body=1e7, head=3e6)
>>> within_budget(1.5e11, Workload((base, guide, guide), prompt=20, response=40))
(3, 4, 4)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.errors import ConfigurationError
from trimtab.models.language_model import ModelSize

MAX_CANDIDATES = 4096  # of a prompt: beyond them no budget is spent
CHUNKS = 10  # of a response, as in arXiv 2405.19262 (5 of 50 tokens each)


@dataclass(frozen=True)
class Workload:
    """All models that read the text, those that draw and those that judge; prompt and response in tokens."""

    models: tuple[ModelSize, ...]
    prompt: int
    response: int


def search_flops(work: Workload, width: int, successors: int, chunk: int | None) -> float:
    """FLOPs of one prompt whose responses do not end early, 2 a weight and token (Kaplan et al. 2020).

    Each model reads the prompt once. In the first chunk W*K rows share the reading of the prompt's last token, in
    later ones each of W beams' K children that of the beam's; every row reads the rest of its chunk itself. The last
    token of a response is read by nobody. Each reading of a response's or a prompt's last token is a prediction.
    """
    length = work.response if chunk is None else min(chunk, work.response)
    body, heads = float(work.prompt - 1), 0.0
    for done in range(0, work.response, length):
        read = (width if done else 1) + width * successors * (min(length, work.response - done) - 1)
        body += read
        heads += read
    return sum(2.0 * (model.body * body + model.head * heads) for model in work.models)


def within_budget(
    flops: float, work: Workload, width: int | None = None, successors: int | None = None, chunk: int | None = None
) -> tuple[int, int, int]:
    """Width, successors and chunk of the largest search that costs at most `flops` a prompt; what is given stays.

    A chunk is a tenth of the response. Width and successors are equal, or there is one successor more.

    Raises:
        ConfigurationError: the budget does not pay for two candidates.
    """
    chunk = max(1, round(work.response / CHUNKS)) if chunk is None else chunk
    paid = None
    for shape in _growing(width, successors):
        cost = search_flops(work, *shape, chunk)
        beyond = cost > flops or shape[0] * shape[1] > MAX_CANDIDATES
        if beyond and paid is None:
            raise ConfigurationError(
                f"budget {flops:g} pays for no search: {shape[0]} x {shape[1]} candidates cost {cost:.3g} FLOPs a "
                "prompt; raise it"
            )
        if beyond:
            break
        paid = shape
    assert paid is not None
    return *paid, chunk


def _growing(width: int | None, successors: int | None) -> Iterator[tuple[int, int]]:
    """Widths and successors, from two candidates on, each pair costing more than the one before."""
    if width is not None and successors is not None:
        yield width, successors
        return
    for size in itertools.count(1):
        shapes = [(width or size, successors or size)]
        if width is None and successors is None:
            shapes.append((size, size + 1))
        yield from (shape for shape in shapes if shape[0] * shape[1] > 1)
