"""The Reward protocol, and the text that most rewards judge: the prompt directly followed by the response.

A response carries its own leading space.

    >>> judged_text("I really", " liked it.")
    'I really liked it.'
    >>> judged_text([{"role": "user", "content": "Hello"}], " there")
    'Hello there'
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from trimtab.errors import DataError, shown
from trimtab.records import Message, PromptInput


@runtime_checkable
class Scorer(Protocol):
    """What has a method `score`, such as a reward of a user's own class."""

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> Any: ...


@runtime_checkable
class Named(Protocol):
    """What says of itself in messages what it is: `origin`, such as `the reward function mine.py:score`."""

    origin: str


def name_of(reward: Scorer) -> str:
    """What messages call a reward."""
    return reward.origin if isinstance(reward, Named) else f"the reward {type(reward).__name__}"


class Reward(Protocol):
    """Scores responses; higher is better.

    Scores are in nats where the reward is a difference of log-probabilities (`margin`, and the judge's log-odds), and
    in the classifier's own logit units for `positive_logit`. A score depends on its own prompt and response alone.
    NaN or infinity means no score: the response is set aside, counted, and never enters a mean.
    """

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order; both sequences have the same length."""
        ...

    @property
    def flops(self) -> float:
        """Forward FLOPs spent on scoring since this object was made."""
        ...


def judged_text(prompt: PromptInput, response: str) -> str:
    """The prompt directly followed by the response.

    Raises:
        DataError: a message has tool calls, which plain text does not show.
    """
    return plain_prompt(prompt) + response


def judged_texts(prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[str]:
    """`judged_text` of each prompt and its response.

    Raises:
        DataError: one of both is a single text, or their lengths differ; or a message has tool calls.
    """
    check_pairs(prompts, responses)
    return list(map(judged_text, prompts, responses))


def plain_prompt(prompt: PromptInput) -> str:
    """A prompt as plain text: the contents of messages, without their roles, joined by line breaks.

    Raises:
        DataError: a message has tool calls, which plain text does not show.
    """
    if isinstance(prompt, str):
        return prompt
    check_no_calls(prompt)
    return "\n".join(message["content"] for message in prompt)


def check_no_calls(messages: Sequence[Message]) -> None:
    """Raise DataError where a message has tool calls, which would be lost in a text without a chat template."""
    calls = next((message["tool_calls"] for message in messages if message.get("tool_calls")), None)
    if calls:
        raise DataError(
            f"the reward reads plain text, and a prompt has the tool calls {shown(calls)}: give a reward that reads "
            "messages (a function of prompts and responses, or a model with a chat template), or write them into the "
            "content"
        )


def check_pairs(prompts: Sequence[PromptInput], responses: Sequence[str]) -> None:
    """Raise DataError where one of both is a single text, or their lengths differ."""
    if isinstance(prompts, str) or isinstance(responses, str) or len(prompts) != len(responses):
        counts = [repr(part[:40]) if isinstance(part, str) else str(len(part)) for part in (prompts, responses)]
        raise DataError(
            f"a reward was given {counts[0]} prompts and {counts[1]} responses: give two lists of one length"
        )
