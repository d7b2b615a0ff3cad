"""The list of steps: what it is, how deep a run calls, what is loaded once, and what a step that fails leaves."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from carried import carry_out_steps
from finished import run
from small_run import SETTINGS
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, ModelError, RunError
from trimtab.models import hardware
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.roles import Weights
from trimtab.pipeline import makers, workspace
from trimtab.pipeline.experiment_steps import steps, up_to
from trimtab.pipeline.step import Plan, Step
from trimtab.plugins.user_functions import named_function
from trimtab.search.chunk_beam import RunningSearch
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import Watch

READY_REWARD = ["reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE"]
SMALL = [each for each in SETTINGS if not each.startswith("reward.training.")] + READY_REWARD


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


FUNCTION = """
def good(prompts, responses):
    return [len(response) for response in responses]

def nothing(prompts, responses):
    [len(response) for response in responses]

def unsure(texts):
    return [None for text in texts]
"""
PREFERENCES = "data.preferences=ZHZisZZ/imdb_preference"


def with_function(folder: Path, name: str, *more: str) -> Experiment:
    """An experiment whose reward is a function, in a file that is written."""
    (folder / "mine.py").write_text(FUNCTION, encoding="utf-8")
    rest = [each for each in SETTINGS if not each.startswith(("reward.", "judge"))]
    return load_experiment(
        cli.SHIPPED / "quickstart.yaml", [*rest, f"reward={{by: '{folder}/mine.py:{name}'}}", "judge=null", *more]
    )


def test_functions_and_services_are_tried_before_anything_that_takes_long(tmp_path: Path) -> None:
    def first(experiment: Experiment) -> list[str]:
        line = [step.name for step in steps(experiment)]
        last = max((place + 1 for place, name in enumerate(line) if name.startswith("trial ")), default=0)
        return line[:last]

    assert first(with_function(tmp_path, "good")) == ["data", "reward", "trial reward"]
    assert first(with_function(tmp_path, "good", PREFERENCES)) == ["data", "pairs", "reward", "trial reward"]
    assert first(experiment("reward={by: 'http://127.0.0.1:9/'}")) == ["data", "reward", "trial reward"]
    assert first(experiment()) == [], "a ready classifier's files are checked"
    valued = "guide.decoders=[{}, {successors: 2, value: {by: 'mine.py:good'}}]"
    assert first(experiment(valued)) == ["data", "trial mine.py:good"]


def test_a_function_that_gives_nothing_stops_the_run_before_the_tuning(tmp_path: Path, hub: Path) -> None:
    assets = Assets(cache=tmp_path / "cache", path_map=hub)
    broken = with_function(tmp_path, "nothing", PREFERENCES)
    with pytest.raises(ModelError, match=r"mine.py:nothing gave None for 2 texts: it must give a list of numbers"):
        run(broken, tmp_path, assets, Watch(), until="tune")
    assert not [*(tmp_path / "quickstart").glob("tune-*")] and [*(tmp_path / "quickstart").glob("pairs-*")]
    valued = f"guide.decoders=[{{}}, {{successors: 2, value: {{by: '{tmp_path}/mine.py:nothing'}}}}]"
    trained = load_experiment(cli.SHIPPED / "quickstart.yaml", [*SETTINGS, valued, "name=valued"])
    with pytest.raises(ModelError, match=r"mine.py:nothing gave None for 2 texts"):
        run(trained, tmp_path, assets, Watch(), until="reward")
    assert not [*(tmp_path / "valued").glob("reward-*")], "the reward is trained after that"


def test_a_function_that_sets_both_responses_aside_is_warned_of(tmp_path: Path, hub: Path) -> None:
    """It may give real ones a number."""
    assets, lines = Assets(cache=tmp_path / "cache", path_map=hub), list[str]()
    watch = Watch()
    watch.print = lines.append
    run(with_function(tmp_path, "unsure"), tmp_path, assets, watch, until="reward")
    (line,) = [line for line in lines if "warning" in line]
    assert "mine.py:unsure gave none of 2 responses a finite number" in line
    (trial,) = (tmp_path / "quickstart").glob("trial-????????????")
    assert (trial / "tried.json").is_file()


def test_from_the_command_line_to_one_step_of_the_search_are_at_most_eight_frames(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of trimtab's own code, `main` and `Search.steps`, which does one step each time it goes on, among them."""
    selecting, depths = RunningSearch.select, list[list[str]]()

    def counted(self: RunningSearch, *given: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        own = []
        while frame is not None:
            if "/trimtab/" in frame.f_code.co_filename:
                own.append(frame.f_code.co_qualname)
            frame = frame.f_back
        depths.append(own)
        return selecting(self, *given)

    monkeypatch.setattr(RunningSearch, "select", counted)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    command = ["trimtab", "guide", "quickstart", "--quiet", "--runs", str(tmp_path), "--path-map", str(hub), "--set"]
    monkeypatch.setattr("sys.argv", [*command, *SMALL])
    cli.main()
    assert depths and depths[0][0] == "Search.steps" and max(map(len, depths)) <= 8, max(depths, key=len)


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
    freed: list[str] = []
    monkeypatch.setattr("trimtab.models.allocator.give_back_freed_memory", lambda: freed.append("tune"))
    made = run(experiment(), tmp_path, Assets(cache=tmp_path / "cache", path_map=hub), Watch())
    assert loaded["reward"] == 1
    assert freed == ["tune"], "what a training has freed goes back to the system"
    tuned = made.tuned.folder.name
    assert loaded[tuned] == 1
    rest = {name: count for name, count in loaded.items() if name not in ("reward", tuned)}
    # both models are sampled, make way for the tuning, and are read again beside the tuned one
    assert sorted(rest.values()) in ([2, 2], [4]), rest


def test_a_step_that_raises_is_named_and_what_was_made_stays(tmp_path: Path) -> None:
    """A user's code is at fault; a fault of trimtab's own keeps its traceback, which names the step, too."""
    (tmp_path / "mine.py").write_text("def make(job):\n    return {}['nothing']\n", encoding="utf-8")
    first = Step("data", lambda job: None)
    users = Step("pairs", named_function(f"{tmp_path / 'mine.py'}:make"), needs=(first,))
    ours = Step("tune", makers.best_of, parts={"reward": RewardConfig(), "roles": []}, needs=(first,))
    assets = Assets(cache=tmp_path / "cache")
    plan = Plan([users, ours], RunDirectory(tmp_path / "run"), assets)
    carry_out_steps(plan, assets, [first])
    with pytest.raises(RunError, match=r"^pairs failed in .*mine.py, line 2 \(KeyError: 'nothing'\): mend it, and the"):
        carry_out_steps(plan, assets, [users])
    with pytest.raises(AssertionError) as raised:
        carry_out_steps(plan, assets, [ours])
    assert "in the step tune" in raised.value.__notes__
    assert [plan.artifacts[step].whole for step in (first, users, ours)] == [True, False, False]


def test_the_plan_says_what_was_made_and_what_the_rest_needs(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    options = ["--runs", str(tmp_path), "--path-map", str(hub), "--set", *SMALL]
    monkeypatch.setattr("sys.argv", ["trimtab", "plan", "quickstart", *options])
    cli.main()
    lines = {line.strip().split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if "  " in line.strip()}
    assert "missing" in lines["tune"] and not (tmp_path / "quickstart").exists(), "a plan makes nothing"
    monkeypatch.setattr("sys.argv", ["trimtab", "pairs", "quickstart", "--quiet", *options])
    cli.main()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["trimtab", "plan", "quickstart", *options])
    cli.main()
    lines = {line.strip().split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if "  " in line.strip()}
    assert "made" in lines["pairs"] and "missing" in lines["tune"] and "synthesize tuning" in lines["pairs"]
    assert "GB" in lines["guide bon-4"] and "e+" in lines["guide bon-4"]
    assert json.loads((tmp_path / "quickstart" / "status.json").read_text())["stages"][-1]["name"] == "pairs"


def test_the_plan_loads_no_heavy_library(tmp_path: Path, hub: Path) -> None:
    """It answers within two seconds, most of which torch alone would take; so where torch drives no accelerator."""
    code = (
        "import sys, trimtab.cli\n"
        f"sys.argv = ['trimtab', 'plan', 'quickstart', '--runs', {str(tmp_path)!r}, '--path-map', {str(hub)!r}]\n"
        "trimtab.cli.main()\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    environment = {**os.environ, "TRIMTAB_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 or hardware._built_for_accelerators(), ran.stderr


def test_what_is_said_of_the_machine_without_torch_is_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    device, dtype = default_device(), pick_dtype("auto", default_device())
    monkeypatch.delitem(sys.modules, "torch")
    told = hardware.device_type(), hardware.dtype_for("auto")
    monkeypatch.undo()
    assert told == (device.type, str(dtype).removeprefix("torch."))
