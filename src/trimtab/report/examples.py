"""Examples for the page: the first prompts, not picked ones, with every decoder's answer.

>>> fold("one two three", 9)
('one two', ' three')
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.evaluation.coverage import answers
from trimtab.records import SET_ASIDE, Generation, PromptInput, Score
from trimtab.report.wording import number
from trimtab.search.trace import Node

PROMPT_SHOWN, RESPONSE_SHOWN = 240, 700  # characters before a fold


@dataclass(frozen=True)
class Answer:
    """A decoder's answer: its reward as text (empty: none), its beginning and the rest, and its search if traced."""

    decoder: str
    reward: str
    text: str = ""
    rest: str = ""
    search: Node | None = None


@dataclass(frozen=True)
class Example:
    """A prompt, its beginning and the rest, with every decoder's answer; answers continue an `open` prompt's text."""

    prompt: str
    rest: str
    open: bool
    answers: list[Answer]


def examples(
    count: int,
    scores: Mapping[str, Sequence[Score]],
    generations: Mapping[str, Sequence[Generation]],
    traces: Mapping[str, Mapping[str, Node]] | None = None,
) -> list[Example]:
    """The first `count` prompts, with the answers of the decoders in `generations`, empty where there is none."""
    texts = {name: {answer.prompt_id: answer for answer in answers(some)} for name, some in generations.items()}
    rewards = {name: {score.prompt_id: score.reward for score in scores[name]} for name in texts}
    prompts = {answer.prompt_id: answer.prompt for entries in texts.values() for answer in entries.values()}

    def answer(decoder: str, prompt_id: str) -> Answer:
        generation, reward = texts[decoder].get(prompt_id), rewards[decoder].get(prompt_id)
        if generation is None or generation.finish in SET_ASIDE:
            return Answer(decoder, "")
        reward_text = "not finite" if reward is not None and not math.isfinite(reward) else number(reward)
        search = (traces or {}).get(decoder, {}).get(prompt_id)
        chosen = search if search is not None and len(search.children) > 1 else None
        return Answer(decoder, reward_text, *fold(generation.text.strip(), RESPONSE_SHOWN), chosen)

    return [
        Example(
            *fold(_prompt_text(prompt), PROMPT_SHOWN),
            isinstance(prompt, str) and prompt != "",
            [answer(decoder, prompt_id) for decoder in texts],
        )
        for prompt_id, prompt in list(prompts.items())[:count]
    ]


def _prompt_text(prompt: PromptInput) -> str:
    if isinstance(prompt, str):
        return prompt or "(no prompt)"
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def fold(text: str, limit: int) -> tuple[str, str]:
    """The text's beginning, cut at a space where one is near, and the rest; no rest where it would be a few words."""
    if len(text) <= 1.2 * limit:
        return text, ""
    cut = max(text.rfind(space, limit // 2, limit) for space in " \n")
    return (text[:cut], text[cut:]) if cut > 0 else (text[:limit], text[limit:])
