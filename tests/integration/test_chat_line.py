"""Chat along the whole line on tiny models: the shipped experiment, a judge behind HTTP that fails mid-run, preferences
in conversational form, and scores without a second judge."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_styles import chat_tokenizer
from finished import Finished, run
from loopback import rewards, serving
from tiny import llama
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError, EndpointError
from trimtab.models.vocabulary import Vocabulary
from trimtab.preferences.dataset import read_dataset
from trimtab.records import Generation, Pair, Prompt, Score
from trimtab.store.progress import watching
from trimtab.training.tokens import encode_pairs

SMALL = [
    "data.tuning_prompts=8", "data.validation_prompts=4", "data.test_prompts=4", "guide.max_new_tokens=6",
    "guide.rows=16", "synthesize.max_new_tokens=6", "synthesize.samples=4", "synthesize.rows=16",
    "evaluate.bootstrap=100", "tune.batch_size=4", "tune.lora.rank=2", "tune.lora.top_layers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def path_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's name stands for a tiny model with a template of its kind."""
    hub = tmp_path_factory.mktemp("hub")
    llama(3, 340).float().save_pretrained(hub / "smol")
    chat_tokenizer("chatml").save_pretrained(hub / "smol")
    file = hub / "paths.yaml"
    file.write_text(yaml.safe_dump({"HuggingFaceTB/SmolLM2-135M-Instruct": str(hub / "smol")}), encoding="utf-8")
    return file


def chat(*more: str) -> Experiment:
    return load_experiment(cli.SHIPPED / "chat.yaml", [*SMALL, *more])


def finished(experiment: Experiment, folder: Path, path_map: Path) -> Finished:
    with watching(quiet=True) as watch:
        return run(experiment, folder, Assets(cache=folder / "cache", path_map=path_map), watch)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report" / "table.csv").open(encoding="utf-8", newline="") as file:
        return {row["decoder"]: row for row in csv.DictReader(file)}


def test_the_chat_experiment_runs_end_to_end(tmp_path: Path, path_map: Path) -> None:
    line = finished(chat(), tmp_path, path_map)
    rows = table(tmp_path / "chat")
    assert list(rows) == ["base", "bon-8", "gold-bon-8", "cbs-2-4-8", "untuned", "tuned"]
    assert all(row["judge"] == row["judge_gain"] == "" for row in rows.values())
    assert float(rows["gold-bon-8"]["headroom"]) == 1
    parts = {name: line.data.records(Prompt, name) for name in ("tuning", "validation", "test")}
    every = [str(prompt.text) for prompts in parts.values() for prompt in prompts]
    assert len(set(every)) == len(every) == 16
    words = chat_tokenizer("chatml")
    for each in line.guided(line.experiment.guide.decoder("bon-8")).records(Generation):
        read = words.decode(each.prompt_ids, skip_special_tokens=False)
        assert read == f"<|im_start|>user\n{each.prompt}<|im_end|>\n<|im_start|>assistant\n"
    page = (tmp_path / "chat/report/report.html").read_text(encoding="utf-8")
    assert "No second judge" in page and "the function trimtab.rewards.concise:concise" in page
    assert "held-out instructions of trimtab/instructions" in page
    same = [line.guided(line.experiment.guide.decoder(name)).records(Generation) for name in ("base", "untuned")]
    assert [each.text for each in same[0]] == [each.text for each in same[1]]
    assert all(score.judge is None for score in line.evaluated(line.experiment.guide.decoders[0]).records(Score))


def records(folder: Path) -> dict[str, bytes]:
    return {path.parent.name + path.name: path.read_bytes() for path in folder.glob("chat/*-*/*.jsonl")}


def test_a_judge_that_goes_down_stops_the_run_and_what_was_made_is_used_again(tmp_path: Path, path_map: Path) -> None:
    """Down in the middle of synthesis and again while decoders are scored; the third run ends as one without faults.

    It is asked once before all else.
    """
    down_at = {4, 13}
    asked: list[Any] = []
    judge = rewards(lambda prompt, response: len(set(response)) - 0.1 * len(prompt))

    def answer(body: Any) -> Any:
        asked.append(body)
        return (503, {}, {}) if len(asked) in down_at else judge(body)

    with serving(answer) as server:
        service = chat(f"reward.by={server.url}", "reward.batch_size=8", "reward.attempts=1")
        seen = []
        for _ in down_at:
            with pytest.raises(EndpointError, match=r"/score does not answer \(503 .*: start it, and the same command"):
                finished(service, tmp_path / "cut", path_map)
            seen.append({path.name for path in (tmp_path / "cut/chat").iterdir()})
        patient = service.model_copy(
            update={"reward": service.reward.model_copy(update={"attempts": 5, "timeout": 9.0})}
        )
        finished(patient, tmp_path / "cut", path_map)  # patience takes no part in hashes
        finished(service, tmp_path / "whole", path_map)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert any(name.startswith("synthesize") for name in seen[0])
    assert any(name.startswith("tune") for name in seen[1])
    kept = {json.dumps(body) for body in asked[1:3]}
    # of what the judge had answered in the first run, only the open block was asked for again
    assert sum(json.dumps(body) in kept for body in asked[4 : len(asked) // 2]) <= 2


def test_pairs_are_made_of_answers_to_several_turns(tmp_path: Path, path_map: Path) -> None:
    lines = []
    for number in range(16):
        turns = [("user", f"Film {number}?"), ("assistant", "Any."), ("user", "Which?"), ("assistant", "This.")]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    (tmp_path / "talks.jsonl").write_text("".join(lines), encoding="utf-8")
    experiment = chat(
        f"data.instructions={tmp_path / 'talks.jsonl'}", "small.system=Be brief.", "pairs.strategy=random"
    )
    with watching(quiet=True) as watch:
        assets = Assets(cache=tmp_path / "cache", path_map=path_map)
        line = run(experiment, tmp_path, assets, watch, until="pairs")
    pairs = line.pairs.records(Pair)
    read = chat_tokenizer("chatml").decode(pairs[0].prompt_ids, skip_special_tokens=False)
    asked = pairs[0].prompt
    assert isinstance(asked, list) and read == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{asked[0]['content']}<|im_end|>\n<|im_start|>"
        "assistant\nAny.<|im_end|>\n<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert read_dataset(line.pairs.folder / "dataset") == pairs
    plain = experiment.model_copy(update={"large": experiment.large.model_copy(update={"template": "{prompt}"})})
    with pytest.raises(ConfigurationError, match=r"talks\.jsonl are conversations and large\.template is '{prompt}'"):
        finished(plain, tmp_path / "plain", path_map)


def conversations(folder: Path, implicit: bool) -> Path:
    """Preferences of messages, with the prompt in a column of its own or in both conversations."""
    folder.mkdir()
    for split, count in {"train": 8, "validation": 4}.items():
        lines = []
        for number in range(count):
            asked = [{"role": "user", "content": f"Name a tree {number}"}]
            answers = [{"role": "assistant", "content": text} for text in ("Oak", "I will not.")]
            row: dict[str, Any] = {"prompt": asked, "chosen": answers[:1], "rejected": answers[1:]}
            if implicit:
                row = {"chosen": [*asked, answers[0]], "rejected": [*asked, answers[1]]}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit prompts", "implicit prompts"])
def test_conversational_preferences_are_tuned_on_and_instructions_tested_on(
    implicit: bool, tmp_path: Path, path_map: Path
) -> None:
    place = conversations(tmp_path / "pairs", implicit)
    line = finished(chat(f"data.preferences={place}", "guide.decoders=[{}, {model: tuned}]"), tmp_path, path_map)
    pairs = line.pairs.records(Pair)
    assert len(pairs) == 12 and pairs[0].prompt == [{"role": "user", "content": "Name a tree 0"}]
    assert pairs[0].responses == ["Oak", "I will not."] and pairs[0].chosen == 0 and pairs[0].ended == [True, True]
    assert not (line.data.folder / "tuning.jsonl").exists() and len(line.data.records(Prompt, "test")) == 4
    words = chat_tokenizer("chatml")
    row = encode_pairs(pairs[:1], Vocabulary(words, chat=True), "chat", 64, 340).rows[0]
    assert words.decode(row.prompt_ids + row.chosen_ids, skip_special_tokens=False) == (
        "<|im_start|>user\nName a tree 0<|im_end|>\n<|im_start|>assistant\nOak<|im_end|>"
    )
