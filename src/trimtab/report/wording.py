"""How numbers, times and names of models read.

>>> interval(1.938, 1.6, 2.281)
'1.94 [1.60, 2.28]'
"""

from collections.abc import Iterable

NOISE_SHARE = 0.2
"""The share by which the same work takes more or less time from hour to hour on a shared machine
(docs/results/quickstart.md)."""
NOISE = "differences below 20 %, and any between models that do the same arithmetic, are noise"


def number(value: float | None, digits: int = 2) -> str:
    """The value with a fixed number of decimals, never `-0.00`; empty for None."""
    return "" if value is None else f"{value:z.{digits}f}"


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Mean and interval, as `1.94 [1.60, 2.28]`; empty where there is none."""
    return "" if mean is None else f"{number(mean)} [{number(low)}, {number(high)}]"


def percent(share: float | None) -> str:
    """A share as whole percent; empty for None."""
    return "" if share is None else f"{100 * share:.0f} %"


def significant(value: float) -> str:
    """Three significant digits, all digits from 1,000 on: `0.0120`, `1.94`, `12,300`."""
    if value == 0:
        return "0"
    return f"{value:#.3g}".removesuffix(".") if value < 999.5 else f"{value:,.0f}"


def times(ratio: float) -> str:
    """A ratio as `2.1 times` or, from 10 on, `25 times`."""
    return f"{ratio:.1f} times" if ratio < 9.95 else f"{ratio:,.0f} times"


def duration(seconds: float) -> str:
    """Wall time: `0.94 s`, `9.6 s`, `25 s`, `15 min 38 s`, `1 h 5 min`."""
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Each model's name without its owner or folder; in full where two would read the same. Order is kept."""
    last = {model: model.rstrip("/").rsplit("/", 1)[-1] for model in models}
    return {model: short if list(last.values()).count(short) == 1 else model for model, short in last.items()}
