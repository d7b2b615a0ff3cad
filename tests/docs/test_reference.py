"""docs/reference.md and the JSON schema of experiment files are those of the configuration's classes."""

import importlib.util
import re
import types
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from pydantic import Field, TypeAdapter

from trimtab import cli
from trimtab.config.experiment import Experiment
from trimtab.config.models import Config
from trimtab.study.study_file import StudyConfig

SCRIPT = Path(__file__).parents[2] / "docs" / "write_reference.py"
PLUGIN = """
from trimtab.report.columns import COLUMNS, Column

def count(row, answers, scores):
    return len(answers)

COLUMNS.add(Column(name="words", function=count, words="words"))
"""


@pytest.fixture(scope="module")
def reference() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema(reference: types.ModuleType) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(reference.schema())


def faults(schema: jsonschema.Draft7Validator, values: Any) -> list[str]:
    return [error.message for error in schema.iter_errors(values)]


def test_page_and_schema_are_written_anew_where_a_field_changed(reference: types.ModuleType) -> None:
    stale = [str(path) for path, text in reference.written().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make reference`"


def test_a_field_without_a_description_or_an_example_is_an_error(reference: types.ModuleType) -> None:
    class Undescribed(Config):
        width: int = Field(1, examples=[4])
        """W."""
        chunk: int = Field(1, examples=[4])

    class WithoutExample(Config):
        width: int = 1
        """W."""

    class Inherits(WithoutExample):
        depth: int = Field(1, examples=[2])
        """Its own; `width` is described where it comes from."""

    with pytest.raises(SystemExit, match=r"Undescribed\.chunk has no description: write one as a string below"):
        reference.descriptions(Undescribed)
    with pytest.raises(SystemExit, match=r"WithoutExample\.width has no example: give it by Field"):
        reference.descriptions(WithoutExample)
    with pytest.raises(SystemExit, match=r"Inherits\.width has no example"):
        reference.descriptions(Inherits)


def test_every_example_is_a_value_of_its_field(
    reference: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_plugin.py").write_text(PLUGIN, encoding="utf-8")
    checked = 0
    for part in [*reference.parts(Experiment), StudyConfig]:
        for field in part.model_fields.values():
            for example in field.examples or []:
                kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
                TypeAdapter(kind).validate_python(example)
                checked += 1
    assert checked > 120


def test_each_field_has_its_row(reference: types.ModuleType) -> None:
    page = (SCRIPT.parent / "reference.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    for part in [*reference.parts(Experiment), StudyConfig]:
        rows = re.findall(r"^\| `(\w+)` \| (.+)$", sections[reference.heading(part)], flags=re.MULTILINE)
        assert {*part.model_fields} <= {name for name, _ in rows}
        assert all(len(re.split(r"(?<!\\)\|", row)) == 5 for _, row in rows), part


@pytest.mark.parametrize("file", sorted(cli.SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_keep_to_the_schema(file: Path, schema: jsonschema.Draft7Validator) -> None:
    text = re.sub(
        r"(\d)e(\d)", r"\1e+\2", file.read_text(encoding="utf-8")
    )  # PyYAML takes 2e11 for a text, editors do not
    assert faults(schema, yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "{name: a, small: me/small, large: me/large, reward: 'rewards.py:score', data: prompts.csv}",
        "{name: a, large: null, guide: {pair: zephyr, rows: auto, tuned: {adapter: me/adapter}}}",
        "{name: a, guide: {decoders: [{value: reward}, {value: [{by: reward, steps: min}]}]}}",
        "{name: a, tune: {loss: of_a_plugin, lora: null}, large: {name: b, endpoint: 'http://127.0.0.1:8000/v1'}}",
        "{name: a, experiment: {small: me/small}, grid: {tune.beta: [1, 2]}}",
    ],
)
def test_what_experiments_may_hold_is_in_the_schema(text: str, schema: jsonschema.Draft7Validator) -> None:
    assert faults(schema, yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{name: a, tune: {betta: 1}}", "'betta' was unexpected"),
        ("{name: a, tune: {beta: strong}}", "'strong' is not of type 'number'"),
        ("{name: a, guide: {decoders: [{model: larg}]}}", "'larg' is not one of"),
        ("{small: me/small}", "'name' is a required property"),
        ("{name: a, experiment: {tune: {betta: 1}}}", "is not valid under any of the given schemas"),
    ],
)
def test_an_editor_is_told_what_is_wrong(text: str, fault: str, schema: jsonschema.Draft7Validator) -> None:
    assert any(fault in line for line in faults(schema, yaml.safe_load(text)))


def test_the_schema_that_is_installed_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", "schema"])
    cli.main()
    assert Path(capsys.readouterr().out.strip()).samefile(
        SCRIPT.parents[1] / "src/trimtab/config/experiment.schema.json"
    )
