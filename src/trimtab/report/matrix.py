"""The page's table of decoders against each other.

>>> matrix(GuideConfig(), []).rows
[]
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.config.guide import GuideConfig
from trimtab.evaluation.evaluate import Row
from trimtab.report.columns import characters
from trimtab.report.verdict import MIN_PROMPTS
from trimtab.report.wording import interval

MAX_COLUMNS = 8  # a laptop's page has room for no more


@dataclass(frozen=True)
class Matrix:
    """`names` of the columns' decoders; of each row its decoder and its cells: text, and whether it is clear.

    `few`: there are too few prompts for any to be clear.
    """

    names: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]
    left_out: bool
    few: bool = False

    @property
    def characters(self) -> int:
        """The least width of the table in characters."""
        columns = enumerate(self.names)  # whose headings break anywhere
        return characters([name[:10], *(cells[index][0] for _, cells in self.rows)] for index, name in columns)


def matrix(guide: GuideConfig, rows: Sequence[Row]) -> Matrix:
    """Each decoder's reward minus that of the others; empty where there are not two to compare.

    Where there are many, the columns are those of highest reward that the gold reward did not help.
    """
    compared = [row for row in rows if row.against]
    columns = compared
    if len(compared) > MAX_COLUMNS:
        unaided = [row for row in compared if not row.by_gold and guide.decoder(row.decoder).best_of is None]
        best = {row.decoder for row in sorted(unaided, key=lambda row: -row.reward)[:MAX_COLUMNS]}
        columns = [row for row in compared if row.decoder in best]
    names = [row.decoder for row in columns]
    cells = [(row.decoder, [_cell(row, name) for name in names]) for row in compared]
    few = all(found.prompts < MIN_PROMPTS for row in compared for found in row.against.values())
    return Matrix(names, cells, left_out=len(columns) < len(compared), few=few)


def _cell(row: Row, other: str) -> tuple[str, bool]:
    found = row.against.get(other)
    return ("", False) if found is None else (interval(*found.reward), found.clear and found.prompts >= MIN_PROMPTS)
