"""Labels beside the points of a figure, where they cover neither a point nor a bar nor one another.

Knows nothing of what the points mean: places are tried in a fixed order, so the outcome is always the same.

    >>> candidates()[0]
    (10.0, 0.0)
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from trimtab.report.text_width import width_of, wrapped

CLEAR = 7.0  # half the side in pixels of the square around each point that labels keep out of
LABEL: dict[str, Any] = {
    "weight": "bold",
    "fontsize": 9.5,
    "path_effects": [withStroke(linewidth=3, foreground="white")],  # readable where there is no free place
}


def candidates() -> list[tuple[float, float]]:
    """Offsets in points to try, nearest first: right, left, above, below, then the corners, in growing circles."""
    directions = [0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200]
    return [
        (round(radius * math.cos(math.radians(angle)), 6), round(radius * math.sin(math.radians(angle)), 6))
        for radius in (10.0, 18.0, 28.0, 40.0, 55.0, 75.0)
        for angle in directions
    ]


def numbered(
    points: Sequence[tuple[str, float, float, str]], width: float
) -> tuple[list[tuple[str, float, float, str]], list[Line2D]]:
    """Points with numbers in place of their texts where these are long for a figure of so many inches; for its legend,
    what each number stands for. Short texts stay, and the legend says nothing of them."""
    room = width * 72
    if all(width_of(text, LABEL["fontsize"], "bold") <= 0.3 * room for text, *_ in points):
        return list(points), []
    handles = [
        Line2D(
            [], [], color=colour, linestyle="none", marker=f"${number}$", markersize=6 + 2 * len(str(number)),
            label=wrapped(text, 0.8 * room),
        )
        for number, (text, _, _, colour) in enumerate(points, 1)
    ]  # fmt: skip
    return [(str(number), x, y, colour) for number, (_, x, y, colour) in enumerate(points, 1)], handles


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[str, float, float, str]],
    bars: Sequence[tuple[float, float, float, float]],
) -> None:
    """Write each point's text near it.

    `points` are (text, x, y, colour), `bars` (left, right, low, high), in data units.

    Of all places the first with the fewest collisions is taken, and where one is free that has none.
    """
    figure.draw_without_rendering()
    taken = [
        Bbox.from_extents(px - CLEAR, py - CLEAR, px + CLEAR, py + CLEAR)
        for px, py in axes.transData.transform([(x, y) for _, x, y, _ in points])
    ]
    for left, right, low, high in bars:
        (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, high)])
        taken.append(Bbox.from_extents(x0 - 4, y0 - 4, x1 + 4, y1 + 4))
    inside = axes.get_window_extent()

    def collisions(box: Bbox) -> int:
        outside = not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))
        return sum(box.overlaps(other) for other in taken) + len(taken) * outside

    for text, x, y, colour in points:
        label = axes.annotate(text, (x, y), color=colour, **LABEL)
        extent = label.get_window_extent()
        label.remove()
        px, py = axes.transData.transform((x, y))
        places = [(offset, _box(px, py, offset, extent, figure.dpi / 72)) for offset in candidates()]
        (dx, dy), box = min(places, key=lambda entry: collisions(entry[1]))
        taken.append(box)
        place: dict[str, Any] = {"xytext": (dx, dy), "textcoords": "offset points", "ha": _across(dx), "va": _along(dy)}
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7} if math.hypot(dx, dy) > 15 else None
        axes.annotate(text, (x, y), color=colour, arrowprops=line, **place, **LABEL)


def _across(dx: float) -> Literal["left", "center", "right"]:
    return "left" if dx > 1 else "right" if dx < -1 else "center"


def _along(dy: float) -> Literal["bottom", "center", "top"]:
    return "bottom" if dy > 1 else "top" if dy < -1 else "center"


def _box(px: float, py: float, offset: tuple[float, float], extent: Bbox, scale: float) -> Bbox:
    """Where a text as large as `extent` stands, in pixels, at this offset in points from pixel (px, py)."""
    shift = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
    left = px + offset[0] * scale - shift[_across(offset[0])] * extent.width
    bottom = py + offset[1] * scale - shift[_along(offset[1])] * extent.height
    return Bbox.from_bounds(left, bottom, extent.width, extent.height)
