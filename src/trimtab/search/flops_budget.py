"""Which search a number of FLOPs pays for: what a setting costs, and the largest setting within a budget.

Pure functions of model sizes, prompt length and response length; knows no models.

    >>> base, guide = ModelSize(body=1e8, head=3e7), ModelSize(body=1e7, head=3e6)
    >>> within_budget(1.5e11, Workload((base, guide, guide), prompt=20, response=40), SearchShape())
    SearchShape(width=3, successors=4, chunk=4)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.errors import ConfigurationError
from trimtab.models.language_model import ModelSize

MOST = 4096  # candidates a prompt, beyond which no budget is spent
OF_RESPONSE = 10  # a chunk is this part of a response, as in arXiv 2405.19262 (5 of 50 tokens)


@dataclass(frozen=True)
class Workload:
    """All models that read the text, those that draw and those that judge; prompt and response in tokens."""

    models: tuple[ModelSize, ...]
    prompt: int
    response: int


@dataclass(frozen=True)
class SearchShape:
    """Width, successors and chunk; what is None is to be chosen."""

    width: int | None = None
    successors: int | None = None
    chunk: int | None = None


def search_flops(work: Workload, width: int, successors: int, chunk: int | None) -> float:
    """FLOPs of one prompt whose responses do not end early, 2 a weight and token (Kaplan et al. 2020).

    Each model reads the prompt once. In the first chunk W*K rows share the reading of the prompt's last token, in
    later ones each of W beams' K children that of the beam's; every row reads the rest of its chunk itself. The last
    token of a response is read by nobody. Each reading of a response's or a prompt's last token is a prediction.
    """
    length = work.response if chunk is None else min(chunk, work.response)
    body, heads, done = float(work.prompt - 1), 0.0, 0
    while done < work.response:
        tokens = min(length, work.response - done)
        shared = width if done else 1
        body += shared + width * successors * (tokens - 1)
        heads += shared + width * successors * (tokens - 1)
        done += tokens
    return sum(2.0 * (model.body * body + model.head * heads) for model in work.models)


def within_budget(flops: float, work: Workload, given: SearchShape) -> SearchShape:
    """The largest search that costs no more than `flops` for one prompt; what is given stays as it is.

    A chunk is a tenth of the response. Width and successors are equal, or there is one successor more.

    Raises:
        ConfigurationError: the budget does not pay for two candidates.
    """
    chunk = max(1, round(work.response / OF_RESPONSE)) if given.chunk is None else given.chunk
    paid = None
    for width, successors in _growing(given):
        if width * successors > MOST or search_flops(work, width, successors, chunk) > flops:
            break
        paid = SearchShape(width, successors, chunk)
    if paid is None:
        width, successors = next(_growing(given))
        least = search_flops(work, width, successors, chunk)
        raise ConfigurationError(
            f"budget {flops:g} pays for no search: {width} x {successors} candidates cost {least:.3g} FLOPs a prompt; "
            "raise it"
        )
    return paid


def _growing(given: SearchShape) -> Iterator[tuple[int, int]]:
    """Widths and successors, from two candidates on, each pair costing more than the one before."""
    if given.width is not None and given.successors is not None:
        yield given.width, given.successors
        return
    for size in itertools.count(1):
        if given.width is not None:
            shapes = [(given.width, size)]
        elif given.successors is not None:
            shapes = [(size, given.successors)]
        else:
            shapes = [(size, size), (size, size + 1)]
        yield from (shape for shape in shapes if shape[0] * shape[1] > 1)
