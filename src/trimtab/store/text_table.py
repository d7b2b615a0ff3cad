"""A table for a terminal of any width, in which no name is cut.

>>> print_rows(Console(width=14), ["name", "what"], [["me/tiny", "of a few layers"]])
me/tiny
  what: of a few
    layers
"""

import textwrap
from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab.errors import one_line

BETWEEN = 3  # characters between two columns


def print_rows(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> None:
    """Print rows under their columns, with cells that break between words; or, where the longest words of all columns
    do not fit beside each other, a paragraph for each row, with the other cells below the first.

    `right` are columns of numbers. The first cell of a row is a name, which never breaks. Control characters are
    escaped.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = column_widths([columns, *cells], console.width)
    if widths is None:
        for name, *others in cells:
            lines = [name]
            for column, cell in zip(columns[1:], others, strict=True):
                if cell:
                    lines += textwrap.wrap(
                        f"{column}: {cell}", max(console.width, 20), initial_indent="  ", subsequent_indent="    ",
                        break_long_words=False, break_on_hyphens=False,
                    )  # fmt: skip
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width, justify="right" if column in right else "left")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def column_widths(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The width of each column of a table of at most `width` characters that breaks cells between words alone, and
    names, which are the first column, not at all; None where there is no such table.

    >>> column_widths([["name", "what"], ["me/tiny", "of a few layers"]], 24)
    [7, 12]
    """
    whole = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in zip(*rows, strict=True)]
    widths = [whole[0], *words[1:]]
    spare = width - sum(widths) - BETWEEN * len(widths) + 1
    if spare < 0:
        return None
    for _ in range(spare):
        tightest = max(range(len(widths)), key=lambda index: whole[index] / max(widths[index], 1))
        if widths[tightest] < whole[tightest]:
            widths[tightest] += 1
    return widths
