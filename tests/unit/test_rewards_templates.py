"""What a reward reads of a prompt and a response: by `reward.template`, as plain text, and by chat templates."""

import pytest

from chat_styles import STYLES, chat_tokenizer
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, DataError
from trimtab.models.chat import ChatTemplate
from trimtab.records import Message
from trimtab.rewards.conversations import conversation, starling_text, template_text, ultrarm_text
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import judged_text
from trimtab.rewards.scalar import answered

USER: Message = {"role": "user", "content": "Which tree?"}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"kind": "tree"}}}
CALLED: list[Message] = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "oak"},
]
PLAIN = {
    "alone": judged_text,
    "template": lambda prompt, response: template_text("Q: {prompt} A: {response}", prompt, response),
    "ultrarm": ultrarm_text,
    "starling": starling_text,
}


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
    with pytest.raises(ConfigurationError, match=r"must hold \{prompt\} and \{response\}, or be chat"):
        RewardConfig(model="me/judge", definition="scalar", template=template)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_text_loses_no_tool_calls_without_a_word(kind):
    with pytest.raises(DataError, match=r"reads plain text, and a prompt has the tool calls \[\{'type': 'function'"):
        PLAIN[kind](CALLED, "An oak.")


def test_a_function_of_messages_reads_tool_calls_and_one_of_texts_says_that_it_cannot():
    seen = []
    reward = FunctionReward(lambda prompts, responses: seen.extend(prompts) or [1.0])
    assert reward.score([CALLED], ["An oak."]) == [1.0] and seen == [CALLED]
    with pytest.raises(DataError, match="give a reward that reads messages"):
        FunctionReward(lambda texts: [1.0]).score([CALLED], ["An oak."])


@pytest.mark.parametrize("role", ["tool", "developer", "function", "ipython", "system"])
def test_ultrarm_names_a_role_that_it_does_not_know(role):
    prompt: list[Message] = [USER, {"role": "assistant", "content": "x"}, {"role": role, "content": "oak"}, USER]
    with pytest.raises(DataError, match=f"a prompt has one of the role {role}: write it as one of these"):
        ultrarm_text(prompt, "An oak.")
    assert ultrarm_text([{"role": "system", "content": "Be brief."}, USER], "Oak.") == (
        "Human: Be brief.\n\nWhich tree?\n\nAssistant: Oak."
    )


@pytest.mark.parametrize("style", STYLES)
def test_what_a_template_writes_before_answers_is_read_once(style):
    made = chat_tokenizer(style)
    chat, before = ChatTemplate(made), STYLES[style].before or ""
    for prompt in ("Which tree?", [USER]):
        given = [answered(chat, prompt, text) for text in ("An oak.", f"{before}An oak.")]
        assert given[0] == given[1] == conversation(prompt, "An oak.")


def test_what_stands_beside_a_begun_answer_stays():
    begun: list[Message] = [USER, {"role": "assistant", "content": "An", "reasoning_content": "hm"}]
    assert conversation(begun, " oak.") == [
        USER,
        {"role": "assistant", "content": "An oak.", "reasoning_content": "hm"},
    ]
