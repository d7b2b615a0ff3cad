"""Long names in figures: how wide a text is drawn, and its lines where there is less room than that.

>>> wrapped("someone/a-long-name", 60)
'someone/a-\\nlong-name'
>>> wrapped("short", 60)
'short'
"""

import re
from functools import cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from trimtab.report.palette import STYLE

_PIECES = re.compile(r"[^-_./ ]*[-_./ ]|[^-_./ ]+")
"""What a name is made of: a line may end behind each of its separators."""


def width_of(text: str, size: float = STYLE["font.size"], weight: str = "normal") -> float:
    """The width in points of the widest line of a text."""
    return max(_width(line, size, weight) for line in text.split("\n"))


@cache
def _width(line: str, size: float, weight: str) -> float:
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(line, font, ismath=False)
    return float(width)


def wrapped(text: str, width: float, size: float = STYLE["font.size"], weight: str = "normal") -> str:
    """The text in lines of at most so many points, broken behind separators and, where there are none, anywhere."""
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
