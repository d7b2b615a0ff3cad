"""A run's figures: rewards of all decoders on one axis, reward against cost, and rewards before and after tuning.

Each function returns a figure that needs no caption, for a laptop or, with `narrow`, for a phone; `save` writes it as
PNG and SVG with the same bytes every time.

    >>> figure = before_after([0.0, 1.0], [1.0, 2.0], unit="nats")
    >>> figure.axes[0].get_xlabel()
    'gold reward of a response (nats)'
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from trimtab.evaluation.evaluate import Row
from trimtab.evaluation.metrics import Estimate
from trimtab.report.figure_text import LEGEND_LINE, Point, label_points, numbered, width_of, wrapped
from trimtab.report.palette import CARD, GRID, PALETTE, SOFT, STYLE, TEXT, colours, ink
from trimtab.report.wording import short_names

Floats = NDArray[np.float64]
MARKERS = "osD^vP"
DASHED = (0, (4, 3))
WIDE, NARROW = 8.0, 3.7  # inches; a phone shows 3.7 inches at about their own size, so that text stays legible


def reward_distributions(
    rewards_by_decoder: Mapping[str, Sequence[float]], *, unit: str, zero: bool = False, narrow: bool = False
) -> Figure:
    """One smoothed density for each decoder, one above the other on a shared reward axis, with their means.

    Densities are Gaussian kernel estimates at Scott's bandwidth; all have the same area. With `zero`, where 0 has a
    meaning, it is marked.
    """
    rewards = {name: finite for name, values in rewards_by_decoder.items() if len(finite := _finite(values))}
    lowest = min(values.min() for values in rewards.values())
    highest = max(values.max() for values in rewards.values())
    margin = 0.15 * (highest - lowest) + 0.2
    grid = np.linspace(lowest - margin, highest + margin, 200)
    curves = {name: density(values, grid) for name, values in rewards.items()}
    tallest = max(curve.max() for curve in curves.values())
    tints = colours(list(rewards_by_decoder))
    width = NARROW if narrow else WIDE
    above = narrow or any(width_of(name, weight="bold") > 0.25 * 72 * width for name in rewards)
    names = {name: wrapped(name, 0.72 * 72 * width, weight="bold") if above else name for name in rewards}
    inches = 0.66 + 0.17 * max(name.count("\n") for name in names.values())  # from one density to the next
    strip = 0.66 * 0.66 / inches  # the height of a density that has its name above it
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.6 + inches * len(rewards)), layout="constrained")
        axes = figure.add_subplot()
        if zero:
            axes.axvline(0, color=SOFT, linewidth=1, linestyle=DASHED, zorder=0)
        top = 0.0
        for index, (name, values) in enumerate(rewards.items()):
            floor, heights = float(len(rewards) - 1 - index), (0.94 * strip if above else 0.95) * curves[name] / tallest
            top = max(top, floor + (1.0 if above else 0.1 + float(heights.max())))
            axes.fill_between(grid, floor, floor + heights, color=tints[name], alpha=0.8, linewidth=0)
            axes.hlines(floor, grid[0], grid[-1], color=tints[name], linewidth=0.8)
            axes.plot([float(values.mean())], [floor], "o", color=TEXT, markeredgecolor=CARD, markersize=7)
            _name_density(axes, names[name], floor, values, ink(tints[name]), floor + strip if above else None)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(-0.15, top)
        axes.set_xlabel(f"gold reward of a response ({unit})")
        title(axes, "Gold reward of each decoder's responses", "further right is better", narrow)
        dot: dict[str, Any] = {"marker": "o", "markeredgecolor": CARD, "markersize": 7, "linestyle": "none"}
        handles = [Line2D([], [], color=TEXT, label="mean (dot, number)", **dot)]
        if zero:
            handles.append(Line2D([], [], color=SOFT, linewidth=1, linestyle=DASHED, label="0: neutral"))
        legend(figure, handles, columns=2)
    return figure


def _name_density(axes: Axes, name: str, floor: float, values: Floats, colour: str, above: float | None) -> None:
    """The decoder's name and mean: beside the density where there is room, else at the height `above` it."""
    left, right, height = (-0.01, 1.01, floor) if above is None else (0.0, 1.0, above)
    for text, across, edge in ((name, left, "left"), (f"{values.mean():z.2f}", right, "right")):
        axes.annotate(
            text,
            (across, height),
            xycoords=("axes fraction", "data"),
            color=colour,
            weight="bold",
            ha="right" if (edge == "right") == (above is not None) else "left",
            va="bottom",
            annotation_clip=False,
        )


def title(axes: Axes, what: str, rest: str, narrow: bool) -> None:
    """The title and how to read the figure, on two lines where one has no room."""
    axes.set_title(f"{what}:\n{rest}" if narrow else f"{what}: {rest}", fontsize=10.5 if narrow else 12)


def legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """What the marks mean, below the axes."""
    # labels are passed apart: by itself matplotlib leaves out those that begin with an underscore
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(handles, labels, loc="outside lower left", frameon=False, ncols=columns)


def density(values: Floats, grid: Floats) -> Floats:
    """Gaussian kernel density of `values` at `grid`, bandwidth s n^(-1/5) (Scott 1992).

    s is the standard deviation, held above 2 % of the grid's width so that equal values show as a narrow peak.
    """
    spread = max(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 0.02 * float(grid[-1] - grid[0]))
    bandwidth = spread * len(values) ** -0.2
    distances = (grid[:, None] - values[None, :]) / bandwidth
    heights: Floats = np.exp(-0.5 * distances**2).mean(axis=1) / (bandwidth * np.sqrt(2 * np.pi))
    return heights


def reward_against_cost(rows: Sequence[Row], *, unit: str, confidence: float, narrow: bool = False) -> Figure:
    """Mean gold reward with its interval against model FLOPs for one prompt; a marker shape for each model."""
    heights = {row.decoder: Estimate(row.reward, row.reward_low, row.reward_high) for row in rows}
    words = "Gold reward against cost", "higher is better, further left is cheaper", f"mean gold reward ({unit})"
    return _against_cost(rows, heights, {}, words, confidence, narrow)


def gain_against_cost(
    rows: Sequence[Row], before: Mapping[str, str], *, unit: str, confidence: float, narrow: bool = False
) -> Figure:
    """Gains over the same model unguided against model FLOPs for one prompt, so that gains at equal FLOPs stand above
    each other.

    `before`: decoder -> the one that searches alike with less arithmetic, or the unguided one, which has gain 0. A line
    joins the two.
    """
    heights = dict.fromkeys(before.values(), Estimate(0.0, 0.0, 0.0))
    for row in rows:
        if row.decoder in before:
            assert row.gain is not None and row.gain_low is not None and row.gain_high is not None
            heights[row.decoder] = Estimate(row.gain, row.gain_low, row.gain_high)
    words = "Gain at equal FLOPs", "compare straight up and down", f"gain over unguided ({unit})"
    return _against_cost(rows, heights, before, words, confidence, narrow)


def _against_cost(
    rows: Sequence[Row],
    heights: Mapping[str, Estimate],
    before: Mapping[str, str],
    words: tuple[str, str, str],
    confidence: float,
    narrow: bool,
) -> Figure:
    """A point with its interval for each decoder that has a height and a cost; `words`: title, what is better, y-axis.

    `before`: decoder -> the one that a line joins it with.
    """
    tints = colours([row.decoder for row in rows])
    costed = [row for row in rows if row.flops > 0 and row.decoder in heights]
    models = short_names(row.model for row in costed)
    markers = {model: MARKERS[index % len(MARKERS)] for index, model in enumerate(models)}
    place = {row.decoder: (row.flops / 1e12, heights[row.decoder].mean) for row in costed}
    width, height = (NARROW, 4.6) if narrow else (WIDE, 5.0)
    points = [Point(name, *xy, ink(tints[name])) for name, xy in place.items()]
    points, numbers = numbered(points, width)
    labels = {model: wrapped(short, 0.8 * 72 * width) for model, short in models.items()}
    long = bool(numbers) or any(width_of(label) > 0.35 * 72 * width for label in labels.values())
    entries = sum(1 + str(number.get_label()).count("\n") for number in numbers)
    entries += sum(label.count("\n") for label in labels.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + LEGEND_LINE * entries), layout="constrained")
        axes = figure.add_subplot()
        for name, other in before.items():
            if not {name, other} <= place.keys():
                continue  # what an endpoint computes is not known
            axes.plot(*zip(place[other], place[name], strict=True), color=SOFT, linewidth=1, linestyle=DASHED, zorder=1)
        for row in costed:
            (x, y), (_, low, high) = place[row.decoder], heights[row.decoder]
            marker, colour = markers[row.model], tints[row.decoder]
            axes.errorbar(
                x, y, [[max(y - low, 0)], [max(high - y, 0)]], fmt=marker, color=colour, markersize=8, capsize=3
            )
        _cost_axis(axes, [x for x, _ in place.values()])
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(y=0.1)
        axes.set_xlabel("arithmetic for one prompt (TFLOP, log scale)")
        axes.set_ylabel(words[2])
        title(axes, words[0], words[1], narrow)
        style: dict[str, Any] = {"color": SOFT, "linestyle": "none", "markersize": 8}
        handles = [Line2D([], [], marker=markers[model], label=label, **style) for model, label in labels.items()]
        handles.append(Line2D([], [], marker="|", label=f"{100 * confidence:g} % interval of the mean", **style))
        if before:
            handles.append(Line2D([], [], color=SOFT, linewidth=1, linestyle=DASHED, label="more of one search"))
        legend(figure, [*handles, *numbers], columns=1 if narrow or long else 2)
        label_points(figure, axes, points)
    return figure


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """A logarithmic axis that shows some numbers for any range of costs."""
    axes.set_xscale("log")
    if costs:
        room = max(1.6, (max(costs) / min(costs)) ** 0.15)  # so that at least one of 1, 2 and 5 is inside
        axes.set_xlim(min(costs) / room, max(costs) * room)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(costs) < 150 * min(costs) else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def before_after(
    untuned: Sequence[float],
    tuned: Sequence[float],
    *,
    unit: str,
    tints: tuple[str, str] = (PALETTE[8], PALETTE[0]),
    narrow: bool = False,
) -> Figure:
    """Histograms of the small model's gold rewards before and after tuning, in the same bins; dashed: the means.

    The number of bins is 2 n^(1/3) (the Rice rule), n the smaller number of rewards.
    """
    before, after = _finite(untuned), _finite(tuned)
    edges = bin_edges([before, after])
    handles = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(NARROW, 3.8) if narrow else (WIDE, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for name, values, colour in (("untuned", before, tints[0]), ("tuned", after, tints[1])):
            histogram(axes, values, edges, colour)
            handles += [
                Line2D([], [], color=colour, linewidth=2, label=name),
                Line2D([], [], color=colour, linestyle=DASHED, label=f"its mean, {values.mean():z.2f}"),
            ]
        axes.margins(x=0.01)
        legend(figure, handles, columns=2)
        axes.set_xlabel(f"gold reward of a response ({unit})")
        axes.set_ylabel("share of responses (%)")
        title(axes, "The small model before and after tuning", "further right is better", narrow)
    return figure


def bin_edges(groups: Sequence[Floats], most: int | None = None) -> Floats:
    """Edges of 2 n^(1/3) bins (the Rice rule), at most `most`, over all groups; n is the smallest group's size."""
    lowest, highest = min(values.min() for values in groups), max(values.max() for values in groups)
    bins = math.ceil(2 * min(map(len, groups)) ** (1 / 3))
    return np.linspace(lowest - 0.1, highest + 0.1, 1 + min(bins, most or bins))


def histogram(axes: Axes, values: Floats, edges: Floats, colour: str) -> None:
    """Shares in percent, with a dashed line at the mean."""
    shares = 100 * np.histogram(values, edges)[0] / len(values)
    axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35)
    axes.stairs(shares, edges, color=colour, linewidth=1.5)
    axes.axvline(float(values.mean()), color=colour, linewidth=1.5, linestyle=DASHED)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` (150 dots an inch) and `<name>.svg` into `folder`, without dates or random ids."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    (folder / f"{name}.svg").write_text(svg(figure), encoding="utf-8")


def svg(figure: Figure) -> str:
    """The figure as an SVG file without dates or random ids."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _finite(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
