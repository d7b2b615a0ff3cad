"""Replicas of `trimtab serve` under Ray Serve, which starts, watches and scales them over a cluster.

pip install "trimtab[serve]" "ray[serve]"
TRIMTAB_RUN=/shared/runs/quickstart serve run examples.serving.ray_serve:app
"""

import os
from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from trimtab.serve.options import ServeOptions
from trimtab.serve.server import replica


def loaded() -> ASGIApp:
    """Called in each replica: its models are loaded there."""
    return replica(ServeOptions(source=Path(os.environ["TRIMTAB_RUN"])), os.environ.get("API_KEY"))


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
@serve.ingress(loaded)
class Trimtab:
    """All routes are the application's; a replica on a GPU has `ray_actor_options={"num_gpus": 1}`."""


app = Trimtab.bind()
