"""How much memory a step takes.

>>> Need("guide base", weights=1e9, row=1e6, rows=256, setting="guide.rows", value=256).fitting(1.8e9)
100
"""

from dataclasses import dataclass

GIGA = 1e9
LIBRARY_BYTES = 0.7 * GIGA  # taken by Python and its libraries in each process


@dataclass(frozen=True)
class Need:
    """The memory that one step needs.

    Args:
        weights: bytes of all weights.
        row: bytes of one row.
        rows: number of rows at once.
        setting: the configuration's field that limits the number of rows.
        value: that field's value now.
        remedy: what to do where no value of the field fits.
        beside: number of processes that need this much at the same time.
        rows_each: rows for each unit of the setting.
    """

    step: str
    weights: float
    row: float
    rows: int
    setting: str
    value: int
    remedy: str = "take a smaller model or machine"
    beside: int = 1
    rows_each: int = 1

    @property
    def total(self) -> float:
        return self.beside * (LIBRARY_BYTES + self.weights + self.rows * self.row)

    def fitting(self, room: float) -> int:
        """The largest value of the setting that fits."""
        return max(int((room / self.beside - LIBRARY_BYTES - self.weights) / (self.row * self.rows_each)), 0)

    @property
    def used(self) -> int:
        """The least value of the setting that gives all rows: where there are few, it is below `value`."""
        return min(self.value, -(-self.rows // self.rows_each))
