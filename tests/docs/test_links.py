"""Every link of the repository's pages leads to a file that exists and, where it names one, to a heading of it."""

from pathlib import Path

import pytest

from links import broken_links

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(encoding="utf-8"), page.parent) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# One two\n\n## `code`, and more\n", encoding="utf-8")
    good = "# Here\n[a](page.md) [b](page.md#one-two) [c](page.md#code-and-more) [d](#here) [e](https://x.org) `[f](g)`"
    assert broken_links(good, tmp_path) == []
    bad = "[a](none.md) [b](page.md#three) ![c](figure.png) [d](#there)"
    assert broken_links(bad, tmp_path) == ["none.md", "page.md#three", "figure.png", "#there"]
