"""What a candidate is worth to the search: by a pair of models, by a reward, or by a combination of values.

Both models of a pair keep their state, so a chunk costs only its new tokens. Combined values are values, so they nest.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from trimtab.errors import VocabularyError
from trimtab.models.chat import Turn
from trimtab.models.encoding import common_prefix
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.shared_layers import share_lower_layers
from trimtab.records import Prompt, PromptInput
from trimtab.rewards.reward import Scorer
from trimtab.rewards.reward_values import scores_of, warn_of_unscored
from trimtab.search.hypothesis import Hypothesis

Combine = Literal["sum", "min"]
COMBINE: dict[Combine, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min}
_log = logging.getLogger(__name__)


@runtime_checkable
class Value(Protocol):
    """Judges growing responses.

    What it remembers of each row is its state, which only the value itself reads; `state.select(rows)` gives these
    rows, in this order.
    """

    def start(self, prompts: Sequence[Prompt], room: int) -> Any:
        """A state with one row a prompt and no response yet; responses may reach `room` tokens."""
        ...

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        """Why responses of up to `room` tokens to the prompt cannot be judged; None where they can."""
        ...

    def advance(self, state: Any, parents: Sequence[int], candidates: Sequence[Hypothesis]) -> tuple[Any, list[float]]:
        """A state with one row a candidate, and the candidates' values; candidate i continues row parents[i]."""
        ...


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
        responses, ratios = [self.responses[row] for row in rows], [self.ratios[row] for row in rows]
        tuned, untuned = self.tuned.select(rows), self.untuned.select(rows)
        return ImplicitState(tuned, untuned, responses, ratios, [self.turns[row] for row in rows])


class ImplicitValue:
    """log p_tuned(y|x) - log p_untuned(y|x), summed over the response's tokens (arXiv 2405.19262, equation 5; no length
    normalisation, no beta).

    Both are normalised over the ids that both have rows for. Candidates of a base with the same vocabulary are valued
    by their ids. An id among them that a guide lacks (a padded row, a token added to the base alone) is read as its
    text, which is nothing for padding and special tokens; where it ends the response it is read as the guides' end.

    Args:
        tuned, untuned: two models with one vocabulary, but for added tokens.
        base: the model that writes the candidates, None where only their texts are known. Where its vocabulary is
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
        self._end = self._readable([tuned.vocabulary.end_id, untuned.vocabulary.end_id])[:1]

    def __repr__(self) -> str:
        return f"ImplicitValue({self.tuned.name}, {self.untuned.name})"

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.tuned.too_long(prompt.text, room) or self.untuned.too_long(prompt.text, room)

    def start(self, prompts: Sequence[Prompt], room: int) -> ImplicitState:
        texts = [prompt.text for prompt in prompts]
        untuned = self.untuned.start(texts, room)  # before the tuned one, which may reuse what it has computed
        tuned, turns = self.tuned.start(texts, room), [self.turns(text) for text in texts]
        return ImplicitState(tuned, untuned, [[] for _ in prompts], [[] for _ in prompts], turns)

    def turns(self, prompt: PromptInput) -> tuple[Turn, Turn]:
        if self.same_vocabulary or not self.tuned.vocabulary.converses(prompt):
            return Turn(), Turn()
        return Turn() if self._base is None else self._base.vocabulary.turn(prompt), self.tuned.vocabulary.turn(prompt)

    def advance(
        self, state: ImplicitState, parents: Sequence[int], candidates: Sequence[Hypothesis]
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

    def _encode(self, candidates: Sequence[Hypothesis], turns: Sequence[tuple[Turn, Turn]]) -> list[list[int]]:
        """The candidates in the guides' vocabulary; the end counts only where the base sampled it."""
        if self.same_vocabulary:
            return [self._in_guides_ids(candidate) for candidate in candidates]
        words = [base.words(candidate.text) for (base, _), candidate in zip(turns, candidates, strict=True)]
        ended = [candidate.finish == "eos" for candidate in candidates]
        encoded = self.tuned.vocabulary.encode_answers([guide for _, guide in turns], words, ended)
        return [
            [*self._readable(ids[:-1]), *self._end] if end else self._readable(ids)
            for ids, end in zip(encoded, ended, strict=True)
        ]

    def _readable(self, ids: Sequence[int]) -> list[int]:
        """The ids without those that one of the guides has no embedding for."""
        return [token for token in ids if token < self._rows and token not in self._unlike]

    def _in_guides_ids(self, candidate: Hypothesis) -> list[int]:
        """The candidate's ids, each that the guides lack as its text, or as their end where it ends the response."""
        ids, last = candidate.token_ids, len(candidate.token_ids) - 1
        lacking = [n for n, token in enumerate(ids) if token >= self._rows or token in self._foreign]
        if not lacking:
            return ids
        read = {n: self._end if candidate.finish == "eos" and n == last else self._as_text(ids[n]) for n in lacking}
        return [token for n, same in enumerate(ids) for token in read.get(n, [same])]

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
        """The responses cut to the guides' context, and whether each is whole.

        Another tokenizer may need more tokens than the base has sampled.
        """
        tuned, untuned = self.tuned.context, self.untuned.context
        lengths = zip(state.tuned.prompt_lengths, state.untuned.prompt_lengths, strict=True)
        room = [min(tuned - first, untuned - second) for first, second in lengths]
        whole = [len(ids) <= room[parent] for parent, ids in zip(parents, responses, strict=True)]
        if not all(whole):
            _log.warning("a response exceeds the guides' context of %d tokens and has no value", min(tuned, untuned))
        return [ids[: room[parent]] for parent, ids in zip(parents, responses, strict=True)], whole


def _continue(
    model: LanguageModel, state: DecodeState, parents: Sequence[int], kept: Sequence[int], new: Sequence[Sequence[int]]
) -> tuple[DecodeState, list[list[float]]]:
    lengths = [state.prompt_lengths[p] + count for p, count in zip(parents, kept, strict=True)]
    return model.score(state, parents, lengths, new)


class NoState:
    """The state of a value that keeps nothing between steps."""

    def select(self, rows: Sequence[int]) -> "NoState":
        return self


@dataclass(eq=False)
class RewardValue:
    """Any reward as a value: it reads each candidate's whole text again in every step. A candidate without a finite
    number sets its prompt aside."""

    reward: Scorer
    _warned: bool = field(default=False, init=False, repr=False)

    def start(self, prompts: Sequence[Prompt], room: int) -> NoState:
        return NoState()

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return None

    def advance(
        self, state: NoState, parents: Sequence[int], candidates: Sequence[Hypothesis]
    ) -> tuple[NoState, list[float]]:
        prompts, texts = [one.prompt.text for one in candidates], [one.text for one in candidates]
        scores = scores_of(self.reward, prompts, texts)
        self._warned = self._warned or warn_of_unscored(self.reward, texts, scores)
        return state, scores


def by_reward_alone(value: Value) -> bool:
    """Whether rewards alone give a value, so that one that is not finite is their fault."""
    if isinstance(value, WeightedValue):
        return all(map(by_reward_alone, value.values))
    return by_reward_alone(value.value) if isinstance(value, PerToken | StepValue) else isinstance(value, RewardValue)


class PerToken:
    """Another value divided by the number of the response's tokens, as the proposer's model counts them."""

    def __init__(self, value: Value) -> None:
        self.value, self.start, self.too_long = value, value.start, value.too_long

    def advance(self, state: Any, parents: Sequence[int], candidates: Sequence[Hypothesis]) -> tuple[Any, list[float]]:
        after, values = self.value.advance(state, parents, candidates)
        lengths = [max(1, len(candidate.token_ids)) for candidate in candidates]
        return after, [value / length for value, length in zip(values, lengths, strict=True)]


@dataclass
class StepState:
    """The rows of the value, and each row's scores so far, one a chunk."""

    value: Any
    scores: list[list[float]]

    def select(self, rows: Sequence[int]) -> "StepState":
        return StepState(self.value.select(rows), [self.scores[row] for row in rows])


class StepValue:
    """The sum or the minimum of what another value gives at the end of every chunk, as process reward models are used
    (Lightman et al. 2023, arXiv 2305.20050)."""

    def __init__(self, value: Value, combine: Combine) -> None:
        self.value, self.combine, self.too_long = value, COMBINE[combine], value.too_long

    def start(self, prompts: Sequence[Prompt], room: int) -> StepState:
        return StepState(self.value.start(prompts, room), [[] for _ in prompts])

    def advance(
        self, state: StepState, parents: Sequence[int], candidates: Sequence[Hypothesis]
    ) -> tuple[StepState, list[float]]:
        after, new = self.value.advance(state.value, parents, candidates)
        scores = [[*state.scores[row], score] for row, score in zip(parents, new, strict=True)]
        return StepState(after, scores), [self.combine(row) for row in scores]


@dataclass
class WeightedState:
    """A state for each of the values."""

    states: list[Any]

    def select(self, rows: Sequence[int]) -> "WeightedState":
        return WeightedState([state.select(rows) for state in self.states])


class WeightedValue:
    """The weighted mean of several values, `(value, weight)`; weights are above 0."""

    def __init__(self, parts: Sequence[tuple[Value, float]]) -> None:
        assert parts and all(weight > 0 for _, weight in parts), "a mean needs values with weights above 0"
        self.values = [value for value, _ in parts]
        self.weights = [weight / sum(weight for _, weight in parts) for _, weight in parts]

    def start(self, prompts: Sequence[Prompt], room: int) -> WeightedState:
        return WeightedState([value.start(prompts, room) for value in self.values])

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return next((reason for value in self.values if (reason := value.too_long(prompt, room)) is not None), None)

    def advance(
        self, state: WeightedState, parents: Sequence[int], candidates: Sequence[Hypothesis]
    ) -> tuple[WeightedState, list[float]]:
        states, means = [], [0.0] * len(candidates)
        for value, weight, part in zip(self.values, self.weights, state.states, strict=True):
            after, worths = value.advance(part, parents, candidates)
            states.append(after)
            means = [mean + weight * worth for mean, worth in zip(means, worths, strict=True)]
        return WeightedState(states), means
