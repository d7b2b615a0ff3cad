"""What is read of a run by a decoder's name: exports, comparisons, and names that lead nowhere."""

import json
from pathlib import Path

import pytest

from trimtab import cli
from trimtab.errors import ConfigurationError, RunError
from trimtab.integrations.alpaca_eval import alpaca_eval
from trimtab.pipeline.decoded import point, read_decoded
from trimtab.records import Generation, Message, Prompt, PromptInput, Score
from trimtab.store.files import write_json, write_records

TURNS: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
PROMPTS: list[PromptInput] = ["Name a tree.", [{"role": "user", "content": "Name a fish."}], [*TURNS, TURNS[0]]]


def write_run(folder: Path, decoder: str, rewards: list[float], text: str = " An oak. ", reward: str = "r1") -> None:
    """A run directory with one decoder's artifacts, two candidates a prompt."""
    prompts = [Prompt(f"test-{number}", prompt, "helpful") for number, prompt in enumerate(PROMPTS)]
    made = [
        Generation(prompt.id, prompt.text, index, [1], [2], text if index == 0 else "no", "eos")
        for prompt in prompts
        for index in (1, 0)
    ]
    scores = [
        Score(decoder, prompt.id, worth, None, -1.0, 1, 1) for prompt, worth in zip(prompts, rewards, strict=True)
    ]
    for stage, records, inputs in (
        ("data-d", prompts, []), (f"guide-{decoder}", made, ["d"]), (f"evaluate-{decoder}", scores, ["g", reward]),
    ):  # fmt: skip
        (folder / stage).mkdir(parents=True, exist_ok=True)
        write_records(folder / stage / ("test.jsonl" if stage == "data-d" else "records.jsonl"), records)
        write_json(folder / stage / "made_from.json", {"inputs": inputs})
    point(folder, decoder, "generations", folder / f"guide-{decoder}")
    point(folder, decoder, "scores", folder / f"evaluate-{decoder}")


def test_model_outputs_are_what_alpaca_eval_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "chat", "base", [0.0, 0.0, 0.0])
    monkeypatch.setattr(
        "sys.argv",
        ["trimtab", "export", str(tmp_path / "chat"), "--decoder", "base", "--output", str(tmp_path / "out.json")],
    )
    cli.main()
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"instruction": instruction, "output": "An oak.", "generator": "chat:base", "dataset": "helpful"}
        for instruction in ("Name a tree.", "Name a fish.", "user: Hi\n\nassistant: Ho\n\nuser: Hi")
    ]
    assert alpaca_eval(read_decoded(f"{tmp_path}/chat:base"), "mine")[0]["generator"] == "mine"


def test_two_decoders_of_two_runs_are_compared_prompt_by_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "one", "bon-4", [1.0, 2.0, 3.0], text="A long answer.")
    write_run(tmp_path / "two", "base", [0.0, 2.0, 1.0])
    places = [f"{tmp_path}/one:bon-4", f"{tmp_path}/two:base"]
    monkeypatch.setattr("sys.argv", ["trimtab", "compare", *places, "--json"])
    cli.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["wins"], found["ties"], found["losses"], found["reward"]) == (2, 1, 0, "r1")
    assert found["win_rate"]["mean"] == pytest.approx(2.5 / 3)
    assert (found["first_length"], found["second_length"]) == (14, 7)
    monkeypatch.setattr("sys.argv", ["trimtab", "compare", *places])
    cli.main()
    assert "83.3 %" in capsys.readouterr().out
    write_run(tmp_path / "two", "other", [0.0, 2.0, 1.0], reward="r2")
    with pytest.raises(SystemExit):
        monkeypatch.setattr("sys.argv", ["trimtab", "compare", places[0], f"{tmp_path}/two:other"])
        cli.main()
    assert "were scored by different rewards (reward-r1 and reward-r2): score both by one" in capsys.readouterr().err


def test_equal_prompts_are_counted_each_and_paired_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two words of reviews are often the same, and responses without a prompt all have none."""
    monkeypatch.setattr("test_decoded.PROMPTS", ["This film", "This film", "I saw"])
    for run, rewards in (("one", [1.0, 2.0, 3.0]), ("two", [0.0, 3.0, 3.0])):
        write_run(tmp_path / run, "base", rewards)
    ours, theirs = (read_decoded(f"{tmp_path}/{run}:base").judged() for run in ("one", "two"))
    assert [(ours[key].reward, theirs[key].reward) for key in ours] == [(1.0, 0.0), (2.0, 3.0), (3.0, 3.0)]


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    write_run(tmp_path / "chat", "base", [0.0, 0.0, 0.0])
    with pytest.raises(ConfigurationError, match="names no decoder of a run: write it as runs/quickstart:bon-16"):
        read_decoded("chat")
    with pytest.raises(RunError, match="chat has no decoder bon-4: it has base"):
        read_decoded(f"{tmp_path}/chat:bon-4")
    with pytest.raises(RunError, match="it has decoded nothing: run `trimtab guide` first"):
        read_decoded(f"{tmp_path}/nowhere:base")
    (tmp_path / "chat/decoders/base/scores").unlink()
    with pytest.raises(RunError, match="chat:base has not been scored: run `trimtab evaluate` first"):
        read_decoded(f"{tmp_path}/chat:base").judged()
