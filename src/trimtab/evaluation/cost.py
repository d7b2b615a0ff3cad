"""What a decoder has cost, as its artifact says."""

import json

from trimtab.evaluation.evaluate import Cost
from trimtab.models.served_model import Usage
from trimtab.store.artifacts import Artifact


def read_cost(artifact: Artifact) -> Cost:
    """Forward FLOPs of all models together, and wall seconds."""
    seconds = json.loads((artifact.folder / "decode_seconds.json").read_text(encoding="utf-8"))
    return Cost(flops=sum(artifact.summary("cost").values()), seconds=seconds)


def read_usage(artifact: Artifact) -> Usage:
    """What an endpoint has counted; nothing where the model runs here."""
    return Usage(**artifact.summary("usage")) if (artifact.folder / "usage.json").is_file() else Usage()
