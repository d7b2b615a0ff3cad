"""The tour's blocks are run from the first to the last, on tiny models behind the names of real ones."""

import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from tiny import llama
from tiny_hub import save_causal_lm, save_chat_model
from trimtab import cli
from trimtab.assets import rows
from trimtab.pipeline.stages import COMMAND_WORDS

DOCS = Path(__file__).parents[2] / "docs"
TINY = {
    "synthesize": {"samples": 4, "max_new_tokens": 6, "rows": 16},
    "tune": {"batch_size": 4, "lora": {"rank": 2, "top_layers": 1}},
    "evaluate": {"bootstrap": 100},
    "pairs": {"strategy": "random"},  # which takes equal rewards, too
}
TINY_DATA = {"tuning_prompts": 8, "validation_prompts": 4, "test_prompts": 4}
RUN_HERE = ("# my-questions.yaml", "# my-reward.yaml", "# short-words.yaml")
"""First lines of the experiments that the pages run; the others name models that are too large for that."""
STAGES = ("run", *COMMAND_WORDS)
"""Commands that show progress unless they are quiet."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to follow the tour in."""
    save_chat_model(tmp_path / "smol")
    save_causal_lm(tmp_path / "gemma", llama(4, 300), 300)
    path_map = tmp_path / "paths.yaml"
    names = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smol", "google/gemma-3-270m": "gemma"}
    path_map.write_text(yaml.safe_dump({name: str(tmp_path / folder) for name, folder in names.items()}))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(path_map))
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tiny(name: str, text: str) -> None:
    """The experiment of a block, cut down to seconds."""
    values = yaml.safe_load(text)
    guide = {**values["guide"], "max_new_tokens": 6, "rows": 16}
    data = {**values["data"], **(TINY_DATA if values["data"]["tuning_prompts"] > TINY_DATA["tuning_prompts"] else {})}
    Path(name).write_text(yaml.safe_dump({**values, **TINY, "guide": guide, "data": data}), encoding="utf-8")


def follow(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a shell block: trimtab's commands in this process, others in a shell."""
    before, pipe, after = command.rpartition(" | ")
    words = shlex.split(after, comments=True)
    if words[:1] != ["trimtab"]:
        subprocess.run(["bash", "-e", "-c", command], check=True)
        return
    if pipe:
        piped = subprocess.run(["bash", "-c", before], check=True, capture_output=True, text=True).stdout
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
        rows.standard_input.cache_clear()
    monkeypatch.setattr("sys.argv", [*words, "--quiet"] if words[1] in STAGES else words)
    cli.main()


def commands(block: str) -> list[str]:
    """The commands of a shell block; a loop is one, and so is one that reads its text from the lines behind it."""
    return re.findall(r"^.*<<'END'\n(?:.*\n)*?END$|^for .*\n(?:.*\n)*?done$|^[^\n]+$", block, flags=re.MULTILINE)


@pytest.mark.parametrize("page", ["own-data.md", "own-reward.md", "tutorial.md"])
def test_a_page_can_be_followed(
    page: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    followed = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL):
        first, name = block.splitlines()[0], block.splitlines()[0].removeprefix("# ")
        if language == "python" and name.endswith(".py"):
            Path(name).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, page, "exec"), {})  # the page is ours
        elif language == "yaml" and first in RUN_HERE:
            write_tiny(name, block)
        elif language == "bash":
            for command in commands(block):
                follow(command, monkeypatch)
                followed += 1
    printed = capfd.readouterr().out
    if page == "own-data.md":
        assert followed == 15 and "pairs: done, in runs/my-questions" in printed
        drawn = {file.parent: file.read_text() for file in here.glob("runs/my-questions/data-*/test.jsonl")}
        (piped,) = (folder for folder, text in drawn.items() if '"source": ""' in text)
        assert "Why do rivers bend?" in "".join(file.read_text() for file in piped.glob("*.jsonl"))
        assert "start: sound; decoders base, bon-8" in printed and "evaluate.bootstrap 500" in printed
        assert load_dataset("generations", split="train").num_rows == 2 * 4
    elif page == "tutorial.md":
        assert followed == 10 and "win rate" in printed and (here / "my-guide/README.md").is_file()
        assert len((here / "prompts.csv").read_text(encoding="utf-8").splitlines()) == 97
        assert (here / "runs/short-words/report/report.html").is_file()
    else:
        assert followed == 4 and "win rate" in printed and "length-controlled" in printed
        assert (here / "model_outputs.json").read_text(encoding="utf-8").count('"generator": "my-reward:bon-4"') == 4
