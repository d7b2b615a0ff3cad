"""A conversation and its answer as reward models read it: as messages for a chat template, or by published prompts."""

from trimtab.config.fields import fill
from trimtab.errors import DataError
from trimtab.records import Message, PromptInput
from trimtab.rewards.reward import check_no_calls, plain_prompt

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def conversation(prompt: PromptInput, response: str) -> list[Message]:
    """The prompt's messages (a string is one message of the user) and the response as the assistant's message.

    The white space before a response's first word, which belongs to the boundary, is left out. A response to a prompt
    that ends in the assistant's turn continues that turn.
    """
    turns: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if turns and turns[-1]["role"] == "assistant":
        return [*turns[:-1], {**turns[-1], "content": turns[-1]["content"] + response}]
    return [*turns, {"role": "assistant", "content": response.lstrip()}]


def ultrarm_text(prompt: PromptInput, response: str) -> str:
    """The format of openbmb/UltraRM-13b (its model card): `Human: ...`, a blank line, `Assistant: ...`.

    A system message, which it does not know, is put before the first message of the user.

    Raises:
        DataError: there are tool calls, or messages of other roles than these three.

    >>> ultrarm_text("Hello?", "Hi.")
    'Human: Hello?\\n\\nAssistant: Hi.'
    """
    turns = conversation(prompt, response)
    if turns[0]["role"] == "system":
        first, second, *others = turns
        turns = [{"role": second["role"], "content": f"{first['content']}\n\n{second['content']}"}, *others]
    check_no_calls(turns)
    other = next((turn["role"] for turn in turns if turn["role"] not in _SPEAKERS), None)
    if other is not None:
        raise DataError(
            f"UltraRM reads a system message at the beginning, and messages of user and assistant, and a prompt has "
            f"one of the role {other}: write it as one of these, or take another reward"
        )
    return "\n\n".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in turns)


def starling_text(prompt: PromptInput, response: str) -> str:
    """The format of Nexusflow/Starling-RM-34B (its model card): the turns of ChatML, without a last line break.

    Raises:
        DataError: there are tool calls.

    >>> starling_text("Hello?", "Hi.")
    '<|im_start|>user\\nHello?<|im_end|>\\n<|im_start|>assistant\\nHi.<|im_end|>'
    """
    turns = conversation(prompt, response)
    check_no_calls(turns)
    return "\n".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in turns)


def template_text(template: str, prompt: PromptInput, response: str) -> str:
    """`template` with the prompt and the response in it; the contents of several messages are joined by line breaks.

    Raises:
        DataError: there are tool calls.
    """
    return fill(template, prompt=plain_prompt(prompt), response=response)
