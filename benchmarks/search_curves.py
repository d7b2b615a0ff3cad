"""How long the search takes by number of prompts, by length and by W x K, beside the reference and the floor.

    python benchmarks/search_curves.py --figure curves.svg --json curves.json
    python benchmarks/search_curves.py --curve prompts --points 1 4

CBS with chunks of 5 on the `cbs` workload of `search.py`, one curve for each of: `prompts` (W x K = 4 x 4, 50 tokens),
`tokens` (4 prompts) and `candidates` (W = K, 4 prompts). The reference's own time grows with all of them; a flat line
of seconds a prompt is what batching is for.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from rich.console import Console
from rich.table import Table

from search import OPENINGS, machine, measure, workloads
from trimtab.config.models import Dtype
from trimtab.models.hardware import default_device
from trimtab.search.chunk_beam import Search

POINTS = {"prompts": (1, 4, 16, 64), "tokens": (25, 50, 100, 200), "candidates": (4, 16, 36, 64)}
LABELS = {"prompts": "prompts", "tokens": "new tokens", "candidates": "candidates (W x K)"}
KINDS = ("reference", "trimtab", "floor")


def point(curve: str, at: int, prompts: int, dtype: Dtype, repeats: int) -> dict[str, Any]:
    """The measurement of one point, see `search.measure`."""
    tokens = at if curve == "tokens" else 50
    side = math.isqrt(at) if curve == "candidates" else 4
    count = at if curve == "prompts" else prompts
    workload = dataclasses.replace(workloads(tokens)["cbs"], search=Search(side, side, 5, tokens))
    texts = [OPENINGS[number % len(OPENINGS)] for number in range(count)]
    return {"prompts": count, "at": at, **measure(curve, workload, texts, dtype, repeats, default_device())}


def draw(curves: dict[str, list[dict[str, Any]]], file: Path, title: str) -> None:
    """Seconds a prompt against each of the three, on logarithmic axes."""
    figure, axes = pyplot.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.8), sharey=True, squeeze=False)
    for axis, (curve, rows) in zip(axes[0], curves.items(), strict=True):
        for kind, style in zip(KINDS, ("o--", "o-", ":"), strict=True):
            seconds = [row["seconds"][kind] / row["prompts"] for row in rows]
            axis.plot([row["at"] for row in rows], seconds, style, label=kind)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks([row["at"] for row in rows], [str(row["at"]) for row in rows])
        axis.set_xlabel(LABELS[curve])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("seconds a prompt")
    axes[0][-1].legend()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", choices=list(POINTS), nargs="*", default=list(POINTS))
    parser.add_argument("--points", type=int, nargs="*", help="instead of the curve's own")
    parser.add_argument("--prompts", type=int, default=4, help="of the curves over tokens and candidates")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    curves = {
        curve: [
            point(curve, at, arguments.prompts, arguments.dtype, arguments.repeats)
            for at in arguments.points or POINTS[curve]
        ]
        for curve in arguments.curve
    }
    table = Table(title=f"CBS with chunks of 5, {arguments.dtype}, {machine(default_device())}")
    for column in ("curve", "at", "prompts", *(f"{kind} s a prompt" for kind in KINDS), "times the reference"):
        table.add_column(column, justify="right")
    for curve, rows in curves.items():
        for row in rows:
            cells = [f"{row['seconds'][kind] / row['prompts']:.3f}" for kind in KINDS]
            table.add_row(curve, str(row["at"]), str(row["prompts"]), *cells, f"{row['ratio']:.1f}")
    Console(width=120).print(table)
    if arguments.figure:
        draw(curves, arguments.figure, f"CBS, SmolLM2-135M guided by two of 8 layers, {machine(default_device())}")
    if arguments.json:
        arguments.json.write_text(json.dumps(curves, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
