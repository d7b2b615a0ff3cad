"""The figures: rewards of all decoders on one axis, reward against cost, and rewards before and after tuning.

Each function returns a figure that needs no caption; `save` writes it as PNG and SVG with the same bytes every time.
Figures are drawn without pyplot, so they leave no global state. Knows nothing of pages.

    >>> figure = before_after([0.0, 1.0], [1.0, 2.0], unit="nats")
    >>> figure.axes[0].get_xlabel()
    'gold reward (nats)'
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trimtab.evaluation.evaluate import Row
from trimtab.report.labels import place_labels

# Paul Tol's "muted" scheme, told apart under all common kinds of colour blindness; decoders are also named in place.
PALETTE = ("#332288", "#117733", "#CC6677", "#44AA99", "#882255", "#999933", "#AA4499", "#3377AA", "#DD7733", "#666666")
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "trimtab",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
}


def colours(decoders: Sequence[str]) -> dict[str, str]:
    """A colour for each decoder by its place in the experiment, so that all figures of a run agree."""
    return {decoder: PALETTE[place % len(PALETTE)] for place, decoder in enumerate(decoders)}


def ink(colour: str) -> str:
    """The colour darkened so that text in it is easy to read on white."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return matplotlib.colors.to_hex((0.68 * red, 0.68 * green, 0.68 * blue))


def reward_distributions(rewards_by_decoder: Mapping[str, Sequence[float]], *, unit: str) -> Figure:
    """One smoothed density for each decoder, one above the other on a shared reward axis, with their means.

    Densities are Gaussian kernel estimates at Scott's bandwidth; all have the same area.
    """
    rewards = {name: finite for name, values in rewards_by_decoder.items() if len(finite := _finite(values))}
    lowest = min(values.min() for values in rewards.values())
    highest = max(values.max() for values in rewards.values())
    margin = 0.15 * (highest - lowest) + 0.2
    grid = np.linspace(lowest - margin, highest + margin, 200)
    curves = {name: density(values, grid) for name, values in rewards.items()}
    tallest = max(curve.max() for curve in curves.values())
    tints = colours(list(rewards_by_decoder))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.62 * len(rewards)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="0.6", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        top = 0.0
        for place, (name, values) in enumerate(rewards.items()):
            floor, heights = float(len(rewards) - 1 - place), 1.45 * curves[name] / tallest
            top = max(top, floor + float(heights.max()))
            _ridge(axes, grid, heights, floor, values, tints[name], order=2 * place + 1)
        axes.set_yticks(range(len(rewards) - 1, -1, -1), list(rewards))
        for label, name in zip(axes.get_yticklabels(), rewards, strict=True):
            label.set_color(ink(tints[name]))
            label.set_fontweight("bold")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(-0.12, top + 0.1)
        axes.set_xlabel(f"gold reward ({unit}); white line and number: mean; dashed: neutral")
        axes.set_title("Gold reward of each decoder's responses")
    return figure


def _ridge(
    axes: Axes,
    grid: NDArray[np.float64],
    heights: NDArray[np.float64],
    floor: float,
    values: NDArray[np.float64],
    colour: str,
    order: int,
) -> None:
    """One density standing on `floor`, its mean marked and written at the right edge."""
    mean = float(values.mean())
    axes.fill_between(grid, floor, floor + heights, color=colour, alpha=0.8, linewidth=0, zorder=order)
    axes.plot(grid, floor + heights, color="white", linewidth=1.2, zorder=order)
    axes.hlines(floor, grid[0], grid[-1], color=colour, linewidth=0.8, zorder=order)
    top = floor + float(np.interp(mean, grid, heights))
    axes.vlines(mean, floor, top, color="white", linewidth=2, zorder=order + 1)
    axes.annotate(
        f"{mean:z.2f}", (1.01, floor), xycoords=("axes fraction", "data"), color=ink(colour), weight="bold", va="bottom"
    )


def density(values: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian kernel density of `values` at `grid`, bandwidth s n^(-1/5) (Scott 1992).

    s is the standard deviation, held above 2 % of the grid's width so that equal values show as a narrow peak.
    """
    spread = max(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 0.02 * float(grid[-1] - grid[0]))
    bandwidth = spread * len(values) ** -0.2
    distances = (grid[:, None] - values[None, :]) / bandwidth
    heights: NDArray[np.float64] = np.exp(-0.5 * distances**2).mean(axis=1) / (bandwidth * np.sqrt(2 * np.pi))
    return heights


def reward_against_cost(rows: Sequence[Row], *, unit: str) -> Figure:
    """Mean gold reward with its interval against model FLOPs for one prompt; a marker shape for each model."""
    tints = colours([row.decoder for row in rows])
    models = list(dict.fromkeys(row.model for row in rows))
    shown = [row for row in rows if row.flops > 0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for row in shown:
            marker = MARKERS[models.index(row.model) % len(MARKERS)]
            bars = [[row.reward - row.reward_low], [row.reward_high - row.reward]]
            axes.errorbar(
                row.flops / 1e12, row.reward, yerr=bars, fmt=marker, color=tints[row.decoder], markersize=8, capsize=3
            )
        for place, model in enumerate(models):
            axes.plot([], [], MARKERS[place % len(MARKERS)], color="0.35", markersize=8, label=model)
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("model arithmetic for one prompt (TFLOP, all models together, log scale)")
        axes.set_ylabel(f"mean gold reward ({unit}), with interval")
        axes.set_title("Gold reward against cost")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        figure.legend(loc="outside lower left", frameon=False, ncols=1)
        place_labels(
            figure,
            axes,
            [(row.decoder, row.flops / 1e12, row.reward, ink(tints[row.decoder])) for row in shown],
            [(row.flops / 1e12, row.reward_low, row.reward_high) for row in shown],
        )
    return figure


def before_after(
    untuned: Sequence[float], tuned: Sequence[float], *, unit: str, tints: tuple[str, str] = (PALETTE[8], PALETTE[0])
) -> Figure:
    """Histograms of the small model's gold rewards before and after tuning, in the same bins; dashed: the means.

    The number of bins is 2 n^(1/3) (the Rice rule), n the smaller number of rewards.
    """
    before, after = _finite(untuned), _finite(tuned)
    every = np.concatenate([before, after])
    edges = np.linspace(
        every.min() - 0.1, every.max() + 0.1, 1 + math.ceil(2 * min(len(before), len(after)) ** (1 / 3))
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for name, values, colour in (("untuned", before, tints[0]), ("tuned", after, tints[1])):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(shares, edges, color=colour, linewidth=2, label=f"{name}: mean {values.mean():z.2f}")
            axes.axvline(float(values.mean()), color=colour, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.margins(x=0.01)
        figure.legend(loc="outside lower left", frameon=False, ncols=2)
        axes.set_xlabel(f"gold reward ({unit})")
        axes.set_ylabel("share of responses (%)")
        axes.set_title("Gold reward of the small model before and after tuning")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` (150 dots an inch) and `<name>.svg` into `folder`, without dates or random ids."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
