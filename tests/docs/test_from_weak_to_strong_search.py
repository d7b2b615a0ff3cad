"""Each command of docs/from-weak-to-strong-search.md is parsed by the real command line, its experiment is sound, and
the settings that the page states are those of the shipped file."""

import contextlib
import re
from pathlib import Path

import pytest
import yaml

from noted_runs import note_runs, words_of
from trimtab import cli
from trimtab.config.file import load_experiment
from trimtab.config.guide import DecoderConfig

PAGE = (Path(__file__).parents[2] / "docs/from-weak-to-strong-search.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.strip().splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_sound(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = note_runs(monkeypatch)

    monkeypatch.setattr(
        "trimtab.pipeline.merge.merge_shards", lambda directories, into: ran.append((None, str(into))) or []
    )
    monkeypatch.setattr("sys.argv", words_of(line))
    with contextlib.suppress(SystemExit):
        cli.main()
    names = {until if experiment is None else experiment.name for experiment, until in ran}
    assert names in ({"imdb-gpt2"}, {"runs/imdb-gpt2"})


def test_settings_that_the_page_states_are_those_of_the_file() -> None:
    experiment = load_experiment(cli.SHIPPED / "imdb-gpt2.yaml")
    stated = re.findall(r"\| `((?:tune|data|small)\.\w+)`[^|]*\| `?([^|`]+?)`? \|", PAGE)
    assert len(stated) > 10
    for name, value in stated:
        part, _, field = name.partition(".")
        actual = vars(vars(experiment)[part])[field]
        assert str(actual or "none") == value or float(actual) == float(value), name


def test_searches_that_the_page_states_are_decoders() -> None:
    named = {
        DecoderConfig.model_validate(yaml.safe_load(text)).name
        for text in re.findall(r"\| `(\{[^`]*\})` \|", PAGE)
        if "..." not in text
    }
    assert named == {"cbs-4-4-5", "bon-16", "bon-32", "eft-1", "base"}
    assert named <= {each.name for each in load_experiment(cli.SHIPPED / "imdb-gpt2.yaml").guide.decoders}
