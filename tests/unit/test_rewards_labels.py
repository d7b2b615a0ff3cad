"""Which label is the positive one: indices, names, and what YAML makes of names."""

import json

import pytest
import yaml

from tiny_classifiers import classifier, words
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.rewards.classifier import classifier_reward
from trimtab.rewards.labels import positive_index
from trimtab.rewards.load import load_reward

BOOLEANS = ["yes", "no", "on", "off", "true", "false", "Yes", "NO", "True"]


def index(names, label, definition="positive_logit"):
    model = classifier("llama", len(names))
    model.config.id2label = dict(enumerate(names)) if isinstance(names, list) else names
    classifier_reward(model, words(), definition=definition, positive_label=label, max_length=8, batch_size=1)
    return positive_index(model.config, label, definition)


@pytest.mark.parametrize("written", BOOLEANS)
@pytest.mark.parametrize("way", ["file", "set", "python", "json"])
def test_a_boolean_is_no_label_and_the_line_says_what_to_write(tmp_path, written, way):
    value = yaml.safe_load(written)
    file = tmp_path / "mine.yaml"
    head = "name: mine\nreward:\n  model: me/judge\n"
    with pytest.raises(
        (ConfigurationError, ValueError), match=rf"{value} is no number, .*put a text in quotation marks"
    ):
        if way == "file":
            file.write_text(f"{head}  positive_label: {written}\n")
            load_experiment(file)
        elif way == "set":
            file.write_text(head)
            load_experiment(file, [f"reward.positive_label={written}"])
        elif way == "python":
            RewardConfig(model="me/judge", positive_label=value)
        else:
            RewardConfig.model_validate_json(json.dumps({"model": "me/judge", "positive_label": value}))


@pytest.mark.parametrize("written", BOOLEANS)
def test_in_quotes_it_is_the_labels_name(tmp_path, written):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nreward: {{model: me/judge, positive_label: "{written}"}}\n')
    label = load_experiment(file).reward.positive_label
    assert label == written
    assert index(["other", written], label) == 1
    assert index([written, "other"], label) == 0


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (["negative", "positive"], 1, 1),
        (["negative", "positive"], "positive", 1),
        (["negative", "positive"], "negative", 0),
        (["LABEL_0", "LABEL_1"], "LABEL_1", 1),
        (["0", "1"], "1", 1),
        (["0", "1"], 1, 1),
        (["1", "0"], "1", 0),
        (["1", "0"], "0", 1),
        (["1", "2", "3"], "3", 2),
        ([0, 1], 1, 1),
        ([1, 0], "1", 0),
        (["same", "same"], 1, 1),
        ({1: "bad", 2: "good"}, "bad", 1),
    ],
)
def test_labels_by_index_or_by_name(names, label, expected):
    assert index(names, label) == expected


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        (["negative", "positive"], True, "is a boolean"),
        (["negative", "positive"], False, "is a boolean"),
        (["negative", "positive"], 2, r"is no label .* 0 \(negative\), 1 \(positive\)"),
        (["negative", "positive"], -1, r"is no label .* 0 \(negative\), 1 \(positive\)"),
        (["negative", "positive"], "POSITIVE", r"is no label .* 1 \(positive\)"),
        (["negative", "positive"], "", r"is no label .* 1 \(positive\)"),
        (["negative", "positive"], "1", r"is no label .* 1 \(positive\)"),
        (["1", "0"], 1, r'is the index of \'0\' and the name of label 0: write the name in quotes, as "0" or "1"'),
        (["1", "2", "3"], 2, r'is the index of \'3\' and the name of label 1'),
        (["1", "2", "3"], 3, r"is no label .* 2 \(3\)"),
        (["same", "same"], "same", "is the name of several labels: give an index, of 0 .same., 1 .same."),
    ],
)  # fmt: skip
def test_what_names_no_label_or_two_is_refused_with_the_labels(names, label, said):
    with pytest.raises(ModelError, match=said) as caught:
        index(names, label)
    assert "\n" not in str(caught.value)


def named(folder, names):
    model = classifier("llama", len(names))
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("names", "definition", "wanted"),
    [
        (["POSITIVE", "NEGATIVE"], "margin", "POSITIVE"),
        (["pos", "neg"], "positive_logit", "pos"),
        (["neutral", "Negative"], "margin", "neutral"),
        (["negative", "neutral", "positive"], "positive_logit", "positive"),
    ],
)
def test_the_default_label_is_refused_where_the_names_say_that_it_is_not_the_positive_one(
    tmp_path, names, definition, wanted
):
    name = named(tmp_path / "rm", names)
    with pytest.raises(ModelError, match=rf'is label 1, {names[1]}: give its name, such as "{wanted}"'):
        load_reward(RewardConfig(model=name, definition=definition, max_length=32), Assets(), None)
    for label in (wanted, 1, "neutral" if "neutral" in names else names[1]):
        load_reward(
            RewardConfig(model=name, definition=definition, positive_label=label, max_length=32), Assets(), None
        )


@pytest.mark.parametrize("names", [["NEGATIVE", "POSITIVE"], ["LABEL_0", "LABEL_1"], ["bad", "good"], ["0", "1"]])
def test_the_default_label_serves_where_the_names_do_not_gainsay_it(tmp_path, names):
    load_reward(RewardConfig(model=named(tmp_path / "rm", names), max_length=32), Assets(), None)
