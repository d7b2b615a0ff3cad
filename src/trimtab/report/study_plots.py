"""A study's figures: reward against diversity with the frontier named, every seed, and rewards before and after.

Each function returns a figure that needs no caption, for a laptop or, with `narrow`, for a phone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trimtab.evaluation.cells import CellRow, Value
from trimtab.report.figure_text import LEGEND_LINE, Point, label_points, numbered, wrapped
from trimtab.report.palette import GRID, PALETTE, SOFT, STYLE, TEXT, colours, ink
from trimtab.report.plots import DASHED, NARROW, WIDE, bin_edges, histogram, legend, title
from trimtab.report.study_tables import MEASURES

MAX_PANELS = 3  # histograms side by side on a laptop
MAX_BINS = 60


def frontier(rows: Sequence[CellRow], *, unit: str, narrow: bool = False) -> Figure:
    """Mean reward against diversity, with the standard deviation between seeds.

    Named are cells that no other beats in both, which a line joins, and the references (untuned or unguided models).
    """
    tints, points = _tints(rows), {row.name: (row.values["diversity"], row.values["reward"]) for row in rows}
    named = {row.name for row in rows if row.frontier or not row.labels}
    width, height = (NARROW, 4.6) if narrow else (WIDE, 6.2)
    labels, numbers = numbered(
        [Point(name, x.mean, y.mean, ink(tints[name])) for name, (x, y) in points.items() if name in named], width
    )
    lines = sum(1 + str(number.get_label()).count("\n") for number in numbers)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + LEGEND_LINE * lines), layout="constrained")
        axes = figure.add_subplot()
        best = sorted((points[row.name] for row in rows if row.frontier), key=lambda point: point[0].mean)
        line = [x.mean for x, _ in best], [y.mean for _, y in best]
        axes.plot(*line, color=SOFT, linewidth=1, linestyle=DASHED, zorder=1)
        for row in rows:
            (x, y), colour, filled = points[row.name], tints[row.name], row.name in named
            axes.errorbar(
                x.mean,
                y.mean,
                xerr=x.std,
                yerr=y.std,
                fmt="o" if row.labels else "s",
                color=colour,
                markersize=8 if filled else 5.5,
                capsize=2,
                elinewidth=1,
                markerfacecolor=colour if filled else "none",
            )
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("diversity: entropy of tokens (nats)")
        axes.set_ylabel(f"mean gold reward ({unit})")
        title(axes, "Reward against diversity", "higher is better, further right keeps more", narrow)
        style: dict[str, Any] = {"color": SOFT, "linestyle": "none", "markersize": 7}
        handles = [
            Line2D([], [], marker="o", label="on the frontier", **style),
            Line2D([], [], marker="o", markerfacecolor="none", label="beaten in both by another", **style),
            Line2D([], [], marker="s", label="before tuning or unguided", **style),
            Line2D([], [], marker="+", label="standard deviation between seeds", **style),
        ]
        legend(figure, [*handles, *numbers], columns=1 if narrow or numbers else 2)
        label_points(figure, axes, labels, [(x.mean, y.mean) for x, y in points.values()])
    return figure


def seeds(rows: Sequence[CellRow], measure: str, *, confidence: float, narrow: bool = False) -> Figure:
    """A measure of every cell: a dot for each seed, the mean, and its interval."""
    heading, scale = MEASURES[measure].heading, MEASURES[measure].scale
    tints, measured = _tints(rows), [row for row in reversed(rows) if measure in row.values]
    width, size = (NARROW, 8.0) if narrow else (WIDE, 9.5)
    names = [wrapped(row.name, 0.35 * 72 * width, size) for row in measured]
    inches = 0.34 + 0.16 * max((name.count("\n") for name in names), default=0)  # from one cell to the next
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.7 + inches * len(measured)), layout="constrained")
        axes = figure.add_subplot()
        for height, row in enumerate(measured):
            value, colour = row.values[measure], tints[row.name]
            axes.errorbar(
                value.mean * scale,
                height,
                xerr=_bars(value, scale),
                fmt="|",
                color=colour,
                markersize=13,
                elinewidth=2,
                capsize=0,
            )
            if value.std is not None:
                dots = [mean * scale for mean in value.by_seed]
                axes.plot(dots, [height] * len(dots), "o", color=colour, markersize=4.5, alpha=0.75)
        axes.set_yticks(range(len(measured)), names, fontsize=size)
        axes.set_ylim(-0.6, len(measured) - 0.4)
        axes.grid(color=GRID, linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(heading)
        title(axes, f"{heading.capitalize()} of every cell", "how much of it is the seed's", narrow)
        handles = [
            Line2D([], [], color=SOFT, linestyle="none", marker="o", markersize=5, label="one seed"),
            Line2D([], [], color=SOFT, linestyle="none", marker="|", markersize=12, label="mean over seeds"),
            Line2D([], [], color=SOFT, linewidth=2, label=f"its {100 * confidence:g} % interval"),
        ]
        legend(figure, handles, columns=1 if narrow else 3)
    return figure


def histograms(rows: Sequence[CellRow], *, unit: str, narrow: bool = False) -> Figure:
    """Each cell's rewards of all seeds, drawn over those of its reference; all panels have the same axis."""
    rewards = {row.name: np.asarray(row.rewards) for row in rows if row.rewards}
    cells = [row for row in rows if row.name in rewards and row.reference in rewards]
    edges = bin_edges(list(rewards.values()), MAX_BINS)
    columns = 1 if narrow else min(MAX_PANELS, len(cells))
    lines = math.ceil(len(cells) / columns)
    width = NARROW if narrow else WIDE
    names = [wrapped(row.name, 0.85 * 72 * width / columns, 9) for row in cells]
    inches = 1.55 + 0.15 * max((name.count("\n") for name in names), default=0)  # from one line of panels to the next
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.3 + inches * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, row, name in zip(panels.flat, cells, names, strict=False):
            histogram(axes, rewards[row.reference or ""], edges, SOFT)
            histogram(axes, rewards[row.name], edges, PALETTE[0])
            axes.set_title(name, fontsize=9, pad=4)
        for axes in panels.flat[len(cells) :]:
            axes.set_axis_off()
        panels[0, 0].set_ylabel("share (%)", fontsize=9)
        for column in range(columns):
            lowest = panels[(len(cells) - 1 - column) // columns, column]
            lowest.set_xlabel(f"gold reward ({unit})", fontsize=9)
            lowest.tick_params(labelbottom=True)
        heading = "Rewards before and after: further right is better"
        figure.suptitle(heading, fontsize=10.5 if narrow else 12, x=0.02, ha="left")
        handles = [
            Line2D([], [], color=SOFT, linewidth=2, label="before tuning or unguided; dashed: means"),
            Line2D([], [], color=PALETTE[0], linewidth=2, label="the cell"),
        ]
        legend(figure, handles, columns=1 if narrow else 2)
    return figure


def _tints(rows: Sequence[CellRow]) -> Mapping[str, str]:
    cells = colours([row.name for row in rows if row.labels])
    return {row.name: cells.get(row.name, TEXT) for row in rows}


def _bars(value: Value, scale: float) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[scale * max(value.mean - value.low, 0.0)], [scale * max(value.high - value.mean, 0.0)]]
