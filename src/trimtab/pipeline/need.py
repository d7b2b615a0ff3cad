"""How much memory a step takes.

>>> Need("guide base", weights=1e9, row=1e6, rows=256, setting="guide.rows", value=256).fitting(1.8e9)
100
"""

from dataclasses import dataclass

GIGA = 1e9
LIBRARY_BYTES = 0.7 * GIGA  # of Python and its libraries


@dataclass(frozen=True)
class Need:
    """What one step takes: bytes of weights and of one row.

    `rows` follow from the field `setting`, which is `value` now. `beside` processes take as much each at the same time.
    """

    step: str
    weights: float
    row: float
    rows: int
    setting: str
    value: int
    remedy: str = "take a smaller model or machine"
    beside: int = 1

    @property
    def total(self) -> float:
        return self.beside * (LIBRARY_BYTES + self.weights + self.rows * self.row)

    def fitting(self, room: float) -> int:
        """The largest value of the setting that fits."""
        return max(int((room / self.beside - LIBRARY_BYTES - self.weights) / (self.row * self.rows / self.value)), 0)
