"""The figures: the same bytes each time, every decoder named, no label over another, densities that are densities."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from tiny_report import long_name, reference, row, run
from tiny_study_report import row as cell
from tiny_study_report import value
from trimtab.evaluation.evaluate import Row
from trimtab.report import palette, plots, study_plots
from trimtab.report.page import _cheaper

REWARDS = {f"decoder-{place}": np.random.default_rng(place).normal(place / 3, 1, 60).tolist() for place in range(10)}


def crowd():
    """Ten decoders of two models, whose points nearly coincide in threes."""
    names = [field.name for field in dataclasses.fields(Row)]
    rows = []
    for place in range(10):
        reward = 1 + 0.004 * place
        values = {"decoder": f"decoder-{place}", "model": "small" if place % 2 else "large"}
        values |= {"reward": reward, "reward_low": reward - 0.2, "reward_high": reward + 0.2}
        values |= {"flops": 1e11 * 4 ** (place // 3) * (1 + place / 50)}
        rows.append(Row(**{**dict.fromkeys(names), **values}))
    return rows


def cost(rows, narrow=False):
    return plots.reward_against_cost(rows, unit="nats", confidence=0.95, narrow=narrow)


def gain(rows, narrow=False):
    """The first of each model unguided, the others one method with more and more arithmetic."""
    before = {row.decoder: rows[place - 2].decoder for place, row in enumerate(rows) if place > 1}
    rows = [
        dataclasses.replace(row, gain=row.reward, gain_low=row.reward - 1, gain_high=row.reward + 1) for row in rows
    ]
    return plots.gain_against_cost(rows, before, unit="nats", confidence=0.95, narrow=narrow)


LONG = {
    long_name(f"decoder-{place}", 80) if place else "M" * 80: values for place, values in enumerate(REWARDS.values())
}


def long_crowd():
    """The same with names of 80 characters and models of 96."""
    models = {"small": long_name("small", 96), "large": long_name("large", 96)}
    return [
        dataclasses.replace(row, decoder=name, model=models[row.model]) for row, name in zip(crowd(), LONG, strict=True)
    ]


DRAW = {
    "long distributions": lambda narrow: plots.reward_distributions(LONG, unit="nats", zero=True, narrow=narrow),
    "long cost": lambda narrow: cost(long_crowd(), narrow),
    "long gain": lambda narrow: gain(long_crowd(), narrow),
    "gain": lambda narrow: gain(crowd(), narrow),
    "distributions": lambda narrow: plots.reward_distributions(REWARDS, unit="nats", zero=True, narrow=narrow),
    "cost": lambda narrow: cost(crowd(), narrow),
    "before-after": lambda narrow: plots.before_after(
        REWARDS["decoder-0"], REWARDS["decoder-5"], unit="nats", narrow=narrow
    ),
}
FIGURES = {name: functools.partial(draw, False) for name, draw in DRAW.items()}
NARROW = {f"{name}, narrow": functools.partial(draw, True) for name, draw in DRAW.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_the_same_bytes_twice_and_no_date(name, tmp_path):
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        plots.save(FIGURES[name](), tmp_path / turn, name)
    for file in (f"{name}.png", f"{name}.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert "dc:date" not in (tmp_path / "one" / f"{name}.svg").read_text()


@pytest.mark.parametrize("draw", [*FIGURES.values(), *NARROW.values()], ids=[*FIGURES, *NARROW])
def test_a_figure_has_a_title_and_a_named_axis_with_its_unit(draw):
    axes = draw().axes[0]
    assert axes.get_title(loc="left")
    assert "nats" in axes.get_xlabel() + axes.get_ylabel()


@pytest.mark.parametrize("draw", [*FIGURES.values(), *NARROW.values()], ids=[*FIGURES, *NARROW])
def test_no_text_of_a_figure_is_cut_off_at_its_edge(draw):
    figure = draw()
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # in inches, of everything that is drawn
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.005 and drawn.y0 >= -0.005 and drawn.x1 <= width + 0.005 and drawn.y1 <= height + 0.005


@pytest.mark.parametrize("draw", [*FIGURES.values(), *NARROW.values()], ids=[*FIGURES, *NARROW])
def test_a_legend_says_what_every_mark_is(draw):
    (legend,) = draw().legends
    said = " ".join(text.get_text() for text in legend.get_texts())
    assert "mean" in said
    assert ("neutral" in said) or ("95 % interval" in said and "large" in said) or ("tuned" in said)


@pytest.mark.parametrize("narrow", [False, True])
def test_every_decoder_is_named_with_its_mean(narrow):
    axes = plots.reward_distributions(REWARDS, unit="nats", zero=True, narrow=narrow).axes[0]
    means = [f"{np.mean(values):z.2f}" for values in REWARDS.values()]
    assert [text.get_text() for text in axes.texts] == list(itertools.chain(*zip(REWARDS, means, strict=True)))


@pytest.mark.parametrize(
    "narrow, names", [(True, ("flat", "steep")), (True, ("M" * 80, "W" * 80)), (False, ("M" * 80, "W"))]
)
def test_names_above_densities_stand_over_none_and_over_no_other_name(narrow, names):
    rewards = dict(zip(names, ([-3.0, 3.0], [2.0, 2.01, 2.02]), strict=True))
    figure = plots.reward_distributions(rewards, unit="nats", narrow=narrow)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    first, second = (Text.get_window_extent(text) for text in axes.texts[::2])
    assert second.y1 <= first.y0 and first.y1 <= Text.get_window_extent(axes._left_title).y0
    for density, text in zip(axes.collections[::2], axes.texts[::2], strict=True):
        top = axes.transData.transform(density.get_paths()[0].vertices)[:, 1].max()
        assert Text.get_window_extent(text).y0 >= top


def frontier(narrow=False):
    """Six of ten cells on the frontier, whose points and numbers are those of the crowd of decoders."""
    cells = [
        cell(f"cell-{place}", value(row.reward, 0.05), value(np.log(row.flops)), {"axis": "x"}, frontier=place > 3)
        for place, row in enumerate(crowd())
    ]
    return study_plots.frontier(cells, unit="nats", narrow=narrow)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "draw", [lambda narrow: cost(crowd(), narrow), lambda narrow: cost(long_crowd(), narrow), frontier]
)
def test_labels_cover_neither_one_another_nor_the_points(draw, narrow):
    figure = draw(narrow)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.texts]
    inside = axes.get_window_extent()
    assert len(boxes) == (6 if draw is frontier else 10)
    assert all(inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    marks = [line for line in axes.lines if line.get_marker() in tuple(plots.MARKERS)]
    places = np.concatenate([axes.transData.transform(line.get_xydata()) for line in marks])
    assert len(places) == 10
    assert not any(box.contains(x, y) for box in boxes for x, y in places)


@pytest.mark.parametrize("narrow", [False, True])
def test_labels_name_every_decoder(narrow):
    assert [label.get_text() for label in cost(crowd(), narrow).axes[0].texts] == [each.decoder for each in crowd()]


def test_a_figure_without_points_has_no_labels():
    assert not cost([dataclasses.replace(row, flops=0.0) for row in crowd()]).axes[0].texts


@pytest.mark.parametrize("ratio", [1, 1.2, 3, 40, 1e4, 1e7])
def test_the_cost_axis_has_numbers_that_do_not_run_into_one_another(ratio):
    rows = [
        dataclasses.replace(row, flops=flops) for row, flops in zip(crowd(), (1.3e10, 1.3e10 * ratio), strict=False)
    ]
    for narrow in (False, True):
        figure = cost(rows, narrow)
        figure.draw_without_rendering()
        axes = figure.axes[0]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = sorted((tick.label1.get_window_extent() for tick in ticks), key=lambda box: box.x0)
        assert boxes
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_zero_is_marked_only_where_it_means_something():
    axes, unmarked = (plots.reward_distributions(REWARDS, unit="points", zero=zero) for zero in (True, False))
    assert "neutral" in legend_of(axes) and "neutral" not in legend_of(unmarked)
    assert len(axes.axes[0].lines) == len(unmarked.axes[0].lines) + 1


def test_gains_stand_above_their_arithmetic_and_an_unguided_decoder_at_0():
    rows = crowd()
    figure = gain(rows)
    points = {tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if len(line.get_xydata()) == 1}
    assert points >= {(rows[0].flops / 1e12, 0.0), (rows[4].flops / 1e12, rows[4].reward)}
    joined = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert joined[0] == [[rows[0].flops / 1e12, 0.0], [rows[2].flops / 1e12, rows[2].reward]]


def test_decoders_that_search_alike_are_one_line_and_the_gold_pick_is_none():
    settings = run(
        {}, {"successors": 16}, {"successors": 4}, {"best_of": "bon-16"}, {"width": 2, "successors": 2, "chunk": 5},
        {"successors": 2, "value": "reward", "name": "by-gold"},
    )  # fmt: skip
    rows = [
        reference(), row("bon-16", flops=6e11), row("bon-4", flops=2e11), row("gold-bon-16"), row("cbs-2-2-5"),
        row("by-gold"),
    ]  # fmt: skip
    assert _cheaper(settings.guide, rows) == {"bon-4": "base", "cbs-2-2-5": "base", "bon-16": "bon-4"}


def legend_of(figure):
    return " ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_names_are_taken_literally(tmp_path):
    names = {"$x$": [1.0, 2.0], "$\\frac$": [0.0, 1.0]}
    rows = [dataclasses.replace(row, model=model) for row, model in zip(crowd(), ["_hidden", "$y$"], strict=False)]
    plots.save(plots.reward_distributions(names, unit="nats"), tmp_path, "names")
    (legend,) = cost(rows).legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["_hidden", "$y$"]


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def test_text_can_be_read_on_white_and_on_dark():
    texts = [palette.TEXT, palette.SOFT, *map(palette.ink, palette.PALETTE)]
    dark = palette.dark_colours()
    for text in texts:
        assert contrast(text, palette.CARD) >= 4.5, text
        assert contrast(dark[text], dark[palette.CARD]) >= 4.5, text


def test_marks_stand_out_from_white_and_from_dark():
    dark = palette.dark_colours()
    for colour in palette.PALETTE:
        assert contrast(dark[colour.lower()], dark[palette.CARD]) >= 3, colour


def test_density_holds_one_unit_of_mass_around_the_values():
    grid = np.linspace(-10, 12, 2000)
    values = np.array([0.0, 1.0, 2.0])
    heights = plots.density(values, grid)
    step = grid[1] - grid[0]
    assert heights.sum() * step == pytest.approx(1, abs=1e-6)
    assert (grid * heights).sum() * step == pytest.approx(1, abs=1e-6)


def test_equal_rewards_and_single_ones_can_be_drawn(tmp_path):
    plots.save(plots.reward_distributions({"a": [1.0, 1.0], "b": [2.0]}, unit="nats"), tmp_path, "equal")
    plots.save(plots.before_after([1.0], [1.0, 1.0], unit="nats"), tmp_path, "single")


def test_rewards_that_are_not_numbers_are_not_drawn():
    axes = plots.reward_distributions(
        {"a": [1.0, float("nan"), 3.0], "b": [float("nan")], "c": [0.0, 1.0]}, unit="nats"
    )
    assert [text.get_text() for text in axes.axes[0].texts] == ["a", "2.00", "c", "0.50"]


def test_histogram_shares_add_up_to_one_hundred_percent():
    axes = FIGURES["before-after"]().axes[0]
    for patch in axes.patches:
        assert patch.get_data().values.sum() == pytest.approx(100)


def test_colours_belong_to_the_decoder_and_its_place_and_differ():
    names = list(REWARDS)
    assert len(set(plots.colours(names).values())) == 10
    assert plots.colours(names)["decoder-3"] == plots.colours(names[:4])["decoder-3"]
