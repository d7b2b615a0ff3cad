"""Examples for the page: the first prompts with every decoder's answer, long texts folded after their beginning.

The first and not the best, so that nothing is picked. Knows nothing of HTML.

    >>> fold("one two three", 9)
    ('one two', ' three')
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.config.experiment import Experiment
from trimtab.evaluation.coverage import answers
from trimtab.records import SET_ASIDE, Generation, PromptInput, Score
from trimtab.report.wording import number
from trimtab.search.trace import Node

PROMPT_SHOWN, RESPONSE_SHOWN = 240, 700  # characters before a fold


@dataclass(frozen=True)
class Answer:
    """What one decoder said to one prompt, the rest of a long text apart, and its reward as text (empty: none).

    `search` is how it came to it, where that was traced and there was a choice.
    """

    decoder: str
    reward: str
    text: str
    rest: str
    search: Node | None = None


@dataclass(frozen=True)
class Example:
    """One prompt, the rest of a long one apart, with every decoder's answer; `open` where the text is to go on."""

    prompt: str
    rest: str
    open: bool
    answers: list[Answer]


def examples(
    experiment: Experiment,
    scores: Mapping[str, Sequence[Score]],
    generations: Mapping[str, Sequence[Generation]],
    traces: Mapping[str, Mapping[str, Node]] | None = None,
) -> list[Example]:
    """As many examples as the experiment asks for; a prompt that a decoder did not answer shows so."""
    names = [decoder.name for decoder in experiment.guide.decoders]
    texts = {name: {answer.prompt_id: answer for answer in answers(generations[name])} for name in names}
    rewards = {name: {score.prompt_id: score.reward for score in scores[name]} for name in names}
    prompts = {answer.prompt_id: answer.prompt for name in names for answer in texts[name].values()}
    return [
        Example(
            *fold(_prompt_text(prompt), PROMPT_SHOWN),
            isinstance(prompt, str) and prompt != "",
            [
                _answer(
                    name,
                    texts[name].get(prompt_id),
                    rewards[name].get(prompt_id),
                    (traces or {}).get(name, {}).get(prompt_id),
                )
                for name in names
            ],
        )
        for prompt_id, prompt in list(prompts.items())[: experiment.evaluate.examples]
    ]


def _answer(decoder: str, generation: Generation | None, reward: float | None, search: Node | None) -> Answer:
    if generation is not None and generation.finish in SET_ASIDE:
        return Answer(decoder, "", "", "")
    shown = "not finite" if reward is not None and not math.isfinite(reward) else number(reward)
    return Answer(
        decoder, shown, *fold(generation.text.strip() if generation else "", RESPONSE_SHOWN), _with_choice(search)
    )


def _with_choice(search: Node | None) -> Node | None:
    """The search, unless it is of one candidate only."""
    return search if search is not None and len(search.children) > 1 else None


def _prompt_text(prompt: PromptInput) -> str:
    if isinstance(prompt, str):
        return prompt or "(no prompt)"
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def fold(text: str, limit: int) -> tuple[str, str]:
    """The text's beginning, cut at a space where one is near, and the rest; no rest where it would be a few words."""
    if len(text) <= 1.2 * limit:
        return text, ""
    cut = max(text.rfind(space, limit // 2, limit) for space in " \n")
    place = cut if cut > 0 else limit
    return text[:place], text[place:]
