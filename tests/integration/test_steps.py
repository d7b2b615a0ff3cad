"""The list of steps: what it is, how deep a run calls, what is loaded once, and what a step that fails leaves."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

from finished import Finished, run
from small_run import SETTINGS
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError, RunError
from trimtab.models.roles import Weights
from trimtab.pipeline import workspace
from trimtab.pipeline.experiment_steps import steps, up_to
from trimtab.search.chunk_beam import Search
from trimtab.store.progress import Watch

READY_REWARD = ["reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE"]
SMALL = [each for each in SETTINGS if not each.startswith("reward.training.")] + READY_REWARD
STRATEGY = """
from trimtab.preferences.strategies import STRATEGIES, Strategy

def broken(candidates, config, rng):
    return candidates["nothing"]

STRATEGIES.add(Strategy(name="broken", function=broken, words="no pairs at all"))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


def experiment(*more: str) -> Experiment:
    return load_experiment(cli.SHIPPED / "quickstart.yaml", [*SMALL, *more])


def test_each_step_comes_after_what_it_needs_and_all_names_differ() -> None:
    for file in cli.SHIPPED.glob("*.yaml"):
        if "experiment:" in file.read_text():
            continue
        line = steps(load_experiment(file))
        assert all(line.index(need) < number for number, step in enumerate(line) for need in step.needs)
        assert len({step.name for step in line}) == len(line) and line[-1].stage == "report"


def test_a_stage_without_steps_is_named() -> None:
    existing = experiment("data.preferences=somebody/pairs")
    with pytest.raises(ConfigurationError, match="nothing to synthesize: its stages are data, reward, pairs, tune"):
        up_to(existing, "synthesize")
    assert [step.name for step in up_to(experiment(), "pairs")][-1] == "pairs"


def test_from_the_command_line_to_one_step_of_the_search_are_at_most_eight_frames(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of trimtab's own code, `main` and the step itself among them."""
    names = [name for name in vars(Search) if name in ("step", "_step")]
    assert len(names) == 1, "the method that does one step of the search"
    method, depths = vars(Search)[names[0]], list[list[str]]()

    def counted(self: Search, *given: object, **named: object) -> object:
        frame: FrameType | None = sys._getframe(1)
        own = ["step"]
        while frame is not None:
            if "/trimtab/" in frame.f_code.co_filename:
                own.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name)
            frame = frame.f_back
        depths.append(own)
        return method(self, *given, **named)

    monkeypatch.setattr(Search, names[0], counted)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    command = ["trimtab", "guide", "quickstart", "--quiet", "--runs", str(tmp_path), "--path-map", str(hub), "--set"]
    monkeypatch.setattr("sys.argv", [*command, *SMALL])
    cli.main()
    assert depths and max(map(len, depths)) <= 8, max(depths, key=len)


def test_nothing_is_loaded_twice_in_a_process(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what a training, which starts from files, has made way for."""
    loaded: Counter[str] = Counter()
    loading, rewarding = Weights.of, workspace.load_reward

    def of(self: Weights, config: object) -> object:
        before = set(self._loaded)
        result = loading(self, config)
        loaded.update(Path(each.name).parent.name for each in set(self._loaded) - before)
        return result

    monkeypatch.setattr(Weights, "of", of)
    monkeypatch.setattr(workspace, "load_reward", lambda *given: (loaded.update(["reward"]), rewarding(*given))[1])
    made = run(experiment(), tmp_path, Assets(cache=tmp_path / "cache", path_map=hub), Watch())
    assert loaded["reward"] == 1
    tuned = made.tuned.folder.name
    assert loaded[tuned] == 1
    rest = {name: count for name, count in loaded.items() if name not in ("reward", tuned)}
    # the small model is sampled, makes way for its tuning, and is read again beside the tuned one
    assert sorted(rest.values()) in ([1, 2], [3]), rest


def test_a_step_that_raises_is_named_and_what_was_made_stays(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGY, encoding="utf-8")
    broken = experiment(f"plugins=[{tmp_path / 'mine.py'}]", "pairs.strategy=broken")
    assets = Assets(cache=tmp_path / "cache", path_map=hub)
    with pytest.raises(RunError, match=r"^pairs failed in .*mine.py, line 5 \(TypeError: .*\): mend it, and the same"):
        run(broken, tmp_path, assets, Watch())
    planned = Finished.planned(broken, tmp_path / "quickstart", assets)
    assert all(planned.artifact(name).whole for name in ("data", "reward", "synthesize tuning"))
    assert not planned.pairs.whole
    assert "Traceback" in (tmp_path / "quickstart" / "log.txt").read_text()


def test_the_plan_says_what_was_made_and_what_the_rest_needs(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    options = ["--runs", str(tmp_path), "--path-map", str(hub), "--set", *SMALL]
    monkeypatch.setattr("sys.argv", ["trimtab", "plan", "quickstart", *options])
    cli.main()
    lines = {line.split("  ")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "  " in line.strip()}
    assert "missing" in lines["tune"] and not (tmp_path / "quickstart").exists(), "a plan makes nothing"
    monkeypatch.setattr("sys.argv", ["trimtab", "pairs", "quickstart", "--quiet", *options])
    cli.main()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["trimtab", "plan", "quickstart", *options])
    cli.main()
    lines = {line.split("  ")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "  " in line.strip()}
    assert "made" in lines["pairs"] and "missing" in lines["tune"] and "synthesize tuning" in lines["pairs"]
    assert "GB" in lines["guide bon-4"] and "e+" in lines["guide bon-4"]
    assert json.loads((tmp_path / "quickstart" / "status.json").read_text())["stages"][-1]["name"] == "pairs"
