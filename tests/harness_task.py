"""A generation task of lm-evaluation-harness, defined by YAML and JSON lines; no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.tasks import TaskManager


def local_task(folder: Path, name: str, documents: Sequence[dict[str, str]], **changes: Any) -> TaskManager:
    """Writes the task into `folder`: documents have a `prompt` and an `answer`, which is to be met exactly."""
    (folder / "documents.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "documents.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return TaskManager(include_path=str(folder), include_defaults=False)
