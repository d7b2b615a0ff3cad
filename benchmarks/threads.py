"""What OpenMP's waiting threads cost beside another busy process, and what the command line's policy saves.

    python benchmarks/threads.py
    python benchmarks/threads.py --busy 2 --json threads.json

Each measurement is a process of its own, since OpenMP reads its policy when torch is loaded: once as torch comes, once
with `wait_briefly`, in turns, alone and beside processes that do nothing but count. `layer` is a linear layer of 576 by
1536 over 2 rows; `load` is `trimtab.load`; `step` is one token of 2 rows. Means of the calls, medians of the repeats.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.executors.idle_threads import wait_briefly

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS, NARROW, WIDE = 2, 576, 1536
UNITS = {"layer": ("µs", 1e6), "step": ("ms", 1e3), "load": ("s", 1.0)}
POLICIES = ("as it comes", "briefly")


def seconds(call: Callable[[], Any], calls: int) -> float:
    """The mean of so many calls after a first one: a few that wait take most of the time."""
    call()
    before = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - before) / calls


def measured(model: str, calls: int) -> dict[str, float]:
    """Seconds of each operation in this process."""
    import torch

    import trimtab

    with torch.inference_mode():
        layer, rows = torch.nn.Linear(NARROW, WIDE), torch.randn(ROWS, NARROW)
        found = {"layer": seconds(lambda: layer(rows), 10 * calls)}
    before = time.perf_counter()
    loaded = trimtab.load(model)
    found["load"] = time.perf_counter() - before
    state = loaded.start(["This film", "I watched it"], room=calls + 2)

    def step() -> None:
        loaded.next_logits(state)
        state.append([1] * ROWS)

    found["step"] = seconds(step, calls)
    return found


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that only count."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def in_a_process(policy: str, threads: int, model: str, calls: int) -> dict[str, float]:
    """`measured` in a process of its own under the policy."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**kept, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--measure", policy, "--model", model, "--calls", str(calls)]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def compared(counts: Sequence[int], threads: int, model: str, calls: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each operation and number of busy neighbours: seconds under either policy, and their ratio."""
    rows = []
    for count in counts:
        found: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
        with neighbours(count):
            for _ in range(repeats):
                for policy in POLICIES:
                    found[policy].append(in_a_process(policy, threads, model, calls))
        for operation in UNITS:
            taken = {policy: statistics.median(each[operation] for each in found[policy]) for policy in POLICIES}
            ratio = taken["as it comes"] / taken["briefly"]
            rows.append({"operation": operation, "busy": count, "seconds": taken, "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside it, besides none")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one for each core")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--calls", type=int, default=50, help="steps, and tenths of the layer's calls")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--measure", choices=POLICIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        if arguments.measure == "briefly":
            wait_briefly()
        print(json.dumps(measured(arguments.model, arguments.calls)))
        return
    rows = compared((0, arguments.busy), arguments.threads, arguments.model, arguments.calls, arguments.repeats)
    _print(rows, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _print(rows: Sequence[dict[str, Any]], threads: int) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from search import machine

    torch.set_num_threads(threads)
    table = Table(title=f"OpenMP's threads, {machine(torch.device('cpu'))}")
    for column in ("operation", "busy neighbours", *POLICIES, "times"):
        table.add_column(column, justify="right")
    for row in rows:
        unit, scale = UNITS[row["operation"]]
        taken = [f"{row['seconds'][policy] * scale:.3g} {unit}" for policy in POLICIES]
        table.add_row(row["operation"], str(row["busy"]), *taken, f"{row['ratio']:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
