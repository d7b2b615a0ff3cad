"""What defines each strategy, for any rewards; and what `flat` and `rarer_wins` do to a distribution of rewards."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.config.file import parse_experiment
from trimtab.config.pairs import PairsConfig, Threshold
from trimtab.errors import ConfigurationError, DataError
from trimtab.preferences import strategies
from trimtab.preferences.pairs import make_pairs, resolve_bounds, summarize
from trimtab.preferences.strategies import STRATEGIES, Bounds, count_bins
from trimtab.records import Generation, Pair

# few different values, so that equal rewards and rewards on an edge or a threshold come up often
REWARDS = st.lists(st.integers(-8, 8).map(lambda each: each / 4), min_size=0, max_size=30)
COUNTS, SEEDS = st.integers(1, 60), st.integers(0, 2**31 - 1)
DOCS = Path(__file__).parents[2] / "docs" / "pairs.md"
MARGIN, THRESHOLD, LOW, HIGH, BINS = 0.75, 0.25, -1.5, 1.0, 5


def scored(rewards: list[float], prompt_id: str = "p0") -> list[Generation]:
    return [
        Generation(prompt_id, "", index, [1], [5], f"response {index}", "length", reward=float(reward))
        for index, reward in enumerate(rewards)
    ]


def drawn(strategy: str, rewards: list[float], count: int, seed: int) -> tuple[np.ndarray, np.ndarray, Bounds]:
    """The strategy's pairs as rewards (k x 2), the sorted rewards, and the bounds."""
    ordered = np.sort(np.array(rewards, dtype=np.float64))
    bounds = Bounds(MARGIN, THRESHOLD, count_bins(ordered, LOW, HIGH, BINS))
    positions = STRATEGIES[strategy].function(ordered, bounds, count, np.random.default_rng(seed))
    assert len(positions) <= count
    assert len({frozenset(pair) for pair in positions.tolist()}) == len(positions), "no pair twice"
    assert (positions[:, 0] != positions[:, 1]).all(), "no response meets itself"
    return ordered[positions].reshape(-1, 2), ordered, bounds


@settings(max_examples=60, deadline=None)
@given(REWARDS, COUNTS, SEEDS, st.sampled_from(sorted(STRATEGIES)))
def test_every_strategy_gives_distinct_pairs_in_its_order(rewards, count, seed, strategy):
    """The higher reward stands second, or with `decides_winner` the winner; a generator's state decides."""
    pairs, _, _ = drawn(strategy, rewards, count, seed)
    if not STRATEGIES[strategy].decides_winner:
        assert (pairs[:, 0] <= pairs[:, 1]).all()
    assert (drawn(strategy, rewards, count, seed)[0] == pairs).all()


@settings(max_examples=60, deadline=None)
@given(REWARDS, COUNTS, SEEDS)
def test_margin_and_straddle_keep_to_their_bounds(rewards, count, seed):
    margin, ordered, _ = drawn("margin", rewards, count, seed)
    assert (margin[:, 1] - margin[:, 0] > MARGIN).all()
    allowed = sum(b - a > MARGIN for place, a in enumerate(ordered) for b in ordered[place:])
    assert len(margin) == min(count, allowed)
    straddle, ordered, _ = drawn("straddle", rewards, count, seed)
    assert (straddle[:, 0] < THRESHOLD).all() and (straddle[:, 1] > THRESHOLD).all()
    assert len(straddle) == min(count, int((ordered < THRESHOLD).sum() * (ordered > THRESHOLD).sum()))


@settings(max_examples=60, deadline=None)
@given(REWARDS, COUNTS, SEEDS)
def test_random_and_best_worst(rewards, count, seed):
    pairs, ordered, _ = drawn("random", rewards, count, seed)
    assert len(pairs) == min(count, math.comb(len(rewards), 2))
    pairs, ordered, _ = drawn("best_worst", rewards, count, seed)
    extremes = [(ordered[low], ordered[-1 - low]) for low in range(min(count, len(rewards) // 2))]
    assert [tuple(pair) for pair in pairs] == [(low, high) for low, high in extremes if low < high]


def commonness(rewards: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """How many of all rewards share each reward's bin, counted with comparisons alone; 0 outside of all bins."""
    edges = np.linspace(LOW, HIGH, BINS + 1)
    bounds = list(itertools.pairwise(edges))

    def inside(values: np.ndarray, low: float, high: float) -> np.ndarray:
        return (values >= low) & ((values < high) | ((values == HIGH) & (high == HIGH)))

    return sum(inside(rewards, *each) * int(inside(ordered, *each).sum()) for each in bounds)


@settings(max_examples=100, deadline=None)
@given(REWARDS, COUNTS, SEEDS)
def test_the_rarer_bin_wins_and_the_common_one_never(rewards, count, seed):
    """Every pair's second comes from a bin with strictly fewer responses; all such pairs can be had, and no other."""
    pairs, ordered, _ = drawn("rarer_wins", rewards, count, seed)
    shares = commonness(pairs, ordered)
    assert (shares[:, 1] < shares[:, 0]).all() and (shares[:, 1] > 0).all()
    inside = commonness(ordered, ordered)
    allowed = sum(a != b for place, a in enumerate(inside) for b in inside[:place] if a and b)
    assert len(pairs) == min(count, allowed)


@settings(max_examples=60, deadline=None)
@given(REWARDS, COUNTS, SEEDS)
def test_flat_takes_what_lies_inside_and_all_of_it_where_asked(rewards, count, seed):
    pairs, ordered, _ = drawn("flat", rewards, count, seed)
    assert ((pairs >= LOW) & (pairs <= HIGH)).all()
    inside = int(((ordered >= LOW) & (ordered <= HIGH)).sum())
    assert len(pairs) == min(count, math.comb(inside, 2))


def rewards_in(pairs: list[Pair], role: str = "both") -> np.ndarray:
    chosen = [pair.rewards[pair.chosen] for pair in pairs]
    rejected = [pair.rewards[1 - pair.chosen] for pair in pairs]
    return np.array({"both": chosen + rejected, "chosen": chosen, "rejected": rejected}[role])


def peaked(count: int = 10_000) -> list[float]:
    """Rewards with three peaks of unlike heights, as the second write-up's untuned model has them."""
    rng = np.random.default_rng(0)
    centres, widths = np.array([-2.0, 0.5, 2.3]), np.array([0.5, 0.6, 0.3])
    peak = rng.choice(3, count, p=[0.3, 0.2, 0.5])
    return (centres[peak] + widths[peak] * rng.normal(size=count)).tolist()


@pytest.mark.parametrize("listed", [strategies.MAX_LISTED, 10**9])
def test_flat_makes_the_density_even(listed, monkeypatch):
    """Over [0, 2.5] the rewards of responses in pairs are spread evenly, where those of the samples are not:
    each of ten shares lies within a twentieth of a tenth. Also where all pairs are listed rather than drawn."""
    monkeypatch.setattr(strategies, "MAX_LISTED", listed)
    rewards = peaked() if listed < 10**9 else peaked(3_000)
    config = PairsConfig(strategy="flat", total=20_000, low=Threshold(value=0.0), high=Threshold(value=2.5), bins=10)
    pairs = make_pairs(scored(rewards), config, seed=0)
    assert len(pairs) == 20_000
    before, after = (
        np.histogram(each, 10, (0.0, 2.5))[0] / np.histogram(each, 10, (0.0, 2.5))[0].sum()
        for each in (rewards, rewards_in(pairs))
    )
    assert before.max() > 3 * before.min()
    assert np.abs(after - 0.1).max() < 0.005
    assert rewards_in(pairs).min() >= 0 and rewards_in(pairs).max() <= 2.5
    assert summarize(pairs)["agreement"] == 1  # labels are the reward's


def test_flat_uses_every_response_of_a_bin():
    """Within a bin none is preferred: no response stands in pairs four times as often as its bin's mean."""
    config = PairsConfig(strategy="flat", total=20_000, low=Threshold(value=0.0), high=Threshold(value=2.5))
    pairs = make_pairs(scored(peaked()), config, seed=0)
    used = Counter(rewards_in(pairs).tolist())
    places = np.floor(np.array(list(used)) / 0.125)
    for place in set(places):
        counts = np.array(list(used.values()))[places == place]
        assert counts.max() < 4 * counts.mean() + 4


def test_rarer_wins_takes_from_peaks_and_gives_to_valleys():
    """In each bin wins minus losses falls as the bin's count grows: perfect rank order between the two but for
    noise, so what is learned from the pairs flattens the density. The order of rewards has no say."""
    rewards = peaked()
    config = PairsConfig(strategy="rarer_wins", total=20_000, bins=12)
    pairs = make_pairs(scored(rewards), config, seed=0)
    assert len(pairs) == 20_000
    edges = np.linspace(*np.quantile(rewards, [0.01, 0.99]), 13)
    samples, won, lost = (
        np.histogram(each, edges)[0] for each in (rewards, rewards_in(pairs, "chosen"), rewards_in(pairs, "rejected"))
    )
    order = np.argsort(samples)
    balance = (won - lost)[order] / samples[order]
    assert balance[0] > 0 > balance[-1]
    assert np.corrcoef(np.argsort(np.argsort(balance)), np.arange(12))[0, 1] < -0.95
    assert lost[order[0]] == 0 == won[order[-1]]
    assert 0.2 < summarize(pairs)["agreement"] < 0.8


def test_prompted_responses_meet_within_their_prompt_by_the_density_of_all():
    """One common reward and a rare one a prompt: the rare one wins wherever it is met, high or low."""
    groups = {f"p{number}": [0.0, 0.1, 0.2, 5.0 if number % 2 else -5.0] for number in range(300)}
    generations = [each for prompt, rewards in groups.items() for each in scored(rewards, prompt)]
    ends = {"low": Threshold(quantile=0.0), "high": Threshold(quantile=1.0)}
    config = PairsConfig(strategy="rarer_wins", per_prompt=2, bins=5, **ends)
    pairs = make_pairs(generations, config, seed=0)
    assert {abs(pair.rewards[pair.chosen]) for pair in pairs} == {5.0} and len(pairs) == 600
    flat = make_pairs(generations, PairsConfig(strategy="flat", per_prompt=1, bins=5, **ends), seed=0)
    rare = np.mean([5.0 in np.abs(pair.rewards) for pair in flat])
    # 150 responses in each rare bin and 900 in the common one: a rare one weighs six times as much, so 6 pairs in 7
    assert abs(rare - 6 / 7) < 5 * math.sqrt(6 / 49 / 300)


def test_validation_pairs_share_the_bins_of_training():
    config = PairsConfig(strategy="rarer_wins", total=50, low=Threshold(value=0.0), high=Threshold(value=2.0), bins=2)
    bounds = resolve_bounds(scored([0.1, 0.2, 0.3, 1.5]), config)
    pairs = make_pairs(scored([0.5, 1.1, 1.2, 1.3]), config, 0, "validation", bounds)
    assert {pair.rewards[pair.chosen] > 1 for pair in pairs} == {True} and len(pairs) == 3


def test_thresholds_relative_to_mean_and_spread():
    """`deviations`: mean + d * std for a place, d * std for a difference; on rewards of another scale as on these."""
    rewards = np.array(peaked(500))
    config = PairsConfig(
        strategy="flat", margin=Threshold(deviations=0.5), threshold=Threshold(deviations=0.0),
        low=Threshold(deviations=-1.0), high=Threshold(deviations=1.5),
    )  # fmt: skip
    bounds = resolve_bounds(scored(rewards.tolist()), config)
    assert bounds.threshold == pytest.approx(rewards.mean())
    assert bounds.margin == pytest.approx(0.5 * rewards.std())
    assert bounds.bins.edges[[0, -1]] == pytest.approx(rewards.mean() + np.array([-1.0, 1.5]) * rewards.std())
    stretched = resolve_bounds(scored((7 * rewards + 3).tolist()), config)
    assert stretched.bins.counts.tolist() == bounds.bins.counts.tolist()
    assert stretched.margin == pytest.approx(7 * bounds.margin)


def test_mistakes_are_named():
    crossed = PairsConfig(strategy="flat", low=Threshold(value=2.5), high=Threshold(value=0.0))
    with pytest.raises(DataError, match=r"pairs\.low is a reward of 2.5 and pairs\.high one of 0: give low below"):
        make_pairs(scored([0.0, 1.0]), crossed, seed=0)
    away = PairsConfig(strategy="rarer_wins", low=Threshold(value=8.0), high=Threshold(value=9.0))
    with pytest.raises(DataError, match="rarer_wins in 20 bins from 8 to 9 finds no train pair among 2 different"):
        make_pairs(scored([0.0, 1.0]), away, seed=0)
    with pytest.raises(ConfigurationError, match="rarer_wins decides who wins: drop labels"):
        parse_experiment({"name": "x", "pairs": {"strategy": "rarer_wins", "labels": "bradley_terry"}}, origin="x")
    with pytest.raises(ConfigurationError, match="give either value, quantile or deviations"):
        parse_experiment({"name": "x", "pairs": {"low": {"value": 1, "deviations": 1}}}, origin="x")


def test_the_docs_show_every_strategy_with_the_settings_that_it_uses():
    settings = {"margin": "`margin`", "threshold": "`threshold`", "bins": "`low`, `high`, `bins`"}
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `") and "{" not in line]
    shown = {row[0].strip("| `"): row[-1].strip(" |") for row in rows[1:]}
    own = {name: entry for name, entry in STRATEGIES.items() if entry.own}
    assert shown == {name: "".join(settings[bound] for bound in entry.uses) for name, entry in own.items()}


PLUGIN = """
import numpy as np
from trimtab.preferences.strategies import STRATEGIES, Strategy

def neighbours(rewards, bounds, count, rng):
    return [(place, place + 1) for place in range(min(count, len(rewards) - 1))]

def broken(rewards, bounds, count, rng):
    return [[0, 1]] if rewards[0] > 0 else [[0, len(rewards)]] if rewards[0] == 0 else rewards["a"]

STRATEGIES.add(Strategy(name="neighbours", function=neighbours, words="two samples of next rewards"))
STRATEGIES.add(Strategy(name="broken", function=broken, words="none", decides_winner=True))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "my_strategy.py").write_text(PLUGIN)
    return tmp_path / "my_strategy.py"


def parsed(plugin: Path, **pairs: str) -> PairsConfig:
    return parse_experiment({"name": "x", "plugins": [str(plugin)], "pairs": pairs}, origin="x").pairs


def test_a_plugin_file_adds_a_strategy(plugin: Path) -> None:
    config = parsed(plugin, strategy="neighbours")
    pairs = make_pairs(scored([3.0, 1.0, 2.0]), config.model_copy(update={"per_prompt": 5}), seed=0)
    assert [sorted(pair.rewards) for pair in pairs] == [[1.0, 2.0], [2.0, 3.0]]
    assert list(STRATEGIES["neighbours"].identity()) == ["code of neighbours"]
    with pytest.raises(ConfigurationError, match=r"pairs\.labels: .* and broken decides who wins: drop labels"):
        parsed(plugin, strategy="broken", labels="bradley_terry")
    with pytest.raises(ConfigurationError, match="'neighbour' is no strategy: did you mean neighbours"):
        parsed(plugin, strategy="neighbour")


def test_a_wrong_plugin_is_one_line(plugin: Path) -> None:
    config = parsed(plugin, strategy="broken")
    assert make_pairs(scored([1.0, 2.0]), config, seed=0)
    with pytest.raises(ConfigurationError, match=r"broken returned \[\[0, 2\]\] for 2 rewards: return at most 1 pairs"):
        make_pairs(scored([0.0, 2.0]), config, seed=0)
    with pytest.raises(ConfigurationError, match=r"failed in .*my_strategy\.py, line \d+ \(IndexError: .*\): mend"):
        make_pairs(scored([-1.0, 2.0]), config, seed=0)
    plugin.write_text(PLUGIN.replace("def broken(rewards, bounds, count, rng)", "def broken(rewards)"))
    with pytest.raises(ConfigurationError, match=r"plugins\.0: .*broken has the function .*\): mend its arguments$"):
        parsed(plugin, strategy="broken")


def test_the_registry_is_light() -> None:
    """An experiment file is checked with it, which must not take the seconds that torch or datasets take."""
    code = "import sys, trimtab.preferences.strategies; print({'torch', 'datasets', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
