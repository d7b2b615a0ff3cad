"""What the engine reads between two steps, a slice at a time: prompts, echoed prompts, answers to be scored."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from trimtab.models.language_model import DecodeState
from trimtab.records import PromptInput
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.joint_states import starting
from trimtab.serve.engine_choice import Choice, Entry, ValuedRows
from trimtab.serve.engine_tokens import Details, prompt_details


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
        """The same from its beginning, for each choice alone."""
        return [Reading([choice], self.make) for choice in self.choices]

    def go_on(self) -> bool:
        """Read one more slice; False where nothing is left. Its cost is shared out by the prompts' lengths."""
        parts = self.choices[0].entry.parts
        flops, (tokens, guide_flops) = parts.model.flops, parts.guide_work()
        try:
            next(self._steps)
            return True
        except StopIteration:
            return False
        finally:
            now, now_flops = parts.guide_work()
            entries = list(dict.fromkeys(choice.entry for choice in self.choices))
            lengths = [max(1, len(entry.prompt_ids) - 1) for entry in entries]
            for entry, length in zip(entries, lengths, strict=True):
                share = length / sum(lengths)
                entry.flops += share * (parts.model.flops - flops + now_flops - guide_flops)
                entry.guide += share * (now - tokens)


Begin = Callable[[Choice, DecodeState, list[int], ValuedRows | None], None]
"""Called with a choice, a model's state, the choice's rows in it, and its rows in the value's state."""


def first_reading(choices: Sequence[Choice], tokens: int, begin: Begin) -> Reading:
    """Read the prompts of choices that share their parts, each request's once."""

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        entries = list(dict.fromkeys(choice.entry for choice in choices))
        for entry in entries:
            if entry.request.echo and entry.echo is None:
                yield from _read_echo(entry, tokens)
        going = [choice for choice in choices if choice.entry.request.max_new_tokens]
        entries = list(dict.fromkeys(choice.entry for choice in going))
        if going:
            parts, room = entries[0].parts, max(entry.search.max_new_tokens for entry in entries)
            state = yield from parts.model.starting([_input(entry) for entry in entries], room, tokens)
            valued = None
            if parts.value is not None:
                prompts = [entry.choices[0].prompt for entry in entries]
                valued = yield from starting(parts.value, prompts, room, tokens)
        for choice in choices:
            if choice.entry.echo is not None:
                choice.send_echo()
        for choice in going:
            row = entries.index(choice.entry)
            begin(choice, state, [row], None if valued is None else ValuedRows(valued.select([row]), [0]))
        for choice in set(choices) - set(going):
            choice.finish_without_text()

    return Reading(list(choices), steps)


def second_reading(choice: Choice, tokens: int, begin: Begin) -> Reading:
    """Read the prompt and the responses so far of a choice that had to make way when memory ran out."""

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        model, responses = choice.entry.parts.model, choice.responses
        state = yield from model.starting([_input(choice.entry)], choice.entry.search.max_new_tokens, tokens)
        state, _ = model.score(state, [0] * len(responses), [len(state.ids[0])] * len(responses), responses)
        begin(choice, state, list(range(len(responses))), choice.valued)

    return Reading([choice], steps)


def last_reading(choice: Choice, answer: Hypothesis, tokens: int) -> Reading:
    """Give the answer of a search its tokens' log-probabilities, and finish it."""

    def steps(choices: list[Choice]) -> Generator[None, None, None]:
        model = choice.entry.parts.model
        state = yield from model.starting([_input(choice.entry)], choice.entry.search.max_new_tokens, tokens)
        _, (logs,) = model.score(state, [0], [len(state.ids[0])], [answer.token_ids])
        details: list[Details] = [(log, []) for log in logs]
        choice.finish(answer, details)

    return Reading([choice], steps)


def _input(entry: Entry) -> PromptInput | tuple[int, ...]:
    return entry.request.prompt if isinstance(entry.request.prompt, tuple) else entry.prompt


def _read_echo(entry: Entry, tokens: int) -> Generator[None, None, None]:
    details = None
    if entry.request.logprobs is not None:
        details = yield from prompt_details(entry.parts.model, entry.prompt_ids, entry.request.logprobs, tokens)
    entry.echo = entry.texts.tokens(entry.prompt_ids, details)
