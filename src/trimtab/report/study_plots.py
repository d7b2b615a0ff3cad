"""A study's figures: reward against diversity with the frontier named, every seed, and rewards before and after.

Each function returns a figure that needs no caption, for a laptop or, with `narrow`, for a phone. Knows nothing of
pages.

    >>> figure = frontier(rows, unit="nats", confidence=0.95)                           # doctest: +SKIP
    >>> figure.axes[0].get_xlabel()                                                     # doctest: +SKIP
    'diversity: entropy of tokens (nats)'
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trimtab.evaluation.cells import CellRow, Value
from trimtab.report.figure_text import Point, label_points, numbered, wrapped
from trimtab.report.palette import GRID, PALETTE, SOFT, STYLE, TEXT, colours, ink
from trimtab.report.plots import DASHED, NARROW, WIDE, legend, title
from trimtab.report.study_tables import MEASURES

BEFORE = SOFT
PANELS = 3  # histograms side by side on a laptop


def frontier(rows: Sequence[CellRow], *, unit: str, narrow: bool = False) -> Figure:
    """Mean reward against diversity, with what seeds differ by; cells that no other beats in both are joined and named.

    Cells that others are measured against, untuned models, are named too.
    """
    tints = _tints(rows)
    best = sorted((row for row in rows if row.frontier), key=lambda row: row.values["diversity"].mean)
    named = [row for row in rows if row.frontier or not row.labels]
    width, height = (NARROW, 4.6) if narrow else (WIDE, 6.2)
    points, numbers = numbered(
        [
            Point(row.name, row.values["diversity"].mean, row.values["reward"].mean, ink(tints[row.name]))
            for row in named
        ],
        width,
    )
    lines = sum(1 + str(each.get_label()).count("\n") for each in numbers)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + 0.21 * lines), layout="constrained")
        axes = figure.add_subplot()
        places = [(row.values["diversity"].mean, row.values["reward"].mean) for row in best]
        axes.plot([x for x, _ in places], [y for _, y in places], color=SOFT, linewidth=1, linestyle=DASHED, zorder=1)
        for row in rows:
            x, y = _place(row)
            axes.errorbar(
                *(x.mean, y.mean), xerr=x.std, yerr=y.std, fmt="o" if row.labels else "s", color=tints[row.name],
                markersize=8 if row.frontier or not row.labels else 5.5, capsize=2, elinewidth=1,
                markerfacecolor=tints[row.name] if row.frontier or not row.labels else "none",
            )  # fmt: skip
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("diversity: entropy of tokens (nats)")
        axes.set_ylabel(f"mean gold reward ({unit})")
        title(axes, "Reward against diversity", "higher is better, further right keeps more", narrow)
        style: dict[str, Any] = {"color": SOFT, "linestyle": "none", "markersize": 7}
        legend(
            figure,
            [
                Line2D([], [], marker="o", label="on the frontier", **style),
                Line2D([], [], marker="o", markerfacecolor="none", label="beaten in both by another", **style),
                Line2D([], [], marker="s", label="before tuning or unguided", **style),
                Line2D([], [], marker="+", label="standard deviation between seeds", **style),
                *numbers,
            ],
            columns=1 if narrow or numbers else 2,
        )
        label_points(figure, axes, points, [(x.mean, y.mean) for x, y in map(_place, rows)])
    return figure


def seeds(rows: Sequence[CellRow], measure: str, *, confidence: float, narrow: bool = False) -> Figure:
    """A measure of every cell: a dot for each seed, the mean, and its interval."""
    said, tints = MEASURES[measure], _tints(rows)
    shown = [row for row in rows if measure in row.values]
    width, size = (NARROW, 8.0) if narrow else (WIDE, 9.5)
    names = [wrapped(row.name, 0.35 * 72 * width, size) for row in reversed(shown)]
    inches = 0.34 + 0.16 * max((name.count("\n") for name in names), default=0)  # from one cell to the next
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.7 + inches * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(reversed(shown)):
            value = row.values[measure]
            axes.errorbar(
                value.mean * said.scale, place, xerr=_bars(value, said.scale), fmt="|", color=tints[row.name],
                markersize=13, elinewidth=2, capsize=0,
            )  # fmt: skip
            if value.std is not None:
                dots = [each * said.scale for each in value.by_seed]
                axes.plot(dots, [place] * len(dots), "o", color=tints[row.name], markersize=4.5, alpha=0.75)
        axes.set_yticks(range(len(shown)), names, fontsize=size)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(color=GRID, linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(said.heading)
        title(axes, f"{said.heading.capitalize()} of every cell", "how much of it is the seed's", narrow)
        style: dict[str, Any] = {"color": SOFT, "linestyle": "none"}
        legend(
            figure,
            [
                Line2D([], [], marker="o", markersize=5, label="one seed", **style),
                Line2D([], [], marker="|", markersize=12, label="mean over seeds", **style),
                Line2D([], [], color=SOFT, linewidth=2, label=f"its {100 * confidence:g} % interval"),
            ],
            columns=1 if narrow else 3,
        )
    return figure


def histograms(rows: Sequence[CellRow], *, unit: str, narrow: bool = False) -> Figure:
    """Each cell's rewards, all seeds together, over those of what it is measured against: one axis for all panels."""
    by_name = {row.name: row for row in rows}
    cells = [row for row in rows if row.reference is not None and row.rewards and by_name[row.reference].rewards]
    every = np.concatenate([np.asarray(row.rewards) for row in rows if row.rewards])
    fewest = min(len(row.rewards) for row in rows if row.rewards)
    edges = np.linspace(every.min() - 0.1, every.max() + 0.1, 1 + min(math.ceil(2 * fewest ** (1 / 3)), 60))
    columns = 1 if narrow else min(PANELS, len(cells))
    lines = math.ceil(len(cells) / columns)
    width = NARROW if narrow else WIDE
    names = [wrapped(row.name, 0.85 * 72 * width / columns, 9) for row in cells]
    inches = 1.55 + 0.15 * max((name.count("\n") for name in names), default=0)  # from one line of panels to the next
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.3 + inches * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, row, name in zip(panels.flat, cells, names, strict=False):
            _stairs(axes, by_name[row.reference or ""].rewards, edges, BEFORE)
            _stairs(axes, row.rewards, edges, PALETTE[0])
            axes.set_title(name, fontsize=9, pad=4)
        for axes in panels.flat[len(cells) :]:
            axes.set_axis_off()
        panels[0, 0].set_ylabel("share (%)", fontsize=9)
        for column in range(columns):
            lowest = panels[(len(cells) - 1 - column) // columns, column]
            lowest.set_xlabel(f"gold reward ({unit})", fontsize=9)
            lowest.tick_params(labelbottom=True)
        figure.suptitle(
            "Rewards before and after: further right is better", fontsize=10.5 if narrow else 12, x=0.02, ha="left"
        )
        before = Line2D([], [], color=BEFORE, linewidth=2, label="before tuning or unguided; dashed: means")
        legend(
            figure,
            [before, Line2D([], [], color=PALETTE[0], linewidth=2, label="the cell")],
            columns=1 if narrow else 2,
        )
    return figure


def _stairs(
    axes: Axes, rewards: Sequence[float], edges: "np.ndarray[tuple[int], np.dtype[np.float64]]", colour: str
) -> None:
    shares = 100 * np.histogram(rewards, edges)[0] / len(rewards)
    axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3)
    axes.stairs(shares, edges, color=colour, linewidth=1.5)
    axes.axvline(float(np.mean(rewards)), color=colour, linewidth=1.2, linestyle=DASHED)


def _place(row: CellRow) -> tuple[Value, Value]:
    return row.values["diversity"], row.values["reward"]


def _tints(rows: Sequence[CellRow]) -> Mapping[str, str]:
    cells = colours([row.name for row in rows if row.labels])
    return {row.name: cells.get(row.name, TEXT) for row in rows}


def _bars(value: Value, scale: float = 1.0) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[scale * max(value.mean - value.low, 0.0)], [scale * max(value.high - value.mean, 0.0)]]
