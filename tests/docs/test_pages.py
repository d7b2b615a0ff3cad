"""The pages of docs/ that are a tour: their experiments are sound, and what they name is there."""

import re
from pathlib import Path

import pytest
import yaml

from trimtab.experiment_file import parse_experiment

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["chat.md", "closed-bases.md", "own-data.md", "own-reward.md", "pairs.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [block for name, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL) if name == language]


@pytest.mark.parametrize("page", PAGES)
def test_experiments_are_sound(page: str) -> None:
    found = blocks(page, "yaml")
    assert found
    for block in found:
        parse_experiment(yaml.safe_load(block), origin=page)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|src|benchmarks)/[\w/.]+)`", text):
        assert (DOCS.parent / name).exists(), name
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCS / target).exists(), target
