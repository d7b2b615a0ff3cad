"""What YAML makes of texts without quotation marks: never taken for the text, and never a number for a boolean."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.assets.resolve import read_path_map
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment, override, parse_experiment
from trimtab.config.guides import guide_pairs
from trimtab.config.models import Config, types_in
from trimtab.errors import ConfigurationError, TrimtabError
from trimtab.study.study_file import load_study

BOOLEANS = ("yes", "No", "on", "OFF", "true", "False")
NUMBERS = ("7", "-3", "1.5", "1e+3.", ".5", "0x1F", "1_000")
DATES = ("2021-01-01", "2021-01-01 12:00:00", "2021-01-01T12:00:00Z")
BASES = ("012", "-07", "1:30", "12:00:30.5", "00")
NOTHING = ("~", "null", "")
TAKEN = (*BOOLEANS, "7", "1.5", ".5", *DATES, *BASES, *NOTHING)

FIELDS = {
    "small.name": "small: {name: %s}",
    "small.template": "small: {name: a, template: %s}",
    "small.system": "small: {name: a, template: chat, system: %s}",
    "small.start_token": "small: {name: a, start_token: %s}",
    "name": "name: %s",
    "reward.by": "reward: {by: %s}",
    "guide.stop.0": "guide: {stop: [%s]}",
    "guide.decoders.0.name": "guide: {decoders: [{name: %s}]}",
    "guide.decoders.0.vote": "guide: {decoders: [{successors: 4, vote: %s}]}",
    "guide.pair": "guide: {pair: %s}",
    "data.instructions": "data: {instructions: %s}",
    "data.instructions.columns.prompt": "data: {instructions: {name: a, columns: {prompt: %s}}}",
}
NULLABLE = {"small.system", "small.start_token", "reward.by", "guide.decoders.0.vote", "data.instructions",
            "data.instructions.columns.prompt", "guide.decoders.0.name", "guide.stop.0"}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", TAKEN)
def test_a_text_that_yaml_takes_for_something_else_is_refused_with_the_remedy(tmp_path, field, value):
    if value in NOTHING and field in NULLABLE:
        return
    file = tmp_path / "demo.yaml"
    file.write_text(("" if field == "name" else "name: demo\n") + FIELDS[field] % value)
    with pytest.raises(ConfigurationError, match="quotation marks") as caught:
        load_experiment(file)
    said = str(caught.value)
    assert "\n" not in said and (field in said or value in BASES), said


@pytest.mark.parametrize("value", [*BOOLEANS, *DATES, *BASES, "7", "~"])
def test_in_quotation_marks_it_is_the_text(tmp_path, value):
    file = tmp_path / "demo.yaml"
    file.write_text(f'name: demo\nsmall: {{name: "{value}"}}\nguide: {{stop: ["{value}"]}}\n')
    made = load_experiment(file)
    assert (made.small.name, made.guide.stop) == (value, (value,))


@pytest.mark.parametrize("value", [*BOOLEANS, *DATES, *BASES])
def test_overrides_are_read_as_strictly(value):
    values = {"name": "demo"}
    faults = override(values, [f"small.name={value}"])
    with pytest.raises(ConfigurationError, match="quotation marks"):
        parse_experiment(values, origin="demo", faults=faults)


def parts(kind: type[Config], place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], set[type]]]:
    """The numeric fields of a part and the parts in it: their places, and the types that each takes."""
    found = []
    for name, field in kind.model_fields.items():
        kinds = types_in(field.annotation)
        found += [((*place, name), kinds)] if {int, float} & kinds and bool not in kinds else []
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, Config):
                found += parts(inner, (*place, name))
    return found


@pytest.mark.parametrize("place", sorted({place for place, _ in parts(Experiment)}), ids=".".join)
@pytest.mark.parametrize("value", [True, False])
def test_no_boolean_is_a_number_anywhere(place, value):
    """`successors: yes` was 1."""
    given: object = value
    for name in reversed(place):
        given = {name: given}
        if name in ("decoders", "value", "emulate"):
            given = {name: [given[name]]}
    assert isinstance(given, dict)
    with pytest.raises(ConfigurationError, match="is no n") as caught:
        parse_experiment({"name": "demo", **given}, origin="demo")
    assert repr(value) in str(caught.value)


def test_no_boolean_is_a_number_in_a_list():
    with pytest.raises(ConfigurationError, match=r"data\.prompt_words: True is no number"):
        parse_experiment({"name": "demo", "data": {"prompt_words": [True, 3]}}, origin="demo")


@pytest.mark.parametrize("content", ["yes: folder", "12: folder", "2021-01-01: folder", "~: folder"])
def test_names_of_the_path_map_and_of_guides_are_texts(tmp_path, content):
    (tmp_path / "names.yaml").write_text(content)
    for read in (read_path_map, guide_pairs):
        with pytest.raises(TrimtabError, match=r"has the name .* quotation marks"):
            read(tmp_path / "names.yaml")


@pytest.mark.parametrize("value", [*BOOLEANS, *DATES, *BASES, "7"])
def test_folders_and_models_there_are_texts(tmp_path, value):
    (tmp_path / "paths.yaml").write_text(f"me/tiny: {value}")
    with pytest.raises(TrimtabError, match="quotation marks"):
        read_path_map(tmp_path / "paths.yaml")
    (tmp_path / "guides.yaml").write_text(f"mine: {{untuned: {{name: a}}, tuned: {{name: {value}}}}}")
    with pytest.raises(ConfigurationError, match="quotation marks"):
        guide_pairs(tmp_path / "guides.yaml")


@pytest.mark.parametrize(
    "line", ["name: 2021-01-01", "name: on", "baseline: 1", "measure: [no]", "grid: {case: {yes: {tune.beta: 1}}}",
             "overrides: {small.name: 12}", "grid: {small.name: [yes, no]}"],
)  # fmt: skip
def test_texts_of_a_study_are_texts(tmp_path, line):
    start = "" if line.startswith("name") else "name: demo\n"
    start += "" if line.startswith("grid") else "grid: {tune.beta: [1, 2]}\n"
    (tmp_path / "study.yaml").write_text(f"{start}experiment: {{name: demo}}\n{line}\n")
    with pytest.raises(ConfigurationError, match="quotation marks"):
        load_study(tmp_path / "study.yaml")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_text_in_an_experiment_is_the_text_as_written(text):
    assert parse_experiment({"name": "demo", "small": {"name": text}}, origin="demo").small.name == text


def test_halves_of_characters_are_refused(tmp_path):
    (tmp_path / "demo.yaml").write_text('name: demo\nsmall: {name: a, template: chat, system: "\\ud83d"}\n')
    with pytest.raises(ConfigurationError, match="half of a character"):
        load_experiment(tmp_path / "demo.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("? [a, b]\n: 1", "a list or mapping is no name"),
        ("? {a: b}\n: 1", "a list or mapping is no name"),
        ("seed: !!bool 5", "a tag, such as !!bool, does not fit its value"),
        ("seed: !!timestamp soon", "does not fit its value"),
        ('seed: !!int ""', "does not fit its value"),
        ("seed: !!int five", "cannot be read as YAML"),
        ("small: !!map [a]", "cannot be read as YAML"),
    ],
)
def test_what_yaml_cannot_hold_is_one_line(tmp_path, line, message):
    (tmp_path / "demo.yaml").write_text(f"name: demo\n{line}\n")
    with pytest.raises(ConfigurationError, match=message) as refused:
        load_experiment(tmp_path / "demo.yaml")
    assert "\n" not in str(refused.value)


def test_whole_numbers_name_a_decoder_as_whole_numbers():
    decoders = [{"successors": 4.0}, {"width": 2.0, "successors": 2, "chunk": 5.0}]
    made = parse_experiment({"name": "demo", "guide": {"decoders": decoders}}, origin=str(Path("demo")))
    assert [each.name for each in made.guide.decoders] == ["bon-4", "cbs-2-2-5"]


@pytest.mark.parametrize("text", ["Question: {prompt}", "[{prompt}]", "{prompt}"])
def test_a_template_that_yaml_takes_for_a_mapping_or_list_is_refused_with_the_remedy(tmp_path, text):
    (tmp_path / "demo.yaml").write_text("name: demo\nsmall: {name: a}\n")
    with pytest.raises(ConfigurationError, match=r"small\.template.*in quotation marks"):
        load_experiment(tmp_path / "demo.yaml", [f"small.template={text}"])
    made = load_experiment(tmp_path / "demo.yaml", [f'small.template="{text}"'])
    assert made.small.template == text
