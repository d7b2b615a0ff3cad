"""Which search a number of FLOPs pays for: what a setting costs, and the largest setting within a budget.

>>> base, guide = ModelSize(body=1e8, head=3e7), ModelSize(body=1e7, head=3e6)
>>> within_budget(1.5e11, Workload((base, guide, guide), prompt=20, response=40))
(3, 4, 4)
"""

import math
from dataclasses import dataclass

from trimtab.errors import ConfigurationError
from trimtab.models.sizes import ModelSize

MAX_CANDIDATES = 4096  # of a prompt: beyond them no budget is spent
CHUNKS_PER_RESPONSE = 10  # of a response, as in arXiv 2405.19262 (5 of 50 tokens each)


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
    """Width, successors and chunk of the largest search that costs at most `flops` a prompt; values passed in are kept.

    A chunk is a tenth of the response. Width and successors are equal, or there is one successor more.

    Raises:
        ConfigurationError: the budget does not pay for two candidates.
    """
    chunk = max(1, round(work.response / CHUNKS_PER_RESPONSE)) if chunk is None else chunk
    if width is not None and successors is not None:
        shapes = [(width, successors)]
    else:  # from two candidates on, each shape costing more than the one before
        sizes = range(1, MAX_CANDIDATES + 1)
        grown = dict.fromkeys((width or size, successors or size + more) for size in sizes for more in (0, 1))
        shapes = [shape for shape in grown if math.prod(shape) > 1]
    paid = None
    for shape in shapes:
        cost = search_flops(work, *shape, chunk)
        if cost > flops or math.prod(shape) > MAX_CANDIDATES:
            break
        paid = shape
    if paid is None:
        raise ConfigurationError(
            f"budget {flops:g} pays for no search: {shape[0]} x {shape[1]} candidates cost {cost:.3g} FLOPs a prompt; "
            "raise it"
        )
    return *paid, chunk
