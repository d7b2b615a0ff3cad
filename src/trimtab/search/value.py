"""What a candidate is worth to the search.

`ImplicitValue` is the paper's: log p_tuned(y|x) - log p_untuned(y|x), summed over the response's tokens (arXiv
2405.19262, equation 5; no length normalisation, no beta). Both models keep their own state, so a chunk costs only its
new tokens. `RewardValue` lets any reward guide. Knows nothing of where candidates come from.

    >>> value = ImplicitValue(tuned, untuned, base)                                     # doctest: +SKIP
    >>> state, values = value.advance(value.start(prompts, room=40), [0, 0], candidates)    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from trimtab.errors import VocabularyError
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.trunk import share_trunk
from trimtab.models.turn import Turn
from trimtab.records import Finish, Prompt, PromptInput
from trimtab.rewards.reward import Reward
from trimtab.search.retokenize import common_prefix


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


class StatefulValue(Protocol[State]):
    """Judges growing responses."""

    def start(self, prompts: Sequence[Prompt], room: int) -> State:
        """One row a prompt, with no response yet; responses may reach `room` tokens."""
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

    Args:
        tuned, untuned: two models with one vocabulary.
        base: the model that candidates come from, None where only their texts are known. Where its vocabulary is
            another one, or not known, texts are encoded anew, as the guides' chat template writes answers.

    Raises:
        VocabularyError: tuned and untuned have unlike vocabularies, so that their log-probabilities do not compare.
    """

    def __init__(self, tuned: LanguageModel, untuned: LanguageModel, base: LanguageModel | None) -> None:
        if tuned.vocabulary.fingerprint != untuned.vocabulary.fingerprint:
            raise VocabularyError(
                f"a guide compares two models token by token, and {tuned.name} and {untuned.name} have unlike "
                "vocabularies: give the untuned model that the tuned one was made from"
            )
        self.base = base
        self.untuned, self.tuned = share_trunk(untuned, tuned)
        self.same_vocabulary = base is not None and base.vocabulary.fingerprint == tuned.vocabulary.fingerprint

    def start(self, prompts: Sequence[Prompt], room: int) -> ImplicitState:
        texts = [prompt.text for prompt in prompts]
        untuned = self.untuned.start(texts, room)  # before the tuned one, which may take up what it has computed
        tuned, turns = self.tuned.start(texts, room), [self._turns(text) for text in texts]
        return ImplicitState(tuned, untuned, [[] for _ in prompts], [[] for _ in prompts], turns)

    def _turns(self, prompt: PromptInput) -> tuple[Turn, Turn]:
        if self.same_vocabulary or not self.tuned.vocabulary.converses(prompt):
            return Turn(), Turn()
        return (Turn() if self.base is None else self.base.vocabulary.turn(prompt)), self.tuned.vocabulary.turn(prompt)

    def advance(
        self, state: ImplicitState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[ImplicitState, list[float]]:
        turns = [state.turns[row] for row in parents]
        responses = self._encode(candidates, turns)
        kept = [common_prefix(state.responses[p], ids) for p, ids in zip(parents, responses, strict=True)]
        new = [ids[start:] for ids, start in zip(responses, kept, strict=True)]
        untuned, untuned_logs = _continue(self.untuned, state.untuned, parents, kept, new)
        tuned, tuned_logs = _continue(self.tuned, state.tuned, parents, kept, new)
        ratios = [
            state.ratios[p][:start] + [high - low for high, low in zip(highs, lows, strict=True)]
            for p, start, highs, lows in zip(parents, kept, tuned_logs, untuned_logs, strict=True)
        ]
        return ImplicitState(tuned, untuned, responses, ratios, turns), [sum(row) for row in ratios]

    def _encode(self, candidates: Sequence[Candidate], turns: Sequence[tuple[Turn, Turn]]) -> list[list[int]]:
        """The candidates in the guides' vocabulary; the end counts only where the base sampled it."""
        if self.same_vocabulary:
            return [candidate.token_ids for candidate in candidates]
        words = [base.words(candidate.text) for (base, _), candidate in zip(turns, candidates, strict=True)]
        own = [guide for _, guide in turns]
        return self.tuned.vocabulary.encode_answers(own, words, [each.finish == "eos" for each in candidates])


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

    def advance(
        self, state: RewardState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[RewardState, list[float]]:
        after = state.select(parents)
        values = self.reward.score([prompt.text for prompt in after.prompts], [each.text for each in candidates])
        return after, values
