"""`trimtab init` writes an experiment that runs as it is, whatever its prompts and its reward are; or one line."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from datasets import Dataset

from chat_styles import chat_tokenizer
from tiny import llama
from tiny_hub import save_causal_lm, save_classifier, save_encoder
from trimtab import cli
from trimtab.cli.init import FEWEST_PROMPTS, SMALL, split
from trimtab.config.file import load_experiment
from trimtab.report.verdict import MIN_PROMPTS

QUESTIONS = [f"Which {thing} do you like?" for thing in ("tree", "river", "song", "film", "bird", "stone", "word")]
REWARD = "def score(prompts, responses):\n    return [float(len(response)) for response in responses]\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of rewards, and tiny models behind names: the default one, a base model, classifiers."""
    chat = tmp_path / "hub" / "chat"
    llama(3, 340).float().save_pretrained(chat)
    chat_tokenizer("chatml").save_pretrained(chat)
    places = {
        SMALL: chat,
        "me/base": save_causal_lm(tmp_path / "hub" / "base", llama(4)),
        "me/classifier": save_classifier(tmp_path / "hub" / "classifier"),
        "me/encoder": save_encoder(tmp_path / "hub" / "encoder"),
    }
    (tmp_path / "paths.yaml").write_text(yaml.safe_dump({name: str(place) for name, place in places.items()}))
    (tmp_path / "rewards.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tmp_path / "paths.yaml"))
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trimtab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    cli.main()


def write_prompts(kind: str) -> list[str]:
    """A file or folder of prompts, and the options that name it."""
    rows = [{"question": question, "topic": "taste"} for question in QUESTIONS]
    conversations = [{"talk": [{"role": "user", "content": question}]} for question in QUESTIONS]
    if kind == "csv":
        pd.DataFrame(rows).rename(columns={"question": "what to ask"}).to_csv("asked.csv", index=False)
        return ["--prompts", "asked.csv", "--column", "what to ask"]
    if kind == "jsonl":
        Path("asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return ["--prompts", "asked.jsonl"]
    if kind == "conversations":
        Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations), encoding="utf-8")
        return ["--prompts", "talks.jsonl", "--column", "talk"]
    if kind == "text":
        Path("asked.txt").write_text("\n".join(QUESTIONS), encoding="utf-8")
        return ["--prompts", "asked.txt"]
    Dataset.from_list(rows).save_to_disk("asked")
    return ["--prompts", "asked", "--column", "question"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "conversations", "text", "data set"])
def test_what_it_writes_runs_as_it_is(kind: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimtab(monkeypatch, "init", "mine.yaml", "--reward", "rewards.py:score", *write_prompts(kind))
    experiment = load_experiment(here / "mine.yaml")
    assert experiment.reward.by == "rewards.py:score" and experiment.small.chat and experiment.large.chat
    data = experiment.data
    assert (data.test_prompts, data.validation_prompts, data.tuning_prompts) == (2, 1, 4)
    trimtab(monkeypatch, "run" if kind == "csv" else "guide", "mine.yaml", "--quiet")
    asked = [json.loads(line)["text"] for line in next(here.glob("runs/mine/data-*/test.jsonl")).open()]
    texts = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in asked]
    assert len(texts) == 2 and set(texts) <= set(QUESTIONS)
    assert len([*here.glob("runs/mine/decoders/*")]) == 6
    assert (here / "runs/mine/report/report.html").is_file() == (kind == "csv")


def test_a_report_of_another_setting_stands_beside_the_first(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trimtab(monkeypatch, "init", "mine.yaml", "--reward", "rewards.py:score", *write_prompts("jsonl"))
    sets = ["--set", "guide.decoders=[{model: large}]", "guide.max_new_tokens=4"]
    for more in ([], [], ["evaluate.bootstrap=500"]):
        trimtab(monkeypatch, "run", "mine.yaml", "--quiet", *sets, *more)
    assert len([*here.glob("runs/mine/report*/report.html")]) == 2
    capsys.readouterr()
    trimtab(monkeypatch, "runs", "runs/mine")
    printed = capsys.readouterr().out
    assert "evaluate.bootstrap 500" in printed and "evaluate.bootstrap 2000" in printed
    trimtab(monkeypatch, "export", "runs/mine", "--csv", "all.csv")
    assert len(pd.read_csv("all.csv")) == 2


def test_without_options_it_writes_a_sound_experiment(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trimtab(monkeypatch, "init")
    assert "trimtab run experiment.yaml" in capsys.readouterr().out
    first = (here / "experiment.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert Path(first.removeprefix("# yaml-language-server: $schema=")).is_file()
    trimtab(monkeypatch, "check", "experiment.yaml")
    assert "experiment: sound; decoders base, bon-8, gold-bon-8" in capsys.readouterr().out


def test_models_are_shown_prompts_as_they_want_them(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the tokenizer's chat template where it is to be had, else by the model's name."""
    trimtab(monkeypatch, "init", "a.yaml", "--small", "me/base", "--large", SMALL)
    assert "not checked" not in capsys.readouterr().out
    trimtab(monkeypatch, "init", "b.yaml", "--small", "far/away-1B-it", "--large", "far/away-9B")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not checked: ")]
    assert [line.split()[2] for line in lines] == ["far/away-1B-it", "far/away-9B"]
    a, b = load_experiment(here / "a.yaml"), load_experiment(here / "b.yaml")
    assert (a.small.template, a.large.template) == ("{prompt}", "chat")
    assert (b.small.template, b.large.template) == ("chat", "{prompt}")
    trimtab(monkeypatch, "init", "c.yaml")
    hints = [
        "A base model continues" in Path(name).read_text(encoding="utf-8") for name in ("a.yaml", "b.yaml", "c.yaml")
    ]
    assert hints == [True, True, False]


def test_a_model_of_the_catalogue_is_looked_at_where_it_was_downloaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tokenizer cannot be had without it."""
    monkeypatch.setattr("trimtab.assets.resolve.Assets.present", lambda self, entry: here / "hub" / "encoder")
    monkeypatch.setenv("TRIMTAB_PATH_MAP", "")
    with pytest.raises(SystemExit):
        trimtab(monkeypatch, "init", "a.yaml", "--reward", "sentence-transformers/all-MiniLM-L6-v2")
    assert "all-MiniLM-L6-v2 is no classifier or reward model" in capsys.readouterr().err
    trimtab(monkeypatch, "init", "a.yaml")  # whose small model has no chat template here
    assert load_experiment(here / "a.yaml").small.template == "{prompt}"


def test_each_kind_of_reward(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((here / "hub/classifier/config.json").read_text())
    (here / "hub/scalar").mkdir()
    (here / "hub/scalar/config.json").write_text(json.dumps({**config, "id2label": {"0": "LABEL_0"}}))
    (here / "hub/scalar/tokenizer.json").write_text("{}")
    rewards = [
        "me/classifier",
        "hub/scalar",
        "http://127.0.0.1:8000/score",
        "far/away",
        "trimtab.rewards.concise:concise",
    ]
    for number, reward in enumerate(rewards):
        trimtab(monkeypatch, "init", f"{number}.yaml", "--reward", reward)
    found = [load_experiment(here / f"{number}.yaml").reward for number in range(len(rewards))]
    assert (found[0].definition, found[0].positive_label) == ("margin", "POSITIVE")
    assert found[1].definition == "scalar" and found[1].model == "hub/scalar"
    assert found[2].address == rewards[2] and found[4].function == rewards[4]
    assert (found[3].model, found[3].definition) == ("far/away", "margin")


def test_names_that_yaml_would_read_otherwise_stay_texts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"yes": QUESTIONS}).to_csv("2024-01-01.csv", index=False)
    trimtab(monkeypatch, "init", "my first: try.yaml", "--prompts", "2024-01-01.csv", "--column", "yes")
    experiment = load_experiment(here / "my first: try.yaml")
    assert experiment.name == "my-first-try" and experiment.data.instructions.columns.prompt == "yes"


def test_forty_prompts_are_enough_for_a_verdict() -> None:
    assert FEWEST_PROMPTS == MIN_PROMPTS
    assert [split(count)["test"] for count in (39, 40, 60, 90)] == [13, 20, 20, 30]


BAD = {
    "a column that is not there": (["--prompts", "asked.csv", "--column", "ask"], "no column ask (its columns: a, b)"),
    "no column of prompts": (["--prompts", "asked.csv"], "no column of prompts (its columns: a, b): name it as"),
    "a column of numbers and gaps": (["--prompts", "asked.csv", "--column", "b"], "which is no prompt: fill it"),
    "an empty file": (["--prompts", "empty.csv"], "empty.csv cannot be read (it is empty): give a header"),
    "an empty text": (["--prompts", "empty.txt"], "empty.txt holds no instructions: give at least one row"),
    "a header alone": (["--prompts", "header.csv"], "header.csv holds no instructions: give at least one row"),
    "cells between semicolons": (["--prompts", "semicolons.csv"], "a;prompt, one name: put commas between the cells"),
    "one prompt": (["--prompts", "one.txt"], "one.txt holds 1 different prompt: give at least 3"),
    "too few prompts": (["--prompts", "two.txt"], "two.txt holds 2 different prompts: give at least 3"),
    "no such file": (["--prompts", "nowhere.csv"], "there is no file nowhere.csv in "),
    "no such file of rewards": (["--reward", "nowhere.py:score"], "there is no file nowhere.py: give the path"),
    "a reward that is no function": (["--reward", "rewards.py:WEIGHT"], "rewards.py has no function WEIGHT"),
    "a reward of too many arguments": (["--reward", "rewards.py:three"], "it must take texts, or prompts and"),
    "a file of rewards alone": (["--reward", "rewards.py"], "--reward: rewards.py is a file: name the function in it"),
    "a model that judges nothing": (["--reward", "me/encoder"], "me/encoder is no classifier or reward model"),
    "conversations for a base model": (
        ["--prompts", "talks.jsonl", "--small", "me/base"],
        "talks.jsonl holds conversations and me/base has no chat template: name a model that has one",
    ),
    "a file that exists": (["mine.yaml"], "mine.yaml exists: give the name of a new file"),
    "a folder that does not": (["new/mine.yaml"], "there is no folder new: create it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    case: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("asked.csv").write_text("a,b\nWhy?,\nHow?,1\n")
    Path("semicolons.csv").write_text("a;prompt\n1;Why?\n2;How?\n")
    Path("one.txt").write_text("Why?\n")
    Path("empty.csv").touch()
    Path("empty.txt").touch()
    Path("header.csv").write_text("prompt\n")
    Path("two.txt").write_text("Why?\nHow?\nwhy?\n")
    talks = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    Path("mine.yaml").write_text("name: mine\n")
    Path("rewards.py").write_text(f"{REWARD}WEIGHT = 1\ndef three(a, b, c):\n    return []\n")
    before = {path: path.read_bytes() for path in here.glob("*.*")}
    arguments, line = BAD[case]
    with pytest.raises(SystemExit) as ended:
        trimtab(monkeypatch, "init", *(["out.yaml"] if arguments[0].startswith("--") else []), *arguments)
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(error.splitlines()) == 1 and line in error, error
    assert {path: path.read_bytes() for path in here.glob("*.*")} == before
