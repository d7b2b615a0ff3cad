"""Emulated fine-tuning: a language model whose logits are a weighted sum of other models' logits.

logits = base + sum_i w_i (tuned_i - untuned_i) (Mitchell et al. 2024, "An Emulator for Fine-Tuning Large Language
Models using Small Language Models"). Each model reads the prompt in its own template and keeps its own cache. A model
that occurs in the sum more than once is run once, with the sum of its weights, and not at all where that is 0: so
weight 0 is the base itself, and over the untuned model weight 1 is the tuned one itself.
"""

from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from trimtab.errors import ConfigurationError, check_finite, check_type, shown
from trimtab.models.language_model import DecodeState, LanguageModel, StatefulModel, check_ids, side_by_side
from trimtab.models.shared_layers import share_lower_layers
from trimtab.models.vocabulary import check_end, check_one_vocabulary
from trimtab.records import PromptInput


@dataclass
class EmulatedState:
    """One state per model, all with the same responses; `ids` are the rows as the first model reads them."""

    states: list[DecodeState]

    @property
    def ids(self) -> list[list[int]]:
        return self.states[0].ids

    @property
    def prompt_lengths(self) -> list[int]:
        return self.states[0].prompt_lengths

    def select(self, rows: Sequence[int]) -> Self:
        return type(self)([state.select(rows) for state in self.states])

    def append(self, tokens: Sequence[int | None]) -> None:
        for state in self.states:
            state.append(tokens)

    @property
    def kind(self) -> Hashable:
        return tuple(state.kind for state in self.states)

    def place(self, source: Self, rows: Sequence[int], places: Sequence[int]) -> None:
        for state, other in zip(self.states, source.states, strict=True):
            state.place(other, rows, places)

    def truncate(self, count: int) -> None:
        for state in self.states:
            state.truncate(count)

    def read_again(self, rows: Sequence[int]) -> None:
        for state in self.states:
            state.read_again(rows)


class EmulatedModel:
    """A sum of language models that share one vocabulary; `terms` are (model, weight), the base first.

    It reads and predicts the ids that all of them have: those below the least vocabulary size. Ids that stand for
    different tokens in any two of them (`Vocabulary.unlike_ids`) have no probability.
    """

    def __init__(self, terms: Sequence[tuple[LanguageModel, float]], name: str) -> None:
        self.models = [model for model, _ in terms]
        self.weights = [weight for _, weight in terms]
        self.vocabulary = self.models[0].vocabulary
        self.name = name
        self.template = self.models[0].template
        self.context = min(model.context for model in self.models)
        self.vocab_size = min(model.vocab_size for model in self.models)
        unlike = [self.vocabulary.unlike_ids(model.vocabulary) for model in self.models[1:]]
        self._excluded = sorted({token for ids in unlike for token in ids or () if token < self.vocab_size})

    def __repr__(self) -> str:
        return f"<EmulatedModel {self.name}>"

    def narrowed(self, vocab_size: int) -> "EmulatedModel":
        terms = zip(self.models, self.weights, strict=True)
        return EmulatedModel([(model.narrowed(vocab_size), weight) for model, weight in terms], self.name)

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        reasons = (model.too_long(prompt, room) for model in self.models)
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def flops(self) -> float:
        return sum(model.flops for model in self.models)

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> EmulatedState:
        return EmulatedState([model.start(prompts, room, truncate=truncate) for model in self.models])

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> EmulatedState:
        return EmulatedState([model.start_ids(prompts, room) for model in self.models])

    def starting(
        self, prompts: Sequence[PromptInput | tuple[int, ...]], room: int, tokens: int
    ) -> Generator[None, None, EmulatedState]:
        states = yield from side_by_side([model.starting(prompts, room, tokens) for model in self.models])
        return EmulatedState(states)

    def logits_along(self, ids: Sequence[int], tokens: int) -> Iterator[torch.Tensor]:
        for parts in zip(*[model.logits_along(ids, tokens) for model in self.models], strict=True):
            yield self._sum(parts)

    def next_logits(self, state: EmulatedState) -> torch.Tensor:
        return self._sum([model.next_logits(part) for model, part in zip(self.models, state.states, strict=True)])

    def _sum(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        # each model's logits are valid until its own next call only, and heads may be padded to unlike widths
        total = parts[0][:, : self.vocab_size] * self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            total += weight * part[:, : self.vocab_size].to(total.device)  # heads may lie on unlike devices
        if self._excluded:
            total[:, self._excluded] = -torch.inf
        return total

    def score(
        self, state: EmulatedState, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[EmulatedState, list[list[float]]]:
        check_ids(self.name, self.vocabulary, self.vocab_size, tokens)
        # A sum of logits has its own normalizer, so the models advance together, a token at a time.
        cut = [len(state.ids[p]) - kept for p, kept in zip(parents, keep, strict=True)]
        forks: list[DecodeState] = []
        for model, part in zip(self.models, state.states, strict=True):
            kept = [len(part.ids[p]) - count for p, count in zip(parents, cut, strict=True)]
            forks.append(model.score(part, parents, kept, [[] for _ in parents])[0])
        logs = [[0.0] * len(new) for new in tokens]
        order = list(range(len(tokens)))
        current = EmulatedState(forks).select(order)  # a copy: the forks themselves read all tokens at once below
        for step in range(max(map(len, tokens), default=0)):
            going = [index for index, row in enumerate(order) if step < len(tokens[row])]
            current = current.select(going) if len(going) < len(order) else current
            order = [order[index] for index in going]
            next_tokens = torch.tensor([tokens[row][step] for row in order])
            logits = self.next_logits(current)
            normalized = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
            values = normalized.gather(1, next_tokens.to(logits.device)[:, None])
            for row, value in zip(order, values.flatten().tolist(), strict=True):
                logs[row][step] = value
            current.append(next_tokens.tolist())
        children = [
            model.score(fork, range(len(tokens)), [len(row) for row in fork.ids], tokens)[0]
            for model, fork in zip(self.models, forks, strict=True)
        ]
        return EmulatedState(children), logs


def emulate(base: LanguageModel, pairs: Sequence[tuple[LanguageModel, LanguageModel, float]]) -> LanguageModel:
    """base + the sum of weight * (tuned - untuned) over `pairs` of (tuned, untuned, weight).

    Raises:
        ConfigurationError: something else than models and finite weights.
        VocabularyError: the models do not all have the same vocabulary.
    """
    check_type("pairs", pairs, Sequence, "a list of (tuned, untuned, weight)")
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 3:
            raise ConfigurationError(f"pairs holds {shown(pair)}: give (tuned, untuned, weight)")
        check_finite("a weight", pair[2])
    for model in [base, *(model for tuned, untuned, _ in pairs for model in (tuned, untuned))]:
        check_type("a model", model, StatefulModel, "one as trimtab.load gives it")
    for model in [model for tuned, untuned, _ in pairs for model in (tuned, untuned)]:
        check_one_vocabulary(base, model)
        check_end(base, model)
    terms: dict[int, tuple[LanguageModel, float]] = {id(base): (base, 1.0)}
    for tuned, untuned, weight in pairs:
        for model, change in ((untuned, -weight), (tuned, weight)):
            terms[id(model)] = (model, terms.get(id(model), (model, 0.0))[1] + change)
    kept = [(model, weight) for model, weight in terms.values() if weight != 0]
    if len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    tuned, untuned, _ = pairs[0]
    # a tuned base is asked first, and so cannot take up what the untuned model has computed
    if len(pairs) == 1 and tuned is not base and {id(tuned), id(untuned)} <= {id(model) for model, _ in kept}:
        shared = dict(zip((id(untuned), id(tuned)), share_lower_layers(untuned, tuned), strict=True))
        kept = [(shared.get(id(model), model), weight) for model, weight in kept]
    name = " + ".join([base.name, *(f"{weight:g} ({tuned.name} - {untuned.name})" for tuned, untuned, weight in pairs)])
    return EmulatedModel(kept, name)
