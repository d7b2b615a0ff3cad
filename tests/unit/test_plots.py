"""The figures: the same bytes each time, every decoder named, no label over another, densities that are densities."""

import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from trimtab.evaluation.evaluate import Row
from trimtab.report import plots

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


FIGURES = {
    "distributions": lambda: plots.reward_distributions(REWARDS, unit="nats"),
    "cost": lambda: plots.reward_against_cost(crowd(), unit="nats"),
    "before-after": lambda: plots.before_after(REWARDS["decoder-0"], REWARDS["decoder-5"], unit="nats"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_the_same_bytes_twice_and_no_date(name, tmp_path):
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        plots.save(FIGURES[name](), tmp_path / turn, name)
    for file in (f"{name}.png", f"{name}.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert "dc:date" not in (tmp_path / "one" / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_and_a_named_axis_with_its_unit(name):
    axes = FIGURES[name]().axes[0]
    assert axes.get_title(loc="left")
    assert "nats" in axes.get_xlabel() + axes.get_ylabel()


def test_every_decoder_is_named_with_its_mean():
    axes = plots.reward_distributions(REWARDS, unit="nats").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(REWARDS)
    assert [text.get_text() for text in axes.texts] == [f"{np.mean(values):z.2f}" for values in REWARDS.values()]


def test_labels_cover_neither_one_another_nor_the_points():
    figure = plots.reward_against_cost(crowd(), unit="nats")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.texts] == [each.decoder for each in crowd()]
    # The text alone: with its leader line, an annotation's extent reaches to its own point.
    boxes = [Text.get_window_extent(label) for label in axes.texts]
    inside = axes.get_window_extent()
    assert all(inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    places = axes.transData.transform([(each.flops / 1e12, each.reward) for each in crowd()])
    assert not any(box.contains(x, y) for box in boxes for x, y in places)


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
    assert [text.get_text() for text in axes.axes[0].texts] == ["2.00", "0.50"]


def test_histogram_shares_add_up_to_one_hundred_percent():
    axes = FIGURES["before-after"]().axes[0]
    for patch in axes.patches:
        assert patch.get_data().values.sum() == pytest.approx(100)


def test_colours_belong_to_the_decoder_and_its_place_and_differ():
    names = list(REWARDS)
    assert len(set(plots.colours(names).values())) == 10
    assert plots.colours(names)["decoder-3"] == plots.colours(names[:4])["decoder-3"]
