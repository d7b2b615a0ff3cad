"""What a candidate is worth to the search.

`ImplicitValue` is the paper's: log p_tuned(y|x) - log p_untuned(y|x), summed over the response's tokens (arXiv
2405.19262, equation 5; no length normalisation, no beta). Both models keep their own state, so a chunk costs only its
new tokens. `RewardValue` lets any reward guide.

    >>> value = ImplicitValue(tuned, untuned, base)                                     # doctest: +SKIP
    >>> state, values = value.advance(value.start(prompts, room=40), [0, 0], candidates)    # doctest: +SKIP
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from trimtab.errors import VocabularyError
from trimtab.models.chat_turn import Turn
from trimtab.models.encoding import common_prefix
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.shared_layers import share_lower_layers
from trimtab.records import Finish, Prompt, PromptInput
from trimtab.rewards.reward import Reward
from trimtab.rewards.reward_values import scores_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response so far: all its tokens (an end token included where one was sampled) and its text."""

    token_ids: list[int]
    text: str
    finish: Finish | None


class ValueState(Protocol):
    """What a value remembers of each row."""

    def select(self, rows: Sequence[int]) -> Self:
        """These rows, in this order."""
        ...


State = TypeVar("State", bound=ValueState)
_log = logging.getLogger(__name__)


class StatefulValue(Protocol[State]):
    """Judges growing responses."""

    def start(self, prompts: Sequence[Prompt], room: int) -> State:
        """One row a prompt, with no response yet; responses may reach `room` tokens."""
        ...

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        """Why responses of up to `room` tokens to the prompt cannot be judged; None where they can."""
        ...

    def advance(
        self, state: State, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[State, list[float]]:
        """Each candidate continues row parents[i]. A state with a row a candidate, and the candidates' values."""
        ...


Value: TypeAlias = StatefulValue[Any]
"""A value whatever its state."""


@dataclass
class ImplicitState:
    """Both models' rows, each row's response in the guides' vocabulary, and its tokens' log-ratios in nats.

    `turns` are what the base's and the guides' chat templates write around the response to each row's prompt.
    """

    tuned: DecodeState
    untuned: DecodeState
    responses: list[list[int]]
    ratios: list[list[float]]
    turns: list[tuple[Turn, Turn]]

    def select(self, rows: Sequence[int]) -> "ImplicitState":
        return ImplicitState(
            self.tuned.select(rows),
            self.untuned.select(rows),
            [self.responses[row] for row in rows],
            [self.ratios[row] for row in rows],
            [self.turns[row] for row in rows],
        )


class ImplicitValue:
    """The log-ratio of a tuned and an untuned model.

    Both are normalised over the ids that both have rows for. Candidates of a base with the same vocabulary are valued
    by their ids. An id among them that a guide lacks (a padded row, a token added to the base alone) is read as its
    text, which is nothing for padding and special tokens; where it ends the response it is read as the guides' end.

    Args:
        tuned, untuned: two models with one vocabulary, but for added tokens.
        base: the model that candidates come from, None where only their texts are known. Where its vocabulary is
            another one, or not known, texts are encoded anew, as the guides' chat template writes answers.

    Raises:
        VocabularyError: tuned and untuned have unlike vocabularies, so that their log-probabilities do not compare.
    """

    def __init__(self, tuned: LanguageModel, untuned: LanguageModel, base: LanguageModel | None) -> None:
        unlike = tuned.vocabulary.unlike_ids(untuned.vocabulary)
        if unlike is None:
            raise VocabularyError(
                f"a guide compares two models token by token, and {tuned.name} and {untuned.name} have unlike "
                "vocabularies: give the untuned model that the tuned one was made from"
            )
        self._rows = min(tuned.vocab_size, untuned.vocab_size)
        self.untuned, self.tuned = share_lower_layers(untuned.narrowed(self._rows), tuned.narrowed(self._rows))
        self._unlike = unlike
        foreign = None if base is None else base.vocabulary.unlike_ids(tuned.vocabulary)
        self._base = base
        self.same_vocabulary = foreign is not None  # then candidates are valued by their ids
        self._foreign = unlike | (foreign or frozenset())
        self._read_as: dict[int, list[int]] = {}
        ends = (model.vocabulary.end_id for model in (tuned, untuned))
        self._end = [token for token in ends if token < self._rows and token not in unlike][:1]

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.tuned.too_long(prompt.text, room) or self.untuned.too_long(prompt.text, room)

    def start(self, prompts: Sequence[Prompt], room: int) -> ImplicitState:
        texts = [prompt.text for prompt in prompts]
        untuned = self.untuned.start(texts, room)  # before the tuned one, which may take up what it has computed
        tuned, turns = self.tuned.start(texts, room), [self._turns(text) for text in texts]
        return ImplicitState(tuned, untuned, [[] for _ in prompts], [[] for _ in prompts], turns)

    def _turns(self, prompt: PromptInput) -> tuple[Turn, Turn]:
        if self.same_vocabulary or not self.tuned.vocabulary.converses(prompt):
            return Turn(), Turn()
        written_by = Turn() if self._base is None else self._base.vocabulary.turn(prompt)
        return written_by, self.tuned.vocabulary.turn(prompt)

    def advance(
        self, state: ImplicitState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[ImplicitState, list[float]]:
        turns = [state.turns[row] for row in parents]
        responses, whole = self._fitting(state, parents, self._encode(candidates, turns))
        kept = [common_prefix(state.responses[p], ids) for p, ids in zip(parents, responses, strict=True)]
        new = [ids[start:] for ids, start in zip(responses, kept, strict=True)]
        untuned, untuned_logs = _continue(self.untuned, state.untuned, parents, kept, new)
        tuned, tuned_logs = _continue(self.tuned, state.tuned, parents, kept, new)
        ratios = [
            state.ratios[p][:start] + [high - low for high, low in zip(highs, lows, strict=True)]
            for p, start, highs, lows in zip(parents, kept, tuned_logs, untuned_logs, strict=True)
        ]
        values = [sum(row) if fits else math.nan for row, fits in zip(ratios, whole, strict=True)]
        return ImplicitState(tuned, untuned, responses, ratios, turns), values

    def _encode(self, candidates: Sequence[Candidate], turns: Sequence[tuple[Turn, Turn]]) -> list[list[int]]:
        """The candidates in the guides' vocabulary; the end counts only where the base sampled it."""
        if self.same_vocabulary:
            return [self._in_guides_ids(candidate) for candidate in candidates]
        words = [base.words(candidate.text) for (base, _), candidate in zip(turns, candidates, strict=True)]
        own, ended = [guide for _, guide in turns], [candidate.finish == "eos" for candidate in candidates]
        encoded = self.tuned.vocabulary.encode_answers(own, words, ended)
        return [
            [*self._readable(ids[:-1]), *self._end] if end else self._readable(ids)
            for ids, end in zip(encoded, ended, strict=True)
        ]

    def _readable(self, ids: Sequence[int]) -> list[int]:
        """Ids of the guides' vocabulary without those that one of the guides has no row for."""
        return [token for token in ids if token < self._rows and token not in self._unlike]

    def _in_guides_ids(self, candidate: Candidate) -> list[int]:
        """The candidate's ids, each that the guides lack as its text, or as their end where it ends the response."""
        given = candidate.token_ids
        lacking = [n for n, token in enumerate(given) if token >= self._rows or token in self._foreign]
        if not lacking:
            return given
        read = {n: self._as_text(given[n]) for n in lacking}
        if candidate.finish == "eos" and len(given) - 1 in read:
            read[len(given) - 1] = self._end
        return [token for n, own in enumerate(given) for token in read.get(n, [own])]

    def _as_text(self, token: int) -> list[int]:
        """The text of one of the base's ids in the guides' vocabulary."""
        assert self._base is not None
        if token not in self._read_as:
            text = self._base.vocabulary.decode_response([], [token])
            self._read_as[token] = self._readable(self.tuned.vocabulary.encode_response(text)) if text else []
        return self._read_as[token]

    def _fitting(
        self, state: ImplicitState, parents: Sequence[int], responses: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[bool]]:
        """The responses as far as the guides can read them, and whether that is whole.

        Another tokenizer may need more tokens than the base has sampled.
        """
        ours, theirs = self.tuned.context, self.untuned.context
        lengths = zip(state.tuned.prompt_lengths, state.untuned.prompt_lengths, strict=True)
        room = [min(ours - own, theirs - other) for own, other in lengths]
        whole = [len(ids) <= room[parent] for parent, ids in zip(parents, responses, strict=True)]
        if not all(whole):
            _log.warning("a response exceeds the guides' context of %d tokens and has no value", min(ours, theirs))
        return [ids[: room[parent]] for parent, ids in zip(parents, responses, strict=True)], whole


def _continue(
    model: LanguageModel,
    state: DecodeState,
    parents: Sequence[int],
    kept: Sequence[int],
    new: Sequence[Sequence[int]],
) -> tuple[DecodeState, list[list[float]]]:
    lengths = [state.prompt_lengths[p] + count for p, count in zip(parents, kept, strict=True)]
    return model.score(state, parents, lengths, new)


@dataclass
class RewardState:
    """The prompts of the rows."""

    prompts: list[Prompt]

    def select(self, rows: Sequence[int]) -> "RewardState":
        return RewardState([self.prompts[row] for row in rows])


class RewardValue:
    """Any reward as a value: it reads each candidate's whole text anew."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def start(self, prompts: Sequence[Prompt], room: int) -> RewardState:
        return RewardState(list(prompts))

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return None

    def advance(
        self, state: RewardState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[RewardState, list[float]]:
        after = state.select(parents)
        values = scores_of(self.reward, [prompt.text for prompt in after.prompts], [each.text for each in candidates])
        return after, values
