"""What `trimtab check` finds, and a run before it makes anything: each fault with its line, without loading weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError, DataError
from trimtab.models import load, roles
from trimtab.pipeline.checks import check_steps
from trimtab.pipeline.experiment_steps import steps, up_to

REWARD = "def score(texts):\n    return [float(len(text)) for text in texts]\n\ndef none(): ...\n"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def write(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a sound experiment with some parts changed; its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(hub))
    for module in (load, roles):
        monkeypatch.setattr(module, "load_causal_lm", _no_weights)
    (tmp_path / "mine.py").write_text(REWARD)
    rows = [{"prompt": f"Name tree number {number}."} for number in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def written(**parts: Any) -> Path:
        values: dict[str, Any] = {
            "name": "mine",
            "small": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct"},
            "large": {"name": "google/gemma-3-270m"},
            "data": {"instructions": "prompts.jsonl", "tuning_prompts": 4, "validation_prompts": 2, "test_prompts": 2},
            "reward": {"by": "mine.py:score"},
            "synthesize": {"max_new_tokens": 4},
            "tune": {"lora": {"top_layers": 1}},
            "guide": {"max_new_tokens": 4, "decoders": [{}, {"successors": 2}]},
        }
        for name, part in parts.items():
            if part is None:
                del values[name]
                continue
            merged = name in ("data", "guide", "tune")
            values[name] = {**values[name], **part} if merged else part
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    return written


def _no_weights(*_: object, **__: object) -> None:
    raise AssertionError("weights are loaded")


def trimtab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    cli.main()


def instructions(name: str, *rows: dict[str, Any]) -> dict[str, Any]:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"instructions": name, "tuning_prompts": 1, "validation_prompts": 1, "test_prompts": 1}


def cut_model(hub: Path) -> dict[str, Any]:
    folder = Path("cut")
    folder.mkdir()
    for file in (hub.parent / "smol").iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[:3000] if file.suffix == ".safetensors" else content)
    return {"name": "cut"}


def test_a_sound_experiment_is_said_to_be_so(write, monkeypatch, capsys):
    trimtab(monkeypatch, "check", str(write()))
    first, data, large, small, memory = capsys.readouterr().out.splitlines()
    assert first == "mine: sound; decoders base, bon-2"
    assert data == "data: prompts.jsonl: 6 prompts to tune and validate on, 2 to test on"
    assert small.startswith("untuned: HuggingFaceTB/SmolLM2-135M-Instruct reads prompts of up to")
    assert large.startswith("large: google/gemma-3-270m reads") and large.endswith("writes 4, in a context of 256")
    assert memory.startswith("memory: about ")
    assert not list(Path().glob("runs*"))


LATE: list[tuple[str, Callable[[Path], dict[str, Any]], str]] = [
    ("a data set that is not there", lambda hub: {"data": {"instructions": "nowhere.jsonl"}},
     "there is no file nowhere.jsonl in "),
    ("no column of prompts", lambda hub: {"data": instructions("a.jsonl", *[{"txt": f"{n}"} for n in range(9)])},
     "a.jsonl, row 1 has no column of prompts (its columns: txt): name it in columns.prompt"),
    ("too few prompts", lambda hub: {"data": {"tuning_prompts": 40}},
     "prompts.jsonl holds 8 different instructions, and data.test_prompts 2 + data.validation_prompts 2 + "
     "data.tuning_prompts 40 are asked for: lower them"),
    ("conversations for a model that reads texts",
     lambda hub: {"data": instructions("a.jsonl", *[{"messages": [{"role": "user", "content": f"{n}"}]}
                                                    for n in range(3)])},
     "the prompts of a.jsonl are conversations and small.template is '{prompt}': write small.template: chat"),
    ("prompts beyond every context",
     lambda hub: {"data": instructions("a.jsonl", *[{"prompt": f"{n} long" * 300} for n in range(3)])},
     "new ones exceed untuned's context of 256: shorten the prompt or lower max_new_tokens"),
    ("a response beyond the large model's context", lambda hub: {"guide": {"max_new_tokens": 255}},
     "and 255 new ones exceed large's context of 256"),
    ("a model that is not there", lambda hub: {"large": {"name": "nobody/nothing"}},
     "model 'nobody/nothing' is no local path"),
    ("a name of a model with a slip", lambda hub: {"large": {"name": "google/gemma-3-27Om"}},
     "did you mean google/gemma-3-270m? Else give a folder"),
    ("a model cut off", lambda hub: {"large": cut_model(hub)},
     "cut/model.safetensors is cut off (3000 bytes): copy or download it again"),
    ("no chat template", lambda hub: {"large": {"name": "google/gemma-3-270m", "template": "chat"}},
     "gemma has no chat template"),
    ("EFT over another vocabulary", lambda hub: {"guide": {"decoders": [{"beta": 1.0}]}},
     "EFT adds logits, and google/gemma-3-270m and HuggingFaceTB/SmolLM2-135M-Instruct have unlike vocabularies"),
    ("a tuned model of another vocabulary",
     lambda hub: {"synthesize": None, "tune": None, "guide": {"tuned": {"name": "google/gemma-3-270m"}}},
     "a guide compares two models token by token, and google/gemma-3-270m and HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("a reward function that is not there", lambda hub: {"reward": {"by": "mine.py:scores"}},
     "'mine.py:scores': mine.py has no function scores"),
    ("a reward function without arguments", lambda hub: {"reward": {"by": "mine.py:none"}},
     "the reward function mine.py:none has the arguments (): it must take texts"),
    ("a value function that is not there",
     lambda hub: {"guide": {"decoders": [{"successors": 2, "value": "mine.py:cheerful"}]}},
     "'mine.py:cheerful': mine.py has no function cheerful"),
    ("a reward model without the label",
     lambda hub: {"reward": {"model": "lvwerra/distilbert-imdb", "positive_label": "GOOD"}},
     "reward.positive_label 'GOOD' is no label of the reward model: it has 0 (NEGATIVE), 1 (POSITIVE)"),
    ("a reward model that reads less",
     lambda hub: {"reward": {"model": "lvwerra/distilbert-imdb", "max_length": 512}},
     "max_length 512 is more than the 128 positions of the reward model: set reward.max_length to 128 or less"),
    ("a scalar head that has two labels",
     lambda hub: {"reward": {"model": "lvwerra/distilbert-imdb", "definition": "scalar"}},
     "the reward model lvwerra/distilbert-imdb has 2 labels and definition scalar needs 1"),
    ("the key of a service", lambda hub: {"reward": {"by": "http://127.0.0.1:9/score", "key_variable": "NO_SUCH_KEY"}},
     "the environment has no variable NO_SUCH_KEY"),
    ("the key of an endpoint",
     lambda hub: {"large": {"name": "x", "endpoint": {"url": "http://127.0.0.1:9/v1", "key_variable": "NO_SUCH_KEY"}}},
     "the environment has no variable NO_SUCH_KEY"),
    ("more adapted layers than there are", lambda hub: {"tune": {"lora": {"top_layers": 9}}},
     "tune.lora.top_layers is 9 and the model has 2 layers: give fewer"),
    ("float16 to be tuned", lambda hub: {"small": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "dtype": "float16"}},
     "the small model is in float16, which cannot be tuned"),
    ("a tracker that is not installed", lambda hub: {"tune": {"trackers": ["nowhere"]}},
     "tune.trackers names nowhere: installed are"),
    ("a budget that pays for nothing", lambda hub: {"guide": {"decoders": [{"budget": 10.0}]}},
     "budget 10 pays for no search"),
    ("too few prompts to test on in a preference data set",
     lambda hub: {"data": {"instructions": None, "reviews": None, "preferences": "ZHZisZZ/imdb_preference",
                           "test_prompts": 60}},
     "ZHZisZZ/imdb_preference has 8 test prompts and data.test_prompts asks for 60: lower it to 8"),
]  # fmt: skip


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("parts", "line"), [fault[1:] for fault in LATE], ids=[fault[0] for fault in LATE])
def test_a_fault_is_named_before_anything_is_made(parts, line, command, write, hub, monkeypatch, capsys):
    file = write(**parts(hub))
    with pytest.raises(SystemExit) as ended:
        trimtab(monkeypatch, command, str(file), *([] if command == "check" else ["--quiet"]))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and len(error.splitlines()) == 1 and line in error
    assert not [path for path in Path().glob("runs/*/*") if path.is_dir()]  # no artifact was begun


def test_all_faults_are_named_at_once(write):
    experiment = load_experiment(write(reward={"by": "mine.py:none"}, data={"tuning_prompts": 40}))
    with pytest.raises(ConfigurationError, match=r"prompts\.jsonl holds 8 different.*; the reward function mine\.py"):
        check_steps(steps(experiment), experiment, Assets())


def test_a_stage_asks_for_no_more_than_it_makes(write):
    """`trimtab tune` runs where the large model cannot be had."""
    experiment = load_experiment(write(large={"name": "nobody/nothing"}))
    assert check_steps(up_to(experiment, "tune"), experiment, Assets())


def test_nothing_is_downloaded(write, monkeypatch, capsys):
    """What a run would fetch is said, and the rest is checked."""
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(write().parent / "none.yaml"))
    Path("none.yaml").write_text("{}")
    trimtab(monkeypatch, "check", str(write()))
    lines = capsys.readouterr().out.splitlines()
    assert "not checked: google/gemma-3-270m is not on this machine yet: a run downloads it (238 MB)" in lines
    assert "data: prompts.jsonl: 6 prompts to tune and validate on, 2 to test on" in lines


def test_some_prompts_that_are_too_long_are_counted(write, monkeypatch, capsys):
    rows = [{"prompt": f"{number} " + "film " * (400 if number < 2 else 3)} for number in range(6)]
    data = {**instructions("a.jsonl", *rows), "test_prompts": 4}
    trimtab(monkeypatch, "check", str(write(data=data)))
    out = capsys.readouterr().out
    assert "prompts leave no room and are set aside" in out


def test_of_a_large_data_set_the_first_rows_are_read(write, monkeypatch, capsys):
    monkeypatch.setattr("trimtab.pipeline.known_prompts.SAMPLE_ROWS", 3)
    trimtab(monkeypatch, "check", str(write()))
    assert "data: prompts.jsonl: the first rows of it; the step data reads all" in capsys.readouterr().out
    experiment = load_experiment(write(data=instructions("b.jsonl", {"prompt": "a"}, {"prompt": ""})))
    with pytest.raises(DataError, match="row 2 has '' for prompt"):
        check_steps(steps(experiment), experiment, Assets())


def test_pairs_are_made_for_a_guide_that_is_tuned_already(write, monkeypatch, capsys):
    """`guide --shard` wants the pairs that it tests on, and `pairs` said that it had nothing to do: a circle."""
    tuned = {"max_new_tokens": 4, "decoders": [{}], "rows": 2, "tuned": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct"}}
    data = {"reviews": None, "preferences": "ZHZisZZ/imdb_preference", "test_prompts": 4}
    experiment = load_experiment(write(guide=tuned, data={**data, "instructions": None}, synthesize=None, tune=None))
    assert "pairs" in [step.name for step in up_to(experiment, "pairs")]
    with pytest.raises(ConfigurationError, match="so that `trimtab tune` has nothing to make: run guide"):
        up_to(experiment, "tune")
