"""A plug-in's value is like trimtab's own: in a file, in a decoder's name, in the search, in the report's words."""

from pathlib import Path

import pytest

from tiny import language_model
from trimtab.config.experiment import Experiment
from trimtab.config.file import parse_experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.search import ValueConfig
from trimtab.errors import ConfigurationError
from trimtab.records import Prompt
from trimtab.report.decoder_words import description
from trimtab.search.decoders import Decoder

PLUGIN = """
from trimtab.rewards.function import FunctionReward
from trimtab.search.value import RewardValue
from trimtab.search.values import VALUES, ValueKind


def brevity(context):
    assert context.gold is None and context.model is context.roles["large"]
    return RewardValue(FunctionReward(lambda texts: [-float(len(text)) for text in texts]))


VALUES.add(ValueKind(name="brevity", function=brevity, words="how short a text is"))
"""
PROMPTS = [Prompt("a", "I really"), Prompt("b", "Here is")]


class TinyRoles(dict[str, object]):
    """One large model, and none behind an endpoint."""

    served = None

    def flops(self) -> dict[str, float]:
        return {}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "my_values.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


def experiment(plugin: Path, **value: object) -> Experiment:
    decoders = [{"successors": 4, "value": {"by": "brevity", **value}}, {"successors": 4, "name": "bon"}]
    values = {"name": "demo", "plugins": [str(plugin)], "guide": {"max_new_tokens": 8, "decoders": decoders}}
    return parse_experiment(values, origin="demo.yaml")


def test_it_names_its_decoder_and_guides_the_search(plugin: Path) -> None:
    guide = experiment(plugin).guide
    decoder = guide.decoders[0]
    assert decoder.name == "bon-4-by-brevity"
    assert description(decoder) == "best-of-4 guided by how short a text is"
    assert not (decoder.guided_by_pair or decoder.guided_by_gold or decoder.uses_tuned or decoder.uses_small)
    roles = TinyRoles(large=language_model(0, ends=range(40, 90)))
    found = Decoder(decoder, guide, 3, roles).decode(PROMPTS).records  # type: ignore[arg-type]
    for prompt in PROMPTS:
        values = [each.value for each in found if each.prompt_id == prompt.id]
        lengths = [-float(len(f"{prompt.text}{each.text}")) for each in found if each.prompt_id == prompt.id]
        assert values == lengths == sorted(lengths, reverse=True) and len(values) == 4


def test_what_is_decoded_with_it_depends_on_its_code(plugin: Path) -> None:
    (value,) = experiment(plugin).guide.decoders[0].value
    before = value.identity()
    plugin.write_text(PLUGIN.replace("-float", "+float"), encoding="utf-8")
    assert list(before) == ["code of brevity"] and value.identity() != before
    assert ValueConfig().identity() == ValueConfig(by="reward").identity() == {}


def test_its_facts_are_read_from_its_entry(plugin: Path) -> None:
    assert experiment(plugin, steps="min").guide.decoders[0].name == "bon-4-by-brevity-min-of-steps"
    plugin.write_text(PLUGIN.replace("words=", "uses_pair=True, uses_gold=True, sums_tokens=True, words="))
    decoder = experiment(plugin).guide.decoders[0]
    assert decoder.guided_by_pair and decoder.guided_by_gold and decoder.uses_tuned and decoder.uses_small
    with pytest.raises(ConfigurationError, match="the brevity value is a sum over tokens already: drop steps"):
        experiment(plugin, steps="sum")


def test_an_unknown_value_is_told_the_known_ones(plugin: Path) -> None:
    experiment(plugin)
    with pytest.raises(ValueError, match="'brevety' is no value: give implicit, reward, brevity, or a function as"):
        DecoderConfig.model_validate({"successors": 2, "value": "brevety"})
