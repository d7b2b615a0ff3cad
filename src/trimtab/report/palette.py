"""The colours of the figures, each with its counterpart on a dark page, and their style.

Decoders have the colours of Paul Tol's "muted" scheme and two more, told apart under all common kinds of colour
blindness; the figures also name decoders in place, so that no reader depends on colour alone.

    >>> colours(["base", "bon-16"])
    {'base': '#332288', 'bon-16': '#117733'}
"""

import functools
from collections.abc import Sequence
from typing import Any

import matplotlib.colors

CARD = "#ffffff"  # the background
TEXT = "#1d2129"  # not black: matplotlib does not write black into an SVG, so that it could not be turned light
SOFT = "#6b7280"
GRID = "#e3e6ea"
PALETTE = ("#332288", "#117733", "#CC6677", "#44AA99", "#882255", "#999933", "#AA4499", "#3377AA", "#DD7733", "#666666")
ON_DARK = ("#9b8ff2", "#4fb573", "#e88b99", "#5cc7b5", "#d977a8", "#c4c45a", "#d98acb", "#6db3e8", "#f0a06a", "#b0b0b0")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "trimtab",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "figure.facecolor": CARD,
    "axes.facecolor": "none",
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], TEXT),
}


def colours(decoders: Sequence[str]) -> dict[str, str]:
    """A colour for each decoder by its index in the experiment, so that all figures of a run agree."""
    return {decoder: PALETTE[index % len(PALETTE)] for index, decoder in enumerate(decoders)}


def ink(colour: str) -> str:
    """The colour, darkened so that text in it is easy to read on white."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return matplotlib.colors.to_hex((0.68 * red, 0.68 * green, 0.68 * blue))


@functools.cache
def dark_colours() -> dict[str, str]:
    """Every colour of a figure, as `#rrggbb` in lower case -> its counterpart on a dark page."""
    dark = {CARD: "#1c2027", TEXT: "#e6e8ec", SOFT: "#a3abb8", GRID: "#343a44"}
    dark[ink(TEXT)] = dark[TEXT]
    for light, counterpart in zip(PALETTE, ON_DARK, strict=True):
        dark |= {light.lower(): counterpart, ink(light): counterpart}
    return dark
