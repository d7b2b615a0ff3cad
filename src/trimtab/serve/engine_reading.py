"""What the engine reads between two steps, a slice at a time: prompts, echoed prompts, answers to be scored."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trimtab.models.language_model import DecodeState
from trimtab.records import PromptInput
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.joint_states import starting
from trimtab.serve.engine_choice import Choice, Entry, ValuedRows
from trimtab.serve.engine_tokens import Details, prompt_details

Result = TypeVar("Result")


@dataclass(eq=False)
class Reading:
    """Something that is read for `choices`, all of which have the same parts.

    `make` gives its steps, which yield between slices.
    """

    choices: list[Choice]
    make: Callable[[list[Choice]], Generator[None, None, None]]

    def __post_init__(self) -> None:
        self._steps = self.make(self.choices)

    def again(self) -> list["Reading"]:
        """The same from its beginning, for each choice alone that still needs it: it has no rows yet."""
        needing = [choice for choice in self.choices if choice.rows is None and not choice.entry.ended]
        return [Reading([choice], self.make) for choice in needing]

    def go_on(self) -> bool:
        """Read one more slice; False where nothing is left."""
        try:
            next(self._steps)
        except StopIteration:
            return False
        return True


Begin = Callable[[Choice, DecodeState, list[int], ValuedRows | None], None]
"""Called with a choice, a model's state, the choice's rows in it, and its rows in the value's state."""


def first_reading(choices: Sequence[Choice], tokens: int, begin: Begin) -> Reading:
    """Read the prompts of choices that share their parts, each request's once."""

    told: set[Choice] = set()  # their clients have the echo, also where memory runs out and all is read again

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        for entry in _entries(choices):
            if entry.request.echo and entry.echo is None:
                yield from _by_model([entry], _read_echo(entry, tokens))
        going = [choice for choice in choices if choice.entry.request.max_new_tokens]
        entries = _entries(going)
        if going:
            parts, room = entries[0].parts, max(entry.search.max_new_tokens for entry in entries)
            prompts = [_input(entry) for entry in entries]
            state = yield from _by_model(entries, parts.model.starting(prompts, room, tokens))
            valued = None
            if parts.value is not None:
                texts = [entry.choices[0].prompt for entry in entries]
                valued = yield from _counted(entries, starting(parts.value, texts, room, tokens), parts.guide_work)
        for choice in choices:
            if choice.entry.echo is not None and choice not in told:
                choice.send_echo()
                told.add(choice)
        for choice in going:
            row = entries.index(choice.entry)
            begin(choice, state, [row], None if valued is None else ValuedRows(valued.select([row]), [0]))
        for choice in set(choices) - set(going):
            choice.finish_without_text()

    return Reading(list(choices), steps)


def second_reading(choice: Choice, tokens: int, begin: Begin) -> Reading:
    """Read the prompt and the responses so far of a choice that had to make way when memory ran out."""

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        responses = choice.responses
        state, _ = yield from _by_model([choice.entry], _scored(choice.entry, responses, tokens))
        begin(choice, state, list(range(len(responses))), choice.valued)

    return Reading([choice], steps)


def last_reading(choice: Choice, answer: Hypothesis, tokens: int) -> Reading:
    """Give the answer of a search its tokens' log-probabilities, and finish it."""

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        _, (logs,) = yield from _by_model([choice.entry], _scored(choice.entry, [answer.token_ids], tokens))
        details: list[Details] = [(log, []) for log in logs]
        choice.finish(answer, details)

    return Reading([choice], steps)


def _entries(choices: Sequence[Choice]) -> list[Entry]:
    """The requests of choices, each once."""
    return list(dict.fromkeys(choice.entry for choice in choices))


def _input(entry: Entry) -> PromptInput | tuple[int, ...]:
    return entry.request.prompt if isinstance(entry.request.prompt, tuple) else entry.prompt


def _read_echo(entry: Entry, tokens: int) -> Generator[None, None, None]:
    details = None
    if entry.request.logprobs is not None:
        details = yield from prompt_details(entry.parts.model, entry.prompt_ids, entry.request.logprobs, tokens)
    entry.echo = entry.texts.tokens(entry.prompt_ids, details)


def _scored(
    entry: Entry, responses: Sequence[Sequence[int]], tokens: int
) -> Generator[None, None, tuple[Any, list[list[float]]]]:
    """Read a prompt, then responses to it: a state with a row for each, and their tokens' log-probabilities."""
    model = entry.parts.model
    state = yield from model.starting([_input(entry)], entry.search.max_new_tokens, tokens)
    return model.score(state, [0] * len(responses), [len(state.ids[0])] * len(responses), responses)


def _by_model(entries: Sequence[Entry], steps: Generator[None, None, Result]) -> Generator[None, None, Result]:
    """Steps in which the model that writes reads for these requests, and no guide."""
    model = entries[0].parts.model
    return _counted(entries, steps, lambda: (0, model.flops))


def _counted(
    entries: Sequence[Entry], steps: Generator[None, None, Result], work: Callable[[], tuple[int, float]]
) -> Generator[None, None, Result]:
    """Take these steps, and share out what they cost to the requests by their prompts' lengths.

    `work` gives how many tokens guides have read so far, and the FLOPs. The model that writes and the value that judges
    are counted apart, since one model may be both, or a part of both.
    """
    lengths = [max(1, len(entry.prompt_ids) - 1) for entry in entries]
    while True:
        tokens, flops = work()
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        finally:
            now, now_flops = work()
            for entry, length in zip(entries, lengths, strict=True):
                entry.guide += (now - tokens) * length / sum(lengths)
                entry.flops += (now_flops - flops) * length / sum(lengths)
        yield
