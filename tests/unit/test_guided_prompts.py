"""Prompts from Python: what `generate`, `hypotheses` and `stream` are given is checked as what stands in files is."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import trimtab
from chat_styles import chat_tokenizer
from tiny import llama
from trimtab.errors import ConfigurationError, DataError
from trimtab.search.guided_model import GuidedModel

ASKED = [{"role": "user", "content": "Name a tree."}]
IN_PARTS = [{"role": "user", "content": [{"type": "text", "text": "Name "}, {"type": "text", "text": "a tree."}]}]


@pytest.fixture(scope="module")
def guided() -> GuidedModel:
    model = trimtab.load(llama(0, 340), chat_tokenizer("chatml"), template="chat")
    search = trimtab.Search(successors=2, max_new_tokens=4)
    return trimtab.Guide.by_reward(lambda texts: [float(len(text)) for text in texts]).steer(model, search=search)


NO_PLACE = ["no place", "", "{prompt} {prompt}", "{ prompt }", "Chat", True, 5]
TAKING_A_TEMPLATE: dict[str, Callable[[Any], object]] = {
    "a loaded model": lambda template: trimtab.load(llama(0, 340), chat_tokenizer("chatml"), template=template),
    "a name": lambda template: trimtab.load("nowhere/at-all", template=template),
    "a guide": lambda template: trimtab.Guide(llama(0, 340), llama(1, 340), template=template),
    "a server": lambda template: trimtab.CompletionsModel("http://127.0.0.1:9/v1", "m", template=template),
}


@pytest.mark.parametrize("template", NO_PLACE)
@pytest.mark.parametrize("entrance", TAKING_A_TEMPLATE)
def test_a_template_without_a_place_for_the_prompt_is_one_line(entrance, template):
    with pytest.raises(ConfigurationError, match=r"^the template .* must hold \{prompt\} exactly once"):
        TAKING_A_TEMPLATE[entrance](template)


ENTRANCES: dict[str, Callable[[GuidedModel, Any], Any]] = {
    "generate": lambda guided, prompt: guided.generate(prompt),
    "generate several": lambda guided, prompt: guided.generate([ASKED, prompt])[1],
    "hypotheses": lambda guided, prompt: guided.hypotheses([prompt])[0][0].text,
    "stream": lambda guided, prompt: "".join(guided.stream(prompt)),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_parts_are_read_as_their_text(guided, entrance):
    ask = ENTRANCES[entrance]
    dated = [{**ASKED[0], "timestamp": datetime.datetime(2021, 1, 1), "name": None}]
    assert ask(guided, IN_PARTS) == ask(guided, ASKED) == ask(guided, dated)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        (5, r"prompt \d is 5 and must be a text or a list of messages"),
        (None, r"prompt \d is empty and must be a text or a list of messages"),
        ("Name a tree \ud83d", r"prompt \d is .*half of a character"),
        (
            [{"role": "user", "content": "Name a tree \ud83d"}],
            r"prompt \d, message 1: content is .*half of a character",
        ),
        ([{"role": "user", "content": None}], r"prompt \d, message 1: content is empty"),
        ([{"role": "user", "content": 5}], r"prompt \d, message 1: content is 5 and must be a text"),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            r"prompt \d, message 1: content, part 1 is of type 'image'",
        ),
        ([{"role": "human", "content": "Hi"}], r"prompt \d, message 1 has the role 'human'"),
        ([{"role": "user"}], r"prompt \d, message 1: content is empty"),
        ([*ASKED, "Hi"], r"prompt \d, message 2 is 'Hi', and no message"),
    ],
)
def test_what_models_do_not_read_is_one_line(guided, entrance, prompt, line):
    with pytest.raises(DataError, match=line) as caught:
        ENTRANCES[entrance](guided, prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompts", [{"role": "user", "content": "Hi"}, 5, None])
def test_a_single_thing_that_is_no_prompt_is_named(guided, prompts):
    with pytest.raises(DataError, match=r"prompt 1 is .* must be a text or a list of messages"):
        guided.generate(prompts)
    assert guided.generate([]) == []


def test_texts_with_braces_are_shown_as_they_are():
    model = trimtab.load(llama(0, 340), chat_tokenizer("chatml"), template="Q: {prompt} {{x}}")
    for prompt in ("{prompt}", "{prompt} $1 \\1 {{ y }} {response}", "100 %s"):
        shown = model.vocabulary.tokenizer.decode(model.vocabulary.encode_prompt(prompt, "Q: {prompt} {{x}}"))
        assert shown == f"Q: {prompt} {{{{x}}}}"


@pytest.mark.parametrize("number", [True, "5", 2.5, [3]])
@pytest.mark.parametrize("name", ["width", "successors", "chunk", "max_new_tokens", "keep", "groups", "pool"])
def test_a_number_of_the_search_that_is_none_is_one_line(name, number):
    with pytest.raises(ConfigurationError, match=f"{name} is .*: give a whole number"):
        trimtab.Search(**{name: number})


def test_numbers_of_numpy_serve():
    assert trimtab.Search(successors=np.int64(2)).candidates == 2


@pytest.mark.parametrize("number", [True, "5", 2.5, 0])
def test_a_length_that_is_no_number_is_one_line(guided, number):
    with pytest.raises(ConfigurationError, match="max_new_tokens is"):
        guided.generate("Name a tree", max_new_tokens=number)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"stop": [5]}, "stop holds 5, which is no text"),
        ({"stop": b"x"}, "stop holds b'x', which is no text"),
        ({"stop": [None]}, "stop holds None, which is no text"),
        ({"stop": ["a", ""]}, "stop holds an empty text"),
        ({"seed": -1}, "seed is -1: give a whole number of at least 0"),
        ({"seed": None}, "seed is None"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_settings_of_a_guided_model_that_are_none_are_one_line(guided, settings, line):
    guide = trimtab.Guide.by_reward(lambda texts: [0.0 for _ in texts])
    with pytest.raises(ConfigurationError, match=line):
        guide.steer(guided.base, **settings)


def test_no_stop_strings_may_be_none(guided):
    guide = trimtab.Guide.by_reward(lambda texts: [0.0 for _ in texts])
    assert guide.steer(guided.base, stop=None).stop == guide.steer(guided.base).stop == ()
