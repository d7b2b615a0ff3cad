"""Figures as elements of the page: each in a wide and a narrow drawing, in colours that the page's style can change.

A colour `#rrggbb` becomes `var(--rrggbb, #rrggbb)`: a dark page sets the variable, and paper does not.

    >>> with_variables('<path style="fill: #332288"/>')
    '<path style="fill: var(--332288, #332288)"/>'
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from trimtab.report import plots


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its file name, its description in words, and its two drawings."""

    name: str
    alternative: str
    wide: Markup
    narrow: Markup


def picture(folder: Path, name: str, alternative: str, draw: Callable[..., Figure]) -> Picture:
    """Both drawings of `draw(narrow=...)` for the page; the wide one is also written into `folder` as PNG and SVG."""
    plots.save(draw(narrow=False), folder, name)
    drawing = (folder / f"{name}.svg").read_text(encoding="utf-8")
    return Picture(
        name, alternative, inline_svg(drawing, name), inline_svg(plots.svg(draw(narrow=True)), f"{name}-narrow")
    )


def inline_svg(text: str, name: str) -> Markup:
    """An SVG file as an element for the page: no prolog or comments, scalable, ids made unique by `name`."""
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r'(?<=\sid=")', f"{name}-", element)
    element = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", element)
    head, body = element.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Markup(f'{head} aria-hidden="true" focusable="false">{with_variables(body)}')


def with_variables(text: str) -> str:
    """The drawing with its colours as variables of the page."""
    return re.sub(r"(?<=: )#([0-9a-f]{6})(?=[;\"])", r"var(--\1, #\1)", text)
