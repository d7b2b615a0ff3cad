"""A tuned guide leaves the run as a folder that transformers and PEFT read, with a card, and can be pushed."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import trimtab
from hub_server import hub
from tiny import llama, tokenizer
from trimtab.config.pairs import PairsConfig, SynthesizeConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.training import LoraSettings, TuneConfig
from trimtab.errors import ModelError, RunError
from trimtab.integrations.hub import save_guide
from trimtab.pipeline.decoded import note_artifacts
from trimtab.store.artifacts import RunDirectory

SMALL = {"name": "someone/small", "template": "{prompt}"}
CHAT = {"name": "someone/small", "template": "chat", "system": "Be brief."}
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as tuning leaves it, with a report."""
    return made(tmp_path_factory.mktemp("runs") / "demo", lora=True)


def made(place: Path, *, lora: bool, sft: bool = False, small: dict[str, str] = SMALL) -> Path:
    directory = RunDirectory(place)
    configurations = {
        "data": {"data": {"reviews": "imdb"}},
        "reward": {"reward": RewardConfig().model_dump(mode="json")},
        "synthesize": {"small": small, "synthesize": SynthesizeConfig().model_dump(mode="json")},
        "pairs": {"pairs": PairsConfig().model_dump(mode="json")},
        "tune": {"small": small, "tune": TuneConfig(lora=LoraSettings() if lora else None).model_dump(mode="json")},
    }
    if sft:
        configurations["pairs"]["sft"] = {"epochs": 1}
    inputs: list = []
    for stage, configuration in configurations.items():
        artifact = directory.artifact(stage, configuration, inputs)
        with directory.writing(artifact) as folder:
            if stage == "tune":
                _save_tuned(folder, lora=lora)
        inputs = [*inputs, artifact] if stage in ("data", "reward") else [artifact]
    (place / "tuned").symlink_to(Path(artifact.folder.name) / "model")
    (place / "report").mkdir()
    (place / "report/table.md").write_text("| decoder | reward |\n| --- | --- |\n| tuned | 1.23 [1.0, 1.4] |\n")
    note_artifacts(place / "report", {"tune": artifact.folder})
    return place


def _save_tuned(folder: Path, *, lora: bool) -> None:
    (folder / "summary.json").write_text(json.dumps({"steps": 12, "eval_accuracy": 0.75}))
    model = llama(3, dtype=torch.float32)
    if lora:
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(model, config)
        model.peft_config["default"].base_model_name_or_path = "/somewhere/in/a/cache"
        model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")


def test_a_saved_guide_is_an_ordinary_folder_of_transformers(run: Path, tmp_path: Path) -> None:
    folder = save_guide(run, tmp_path / "guide")
    saved, kept = (AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (folder, run / "tuned"))
    assert saved.keys() == kept.keys() and all(torch.equal(saved[name], kept[name]) for name in kept)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer().get_vocab()


def test_a_saved_adapter_is_an_ordinary_folder_of_peft(run: Path, tmp_path: Path) -> None:
    """It names its base model, and not where this lay on the machine that it was tuned on."""
    folder = save_guide(run, tmp_path / "guide", adapter=True)
    merged = PeftModel.from_pretrained(llama(3, dtype=torch.float32), folder).merge_and_unload().state_dict()
    tuned = AutoModelForCausalLM.from_pretrained(run / "tuned").state_dict()
    assert all(torch.allclose(merged[name], tuned[name]) for name in tuned)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/small"
    assert "somewhere" not in "".join(
        each.read_text() for each in folder.glob("*.[jm]*") if each.suffix != ".safetensors"
    )


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("small", [SMALL, CHAT, {**SMALL, "template": "Review: {prompt}", "start_token": "<start>"}])
def test_a_guide_carries_its_template_and_the_cards_lines_run_as_printed(
    small: dict[str, str], adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A guide that was tuned in conversations was silently read as plain text."""
    run = made(tmp_path / "demo", lora=True, small=small)
    base = tmp_path / "base"
    llama(3, dtype=torch.float32).save_pretrained(base)
    chatting = copy.deepcopy(tokenizer())
    chatting.chat_template = TEMPLATE
    chatting.save_pretrained(base)
    chatting.save_pretrained(run / "tuned")
    (tmp_path / "paths.yaml").write_text(f"someone/small: {base}\n")
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tmp_path / "paths.yaml"))
    monkeypatch.chdir(tmp_path)
    folder = save_guide(run, Path("my-guide"), adapter=adapter)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)  # the card is ours
    assert capsys.readouterr().out.strip()
    for model in (*names["guide"].pair, names["large"]):
        assert model.template == small["template"] and model.vocabulary.system == small.get("system")
        assert model.vocabulary.start_token == small.get("start_token")
        assert model.vocabulary.encode_prompt("Hi", model.template) == names["large"].vocabulary.encode_prompt(
            "Hi", small["template"]
        )


def test_what_is_said_wins_over_what_a_guide_carries(tmp_path: Path) -> None:
    run = made(tmp_path / "demo", lora=False, small=CHAT)
    chatting = copy.deepcopy(tokenizer())
    chatting.chat_template = TEMPLATE
    chatting.save_pretrained(run / "tuned")
    folder = save_guide(run, tmp_path / "guide")
    assert trimtab.load(folder).template == "chat" and trimtab.load(str(folder)).vocabulary.system == "Be brief."
    said = trimtab.load(folder, template="Q: {prompt}")
    assert said.template == "Q: {prompt}" and said.vocabulary.system is None
    held = AutoModelForCausalLM.from_pretrained(folder)
    assert trimtab.load(held, chatting).template == "chat"
    plain = trimtab.load(trimtab.ModelConfig(name=str(folder), template="{prompt}"))
    assert plain.template == "{prompt}" and plain.vocabulary.system is None
    (folder / "trimtab.json").write_text('{"template": "no place"}')
    with pytest.raises(ModelError, match=r"trimtab\.json holds no prompt template .*the template 'no place' must hold"):
        trimtab.load(folder)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_card_says_data_reward_loss_beta_and_results(run: Path, tmp_path: Path, adapter: bool) -> None:
    card = ModelCard.load(save_guide(run, tmp_path / "guide", adapter=adapter) / "README.md")
    assert card.data.base_model == "someone/small" and card.data.library_name == ("peft" if adapter else "transformers")
    assert "dpo" in card.data.tags
    for fact in (
        "8 samples a prompt of the untuned model, paired by",
        "`best_worst` (the best and the worst of a prompt's samples), prompts from `imdb`",
        "`sentence-transformers/all-MiniLM-L6-v2`, fine-tuned for it, margin",
        "DPO (Rafailov et al. 2023, arXiv 2305.18290), beta 0.1",
        "| tuned | 1.23 [1.0, 1.4] |",
        "eval_accuracy 0.75",
        "a LoRA adapter of rank 16",
    ):
        assert fact in card.text, fact


def test_what_cannot_be_saved_is_one_line(run: Path, tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", lora=False)
    with pytest.raises(RunError, match="tuned all weights and has no adapter: leave out --adapter"):
        save_guide(whole, tmp_path / "guide", adapter=True)
    with pytest.raises(RunError, match=r"tuned a model that it made itself \(sft\), which its adapter needs"):
        save_guide(made(tmp_path / "sft", lora=True, sft=True), tmp_path / "guide", adapter=True)
    with pytest.raises(RunError, match="holds no tuned model"):
        save_guide(tmp_path / "nowhere", tmp_path / "guide")
    with pytest.raises(RunError, match="is there already: give a new folder"):
        save_guide(run, tmp_path)
    (next(whole.glob("tune-*")) / "summary.json").unlink()
    with pytest.raises(RunError, match="is not whole"):
        save_guide(whole, tmp_path / "guide")


def push(run: Path, *more: str, url: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """The command itself: where the hub is, is read from the environment once."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(run / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "trimtab", "push", str(run), *more]
    given = {**environment, **({} if token is None else {"HF_TOKEN": token})}
    return subprocess.run(command, capture_output=True, text=True, env=given, check=False)


def test_pushing_to_a_hub(run: Path) -> None:
    """A private repository unless told otherwise; again over what is there; mistakes are one line and exit code 2."""
    with hub() as server:
        pushed = push(run, "me/guide", "--adapter", url=server.url, token="t0ken")
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.strip() == f"{server.url}/me/guide"
        files = server.repositories["me/guide"]
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(files)
        assert server.visibility["me/guide"] == "private"
        assert files["adapter_model.safetensors"] == next(run.glob("tune-*/adapter/*.safetensors")).read_bytes()
        again = push(run, "me/guide", "--public", url=server.url, token="t0ken")
        assert again.returncode == 0 and "model.safetensors" in files, again.stderr
        for token, line in ((None, "the model hub wants a token: set HF_TOKEN"), ("wrong", "cannot be pushed")):
            refused = push(run, "me/guide", url=server.url, token=token)
            assert refused.returncode == 2 and line in refused.stderr
            assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr


@pytest.mark.parametrize("noted", ["another guide", "nothing"])
def test_a_card_has_no_table_of_another_guide(
    noted: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The report of a run directory may be older than its tuned model, or of a guide that is named."""
    changed = made(tmp_path / "changed", lora=True)
    (changed / "report/artifacts.json").unlink()
    if noted == "another guide":
        note_artifacts(changed / "report", {"tune": changed / "tune-000000000000"})
    text = (save_guide(changed, tmp_path / "guide") / "README.md").read_text()
    assert "1.23" not in text and "No decoder has been measured with it." in text
    assert "run `trimtab report`" in caplog.text


def test_a_folder_that_could_not_be_written_is_not_left_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the same command goes on where there is room again; what a killed one left is in nobody's way either."""
    (tmp_path / "guide.partial").mkdir()

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("trimtab.integrations.hub.card", full)
        with pytest.raises(RunError, match="No space left on device"):
            save_guide(run, tmp_path / "guide")
    assert not list(tmp_path.iterdir())
    assert (save_guide(run, tmp_path / "guide") / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["guide"]


@pytest.mark.parametrize(
    "step, status",
    [("/create", 0), ("/create", 500), ("/preupload/main", 403), ("/commit/main", 0), ("/commit/main", 500)],
)
def test_a_push_that_failed_midway_is_one_line_and_the_next_one_goes_through(
    run: Path, tmp_path: Path, step: str, status: int
) -> None:
    (tmp_path / "tmp").mkdir()
    with hub() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path / "tmp"))
        server.breaks, server.status = step, status
        refused = push(run, "me/guide", "--adapter", url=server.url, token="t0ken")
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert "me/guide cannot be pushed to the model hub" in refused.stderr.strip().splitlines()[-1]
        server.breaks = None
        pushed = push(run, "me/guide", "--adapter", url=server.url, token="t0ken")
        assert pushed.returncode == 0, pushed.stderr
        assert {"README.md", "adapter_model.safetensors"} <= set(server.repositories["me/guide"])
    assert not list((tmp_path / "tmp").iterdir())
