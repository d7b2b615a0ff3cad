"""Text in figures: how wide it is drawn, its lines where there is little room, and labels beside points.

>>> wrapped("someone/a-long-name", 60)
'someone/a-\\nlong-name'
>>> wrapped("short", 60)
'short'
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from trimtab.report.palette import STYLE

CLEARANCE = 7.0  # pixels around a point that labels keep out of
MIN_STEPS, MAX_STEPS, MAX_WORK = 50, 500, 50_000
"""Bounds on the steps of placing labels; a step's work grows with the square of their number. With a limit in seconds
figures would differ from run to run."""
LEGEND_LINE = 0.21  # inches that a line of the legend takes
LABEL: dict[str, Any] = {
    "weight": "bold",
    "fontsize": 9.5,
    "path_effects": [withStroke(linewidth=3, foreground="white")],  # readable where there is no free space
}
_PIECES = re.compile(r"[^-_./ ]*[-_./ ]|[^-_./ ]+")
"""The parts of a name: a line may end behind each of its separators."""


class Point(NamedTuple):
    """A point in data units with its label."""

    text: str
    x: float
    y: float
    colour: str


def width_of(text: str, size: float = STYLE["font.size"], weight: str = "normal") -> float:
    """The width in points of the widest line of a text."""
    return max(_width(line, size, weight) for line in text.split("\n"))


@cache
def _width(line: str, size: float, weight: str) -> float:
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(line, font, ismath=False)
    return float(width)


def wrapped(text: str, width: float, size: float = STYLE["font.size"], weight: str = "normal") -> str:
    """The text in lines of limited width (in points), broken behind separators and, where there are none, anywhere."""
    lines = [""]
    for piece in _PIECES.findall(text):
        if width_of(lines[-1] + piece, size, weight) <= width:
            lines[-1] += piece
            continue
        if lines[-1]:
            lines.append("")
        for character in piece:
            if lines[-1] and width_of(lines[-1] + character, size, weight) > width:
                lines.append("")
            lines[-1] += character
    return "\n".join(lines)


def numbered(points: Sequence[Point], inches: float) -> tuple[list[Point], list[Line2D]]:
    """Points with numbers in place of labels that are long for a figure of this width, and entries for its legend that
    say what each number stands for. Short labels stay, without entries."""
    room = inches * 72
    if all(width_of(point.text, LABEL["fontsize"], "bold") <= 0.3 * room for point in points):
        return list(points), []
    entries = [
        Line2D(
            [],
            [],
            color=point.colour,
            linestyle="none",
            marker=f"${number}$",
            markersize=6 + 2 * len(str(number)),
            label=wrapped(point.text, 0.8 * room),
        )
        for number, point in enumerate(points, 1)
    ]
    return [point._replace(text=str(number)) for number, point in enumerate(points, 1)], entries


def label_points(
    figure: Figure, axes: Axes, points: Sequence[Point], others: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each point's label near it, over no point, none of the `others` and no other label, where there is room.

    Axes must have their final limits, and the figure its final size.
    """
    if not points:
        return
    figure.draw_without_rendering()
    marks = axes.transData.transform([*((point.x, point.y) for point in points), *others])
    to_data = axes.transData.inverted()
    taken = [Bbox([mark, mark]).padded(CLEARANCE).transformed(to_data) for mark in marks]
    texts = [axes.text(point.x, point.y, point.text, color=point.colour, **LABEL) for point in points]
    steps = max(MIN_STEPS, min(MAX_STEPS, MAX_WORK // len(points) ** 2))
    line = {"arrowstyle": "-", "linewidth": 0.7}
    _, lines = adjust_text(texts, objects=taken, ax=axes, iter_lim=steps, arrowprops=line)
    for artist in (*texts, *lines):
        artist.set_in_layout(False)
    for leader in lines:
        leader.set_color(leader.patchA.get_color())
