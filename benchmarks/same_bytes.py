"""Whether this checkout makes the same bytes as another commit: records, models and tables of a small run of all steps.

    python benchmarks/same_bytes.py f7697ea

Both make the tests' small run (a trained reward, five decoders, tiny random models) and the tests' small study, on one
thread in float32. Artifacts are matched by the names of their steps; hashes, times and notes of what they were made
from may differ. Prints each file that differs, and exits with 1 where one does.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNCOMPARED = {"seconds.json", "decode_seconds.json", "files.json", "made_from.json", "plan.json"}
"""Files that hold times, hashes, or how prompts were cut."""
RUN = """
import sys
from pathlib import Path
from small_run import SETTINGS
from small_study import EXPERIMENT, save_study
from trimtab import cli
folder, path_map = Path(sys.argv[1]), sys.argv[2]
options = ["--quiet", "--runs", str(folder), "--path-map", path_map]
sys.argv = ["trimtab", "run", "quickstart", *options, "--set", *SETTINGS, "small.dtype=float32", "large.dtype=float32"]
cli.main()
EXPERIMENT["small"] = {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "dtype": "float32"}
sys.argv = ["trimtab", "study", str(save_study(folder)), *options]
cli.main()
"""
HUB = "import sys; from pathlib import Path; from tiny_hub import tiny_hub; print(tiny_hub(Path(sys.argv[1])))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit", help="the commit to compare with")
    commit = parser.parse_args().commit
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        before = folder / "before"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(before), commit], cwd=ROOT, check=True)
        try:
            path_map = run(ROOT, HUB, str(folder / "hub")).splitlines()[-1]
            made = []
            for name, checkout in (("then", before), ("now", ROOT)):
                (folder / name).mkdir()
                run(checkout, RUN, str(folder / name), path_map)
                made.append(dict(files_of(folder / name)))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    then, now = made
    differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    for name in differing:
        missing = "now" if name not in now else f"at {commit}" if name not in then else None
        print(f"{name}: {'differs' if missing is None else f'is missing {missing}'}")
    print(f"{len(then)} files at {commit}, {len(now)} now; {len(differing)} differ")
    sys.exit(bool(differing))


def run(checkout: Path, code: str, *arguments: str) -> str:
    """Run Python code with the package and the tests of a checkout; gives what it prints."""
    paths = [str(checkout / "src"), str(checkout / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every compared file of a run and a study, by the name of its step and its own."""
    names = json.loads((folder / "quickstart/report/artifacts.json").read_text())
    artifacts = {f"run: {step}": folder / "quickstart" / name for step, name in names.items()}
    for cell, entry in json.loads((folder / "two/study.json").read_text())["runs"].items():
        artifacts |= {f"study {cell}: {step}": folder / "two" / name for step, name in entry["artifacts"].items()}
    for name, artifact in artifacts.items():
        for file in sorted(artifact.rglob("*")):
            if file.is_file() and file.name not in UNCOMPARED:
                yield f"{name}: {file.relative_to(artifact).as_posix()}", file.read_bytes()
    for report in ("quickstart/report", "two/report"):
        for table in sorted((folder / report).glob("*.csv")):
            rows = csv.DictReader(io.StringIO(table.read_text()))
            timeless = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
            yield f"{report}: {table.name}", repr(timeless).encode()


if __name__ == "__main__":
    main()
