"""One step of the engine: a token for each row of a pool, and one call of a value for all chunks that are whole."""

import gc
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from trimtab.config.search import SamplingConfig
from trimtab.errors import RunError, TrimtabError
from trimtab.models.device import on_device
from trimtab.models.sampling import draw
from trimtab.plugins.user_errors import fault_in
from trimtab.search.joint_states import join, kind_of
from trimtab.serve.engine_choice import Choice, Entry
from trimtab.serve.engine_tokens import details_of
from trimtab.serve.row_pool import RowPool, size_class

NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""In messages of what torch raises where the memory of a CPU runs out."""

_log = logging.getLogger(__name__)


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def make_room(pools: Iterable[RowPool]) -> None:
    """Give the memory back that no row needs any more: of states that were dropped, and of rows that left these pools.

    Where there is no memory for a smaller copy of a pool, its rows stay where they are.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    for pool in pools:
        try:
            pool.shrink()
        except Exception as error:
            if not is_out_of_memory(error):
                raise


def size_of(entry: Entry) -> int:
    """The size class of a request's rows: those of unlike classes stand in states of their own."""
    return size_class(len(entry.prompt_ids) + entry.search.max_new_tokens)


def as_ours(error: Exception) -> TrimtabError:
    """The error as one line for the client; the log has the traceback of what is no error of a user."""
    if isinstance(error, TrimtabError):
        return error
    if is_out_of_memory(error):
        return RunError("memory does not hold this request even alone: lower n, width, successors or max_tokens")
    _log.error("a request has failed", exc_info=error)
    return RunError(f"the request has failed {fault_in(error)}: the server's log has more")


def draw_tokens(pool: RowPool, choices: Sequence[Choice]) -> None:
    """Draw the next token of every row of the pool, all of which belong to `choices`.

    Until the logits are computed nothing is changed, so that the step can be repeated after an error.
    """
    for choice in choices:
        choice.fork()
    flops = pool.model.flops
    logits = pool.next_logits()
    read = sum(len(choice.rows or ()) for choice in choices)
    for choice in choices:
        choice.entry.flops += (pool.model.flops - flops) * len(choice.rows or ()) / read
    drawn = _drawn(logits, pool, choices)
    details = [_details(logits, choice, tokens) for choice, tokens in zip(choices, drawn, strict=True)]
    _fork_rows(pool, choices)
    appended: list[int | None] = [None] * len(pool.ids)
    for choice, tokens in zip(choices, drawn, strict=True):
        for growth, row, token in zip(choice.growing, choice.rows or (), tokens, strict=True):
            appended[row.place] = max(token, 0) if growth.grows else None
    pool.append(appended)
    for choice, tokens, more in zip(choices, drawn, details, strict=True):
        pool.free(choice.take(tokens, more))


def _drawn(logits: torch.Tensor, pool: RowPool, choices: Sequence[Choice]) -> list[list[int]]:
    """The tokens of each choice's growing forks."""
    groups: dict[SamplingConfig, list[int]] = {}
    for index, choice in enumerate(choices):
        groups.setdefault(choice.entry.request.sampling, []).append(index)
    drawn: list[list[int]] = [[] for _ in choices]
    for sampling, members in groups.items():
        places = [[row.place for row in choices[index].sources()] for index in members]
        numbers = np.concatenate([choices[index].numbers() for index in members])
        flat = [place for row in places for place in row]
        needed = sorted(set(flat))
        if len(needed) == len(logits):
            tokens = iter(draw(logits, flat, numbers, sampling, pool.ids))
        else:
            at = {place: row for row, place in enumerate(needed)}
            part, seen = logits[on_device(needed, logits.device)], [pool.ids[place] for place in needed]
            tokens = iter(draw(part, [at[place] for place in flat], numbers, sampling, seen))
        for index, row in zip(members, places, strict=True):
            drawn[index] = [next(tokens) for _ in row]
    return drawn


def _details(logits: torch.Tensor, choice: Choice, tokens: Sequence[int]) -> Any:
    """Log-probabilities of the drawn tokens, where they are noted at each draw."""
    count = choice.entry.request.logprobs
    if count is None or not choice.wants_details or min(tokens) < 0:
        return None
    places = on_device([row.place for row in choice.sources()], logits.device)
    return details_of(logits[places], tokens, count)


def _fork_rows(pool: RowPool, choices: Sequence[Choice]) -> None:
    """Give each fork a row of its own: its parent's to the first, a copy to each other."""
    fresh = [(choice, choice.sources()) for choice in choices if choice.fresh]
    parents = [row for _, rows in fresh for row in rows]
    firsts = {id(row): index for index, row in reversed(list(enumerate(parents)))}
    is_first = [firsts[id(row)] == index for index, row in enumerate(parents)]
    copies = iter(pool.fork([row for row, first in zip(parents, is_first, strict=True) if not first]))
    own = iter([row if first else next(copies) for row, first in zip(parents, is_first, strict=True)])
    for choice, rows in fresh:
        choice.rows, choice.fresh = [next(own) for _ in rows], False


class Judging:
    """Chunks that are whole, of choices of one size that share a value and whose states join."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = list(choices)

    @classmethod
    def groups(cls, choices: Sequence[Choice]) -> list["Judging"]:
        """The choices in groups that one call can judge each."""
        groups: dict[Any, list[Choice]] = {}
        for choice in choices:
            value = choice.entry.parts.value
            assert choice.valued is not None
            kind = kind_of(choice.valued.state)
            key = (id(value), kind, size_of(choice.entry)) if kind is not None else id(choice)
            groups.setdefault(key, []).append(choice)
        return [cls(group) for group in groups.values()]

    def _in_one_state(self) -> tuple[Any, dict[Choice, Sequence[int]]]:
        """A state that holds all beams, and the rows of each choice's own: mostly the one that the last call left."""
        rows: dict[Choice, Sequence[int]] = {}
        shared: dict[int, tuple[Any, list[Choice]]] = {}
        for choice in self.choices:
            assert choice.valued is not None
            rows[choice] = choice.valued.rows
            shared.setdefault(id(choice.valued.state), (choice.valued.state, []))[1].append(choice)
        if len(shared) == 1:
            return next(iter(shared.values()))[0], rows
        parts, first = [], 0
        for state, choices in shared.values():
            parts.append(state.select([row for choice in choices for row in rows[choice]]))
            for choice in choices:
                rows[choice] = range(first, first + len(rows[choice]))
                first += len(rows[choice])
        return join(parts), rows

    def halves(self) -> list["Judging"]:
        """The same choices in two groups."""
        middle = len(self.choices) // 2
        return [Judging(self.choices[:middle]), Judging(self.choices[middle:])]

    def values(self) -> tuple[Any, list[list[float]]]:
        """The value's new state, with a row for each candidate of all choices, and the candidates' values.

        Nothing of the choices is changed, so that it can be repeated after an error.
        """
        parts = self.choices[0].entry.parts
        assert parts.value is not None
        state, rows = self._in_one_state()
        parents, candidates = [], []
        for choice in self.choices:
            parents += [rows[choice][beam] for beam in choice.parents]
            candidates += choice.candidates
        before = parts.guide_work()
        after, values = parts.value.advance(state, parents, candidates)
        tokens, flops = (now - then for now, then in zip(parts.guide_work(), before, strict=True))
        read = [choice.guide_tokens for choice in self.choices]
        for choice, count in zip(self.choices, read, strict=True):
            share = count / sum(read) if any(read) else 1 / len(read)
            choice.entry.guide += share * tokens
            choice.entry.flops += share * flops
        numbers = iter(values)
        return after, [[next(numbers) for _ in choice.candidates] for choice in self.choices]
