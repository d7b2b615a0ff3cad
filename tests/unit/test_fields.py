"""Kinds of fields: how texts are put into templates."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.config.fields import fill
from trimtab.rewards.conversations import template_text

TRICKY = (
    "{prompt}",
    "{response}",
    "{",
    "}",
    "{{ x }}",
    "{% raw %}",
    "$1",
    "\\1",
    "\\g<0>",
    "%s",
    "{0}",
    "\\",
    "\n",
    "a",
)
texts = st.lists(st.sampled_from(TRICKY)).map("".join) | st.text()


@settings(deadline=None)
@given(prompt=texts, response=texts)
@pytest.mark.parametrize("order", [("{prompt}", "{response}"), ("{response}", "{prompt}")])
def test_texts_stand_in_a_template_as_they_are_in_either_order(order, prompt, response):
    found = {"{prompt}": prompt, "{response}": response}
    expected = f"<{found[order[0]]}|{found[order[1]]}>"
    template = f"<{order[0]}|{order[1]}>"
    assert fill(template, prompt=prompt, response=response) == expected
    assert template_text(template, prompt, response) == expected


@settings(deadline=None)
@given(prompt=texts)
def test_a_prompt_alone_stands_in_a_template_as_it_is(prompt):
    assert fill("a {x} {prompt} {{}} {response}", prompt=prompt) == "a {x} " + prompt + " {{}} {response}"
