"""Candidates from a model that shows its texts alone: a `Proposer` over a completions endpoint.

A chunk is asked for by `max_tokens`, as a continuation of prompt and response so far; successors of one beam are
choices of one request, so the server reads the text once for all. The server splits the text into tokens anew each
time: where a chunk ended inside a word, the rest may be split in another way than without the end of a chunk.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.config.search import SamplingConfig
from trimtab.models.detokenize import REPLACEMENT
from trimtab.models.language_model import LanguageModel
from trimtab.models.sampling import prompt_key, uniforms
from trimtab.models.served_answer import Choice
from trimtab.models.served_model import CompletionsModel, Question
from trimtab.records import Finish, Prompt
from trimtab.search.proposer import Continuation, Fork, LanguageModelProposer, Proposer
from trimtab.search.stop_strings import Written
from trimtab.store.blocks import Within, ignored

CHARACTER_TOKENS = 4  # no character has more: asked for besides where a chunk is a part of one


@dataclass
class Texts:
    """Each row's prompt as it is sent, its response so far, and its key of random numbers; and the longest response."""

    prompts: list[str]
    responses: list[str]
    keys: list[int]
    room: int

    def select(self, rows: Sequence[int]) -> "Texts":
        prompts, responses = ([texts[row] for row in rows] for texts in (self.prompts, self.responses))
        return Texts(prompts, responses, [self.keys[row] for row in rows], self.room)


@dataclass(eq=False)
class CompletionsProposer:
    """Samples a model behind a completions endpoint.

    A response's ids stand for its tokens, of which only the number is known: the first of a chunk for the chunk's
    text, the others for nothing. Equal texts of equally many tokens have equal ids. Of the filters in `sampling`, those
    that OpenAI's own servers do not know are sent only where they are on. Whether the same `seed` gives the same texts
    is up to the server. `stop`: strings that end a response; it is cut before the first of them, also where one spans
    chunks.
    """

    model: CompletionsModel
    sampling: SamplingConfig
    seed: int
    stop: Sequence[str] = ()
    tokens = False

    def __post_init__(self) -> None:
        self.reached: Within = ignored
        self._id_of = {"": 0}

    def start(self, prompts: Sequence[Prompt], room: int) -> Texts:
        texts = [self.model.prompt_text(prompt.text) for prompt in prompts]
        return Texts(texts, [""] * len(texts), [prompt_key(prompt.id) for prompt in prompts], room)

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return None  # the server says so when it is asked

    def prompt_ids(self, state: Texts) -> list[list[int]]:
        return [[] for _ in state.prompts]

    def propose(self, state: Texts, forks: Sequence[Fork], tokens: int) -> tuple[Texts, list[Continuation]]:
        groups = [list(group) for _, group in itertools.groupby(forks, key=lambda fork: (fork.row, fork.token_ids))]
        questions = [self._question(state, group, tokens) for group in groups]
        answers = self.model.complete(questions, self.sampling, self.stop)
        self.reached(min((len(fork.token_ids) for fork in forks), default=0) / state.room + tokens / state.room)
        parts = [
            (fork, *self._completed(choice, question, state, fork))
            for group, question, choices in zip(groups, questions, answers, strict=True)
            for fork, choice in zip(group, choices, strict=True)
        ]
        written = [Written(state.responses[fork.row] + choice.text) for fork, choice, _ in parts]
        going = [n for n, (_, _, finish) in enumerate(parts) if finish is None]
        after = state.select([parts[n][0].row for n in going])
        after.responses = [written[n].text for n in going]
        row_of = {n: row for row, n in enumerate(going)}
        return after, [
            Continuation(
                self._ids(choice), finish, row_of.get(n), text.cut_before(self.stop), text.held_back(self.stop)
            )
            for n, ((_, choice, finish), text) in enumerate(zip(parts, written, strict=True))
        ]

    def _question(self, state: Texts, group: Sequence[Fork], tokens: int) -> Question:
        first = group[0]
        count = min(tokens, state.room - len(first.token_ids))
        number = uniforms(self.seed, [state.keys[first.row]], [first.slot], [len(first.token_ids)])[0]
        return Question(state.prompts[first.row] + state.responses[first.row], len(group), count, int(number * 2**31))

    def _completed(self, choice: Choice, question: Question, state: Texts, fork: Fork) -> tuple[Choice, Finish | None]:
        """The choice without a part of a character at its end, and why the response has finished, if it has."""
        length = len(fork.token_ids)
        if choice.finish == "length" and not choice.text.rstrip(REPLACEMENT) and length + choice.tokens < state.room:
            tokens = min(question.tokens + CHARACTER_TOKENS, state.room - length)
            longer = replace(question, count=1, tokens=tokens, seed=question.seed + fork.slot)
            ((choice,),) = self.model.complete([longer], self.sampling, self.stop)
        short = choice.finish == "length" and choice.tokens < question.tokens  # its context is full
        if choice.finish == "length":
            choice = replace(choice, text=choice.text.rstrip(REPLACEMENT))
        if Written(state.responses[fork.row] + choice.text).has_new(self.stop, Written("")):
            return choice, "stop"
        if choice.finish != "length":
            return choice, choice.finish
        return choice, "length" if short else None

    def _ids(self, choice: Choice) -> list[int]:
        """Ids for as many tokens as the choice has, the first of which stands for its text."""
        first = [self._id_of.setdefault(choice.text, len(self._id_of))] if choice.text else []
        return first + [0] * (choice.tokens - len(first))


def proposer_of(
    model: LanguageModel | CompletionsModel,
    sampling: SamplingConfig,
    seed: int,
    stop: Sequence[str],
    chunk_ends: Sequence[str] = (),
) -> Proposer:
    """A proposer that samples `model`; `chunk_ends` are for a model whose tokens are seen."""
    if isinstance(model, CompletionsModel):
        return CompletionsProposer(model, sampling, seed, stop=stop)
    return LanguageModelProposer(model, sampling, seed, stop=stop, chunk_ends=chunk_ends)
