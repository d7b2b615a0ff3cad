"""Links of Markdown texts that lead nowhere."""

import re
from pathlib import Path


def headings(text: str) -> set[str]:
    """The names by which links reach the headings of a Markdown text."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(text: str, folder: Path) -> list[str]:
    """The links of a Markdown text in `folder` that lead nowhere; those to other sites are not followed."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        file = folder / place if place else None
        page = (
            text if file is None else file.read_text(encoding="utf-8") if file.suffix == ".md" and file.exists() else ""
        )
        if (file is not None and not file.exists()) or (heading and heading not in headings(page)):
            broken.append(target)
    return broken
