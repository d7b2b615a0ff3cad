"""A small real study: two losses, and seeds, of an experiment on tiny random models with a ready reward; all stages."""

from pathlib import Path

import yaml

from small_run import TIMES

EXPERIMENT = {
    "checkpoint_seconds": 0,
    "large": None,
    "judge": "sentiment",
    "reward": {"model": "lvwerra/distilbert-imdb", "positive_label": "POSITIVE", "max_length": 64},
    "data": {
        "reward_reviews": 40, "reward_heldout": 20, "judge_reviews": 20, "tuning_prompts": 8, "validation_prompts": 4,
        "test_prompts": 6,
    },
    "synthesize": {"samples": 4, "max_new_tokens": 8, "rows": 16},
    "tune": {"lora": {"rank": 2, "top_layers": 1}, "batch_size": 4, "evaluations": 2, "epochs": 2},
    "guide": {"max_new_tokens": 8, "rows": 8, "decoders": [{"model": "untuned"}, {"model": "tuned"}]},
    "evaluate": {"bootstrap": 100, "threshold": {"quantile": 0.5}, "kl_samples": 4},
}  # fmt: skip
SEEDS = {"tune.loss": ["hinge", "sigmoid"], "tune.seed": [0, 1]}


def save_study(folder: Path, grid: dict[str, object] = SEEDS, **values: object) -> Path:
    """A study file named `two`."""
    file = folder / "two.yaml"
    study = {"name": "two", "experiment": EXPERIMENT, "grid": grid, **values}
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return file


def study_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of every artifact, the index and the tables of the study in `folder`, times apart."""
    run = folder / "two"
    left = [path.name for path in run.iterdir() if path.suffix in (".partial", ".work", ".tmp")]
    assert not left, left
    files = [file for artifact in run.glob("*-????????????") for file in artifact.rglob("*")]
    files += [run / "study.json", *(run / "report").glob("*.csv"), *(run / "report").glob("table.*")]
    kept = [file for file in files if file.is_file() and file.name not in TIMES]
    return {file.relative_to(run).as_posix(): file.read_bytes() for file in kept}
