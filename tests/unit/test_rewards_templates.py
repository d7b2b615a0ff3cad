"""`reward.template`: prompt and response in either order, as often as they are asked for, and as they are."""

import pytest

from trimtab.experiment import RewardConfig
from trimtab.rewards.conversations import template_text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {prompt} A: {response}", "Q: {response}? A: {prompt}!"),
        ("Answer: {response}\nWas asked: {prompt}", "Answer: {prompt}!\nWas asked: {response}?"),
        ("{response}{prompt}", "{prompt}!{response}?"),
        ("{prompt} {response} {prompt}", "{response}? {prompt}! {response}?"),
        ("{{x}} {prompt} {y} {response} {", "{{x}} {response}? {y} {prompt}! {"),
    ],
)
def test_places_are_filled_once_in_any_order(template, text):
    config = RewardConfig(model="me/judge", definition="scalar", template=template)
    assert template_text(config.template, "{response}?", "{prompt}!") == text


@pytest.mark.parametrize("template", ["{prompt}", "{response}", "", "prompt response", "{ prompt } {response}", "Chat"])
def test_a_template_without_both_is_refused(template):
    with pytest.raises(ValueError, match=r"must hold \{prompt\} and \{response\}, or be chat"):
        RewardConfig(model="me/judge", definition="scalar", template=template)
