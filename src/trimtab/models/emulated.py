"""Emulated fine-tuning: a language model whose logits are a weighted sum of other models' logits.

logits = base + sum_i w_i (tuned_i - untuned_i) (Mitchell et al. 2024, "An Emulator for Fine-Tuning Large Language
Models using Small Language Models"). Each model reads the prompt in its own template and keeps its own cache. A model
that stands in the sum more than once is run once, with the sum of its weights, and not at all where that is 0: so
weight 0 is the base itself, and over the untuned model weight 1 is the tuned one itself.

    >>> emulate(base, [(tuned, untuned, 0.5)]).name                                     # doctest: +SKIP
    'base + 0.5 (tuned - untuned)'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from trimtab.errors import VocabularyError
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.trunk import share_trunk
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput


@dataclass
class EmulatedState:
    """One state a model, all of the same responses."""

    states: list[DecodeState]

    @property
    def ids(self) -> list[list[int]]:
        """The rows as the first model reads them."""
        return self.states[0].ids

    @property
    def prompt_lengths(self) -> list[int]:
        return self.states[0].prompt_lengths

    def select(self, rows: Sequence[int]) -> Self:
        return type(self)([state.select(rows) for state in self.states])

    def append(self, tokens: Sequence[int]) -> None:
        for state in self.states:
            state.append(tokens)


class EmulatedModel:
    """A sum of language models that share one vocabulary; `terms` are (model, weight), the base first."""

    def __init__(self, terms: Sequence[tuple[LanguageModel, float]], name: str) -> None:
        self.models = [model for model, _ in terms]
        self.weights = [weight for _, weight in terms]
        self.vocabulary = self.models[0].vocabulary
        self.name = name

    @property
    def flops(self) -> float:
        return sum(model.flops for model in self.models)

    def start(self, prompts: Sequence[PromptInput], room: int) -> EmulatedState:
        return EmulatedState([model.start(prompts, room) for model in self.models])

    def next_logits(self, state: EmulatedState) -> torch.Tensor:
        # each model's logits are valid until its own next call only, and heads may be padded to unlike widths
        parts = [model.next_logits(part) for model, part in zip(self.models, state.states, strict=True)]
        width = min(part.shape[1] for part in parts)
        total = parts[0][:, :width] * self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            total += weight * part[:, :width].to(total.device)  # heads may lie on unlike devices
        return total

    def score(
        self, state: EmulatedState, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[EmulatedState, list[list[float]]]:
        # A sum of logits has a normalizer of its own, so the models advance together, a token at a time.
        short = [len(state.ids[p]) - kept for p, kept in zip(parents, keep, strict=True)]
        states: list[DecodeState] = []
        for model, part in zip(self.models, state.states, strict=True):
            kept = [len(part.ids[p]) - cut for p, cut in zip(parents, short, strict=True)]
            states.append(model.score(part, parents, kept, [[] for _ in parents])[0])
        children, rows = EmulatedState(states), [[0.0] * len(new) for new in tokens]
        order = list(range(len(tokens)))
        current = children.select(order)  # a copy: the children themselves are read by `_completed`
        for step in range(max(map(len, tokens), default=0)):
            going = [place for place, row in enumerate(order) if step < len(tokens[row])]
            current = current.select(going) if len(going) < len(order) else current
            order = [order[place] for place in going]
            wanted = torch.tensor([tokens[row][step] for row in order])
            logits = self.next_logits(current)
            normalized = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
            values = normalized.gather(1, wanted.to(logits.device)[:, None])
            for row, value in zip(order, values.flatten().tolist(), strict=True):
                rows[row][step] = value
            current.append(wanted.tolist())
        return self._completed(children, tokens), rows

    def _completed(self, children: EmulatedState, tokens: Sequence[Sequence[int]]) -> EmulatedState:
        """The children with all their tokens, read by each model."""
        lengths = [[len(row) for row in part.ids] for part in children.states]
        return EmulatedState(
            [
                model.score(part, range(len(tokens)), kept, tokens)[0]
                for model, part, kept in zip(self.models, children.states, lengths, strict=True)
            ]
        )


def check_one_vocabulary(base: str, ours: Vocabulary, guide: str, theirs: Vocabulary) -> None:
    """Raise VocabularyError unless two models, called `base` and `guide`, have the same tokens under the same ids."""
    if ours.fingerprint != theirs.fingerprint:
        raise VocabularyError(
            f"EFT adds logits, and {base} and {guide} have unlike vocabularies "
            f"({len(ours.tokenizer)} and {len(theirs.tokenizer)} tokens): "
            "use best-of-N or CBS, which work across vocabularies, or a guide with the base's tokenizer"
        )


def emulate(base: LanguageModel, pairs: Sequence[tuple[LanguageModel, LanguageModel, float]]) -> LanguageModel:
    """base + the sum of weight * (tuned - untuned) over `pairs` of (tuned, untuned, weight).

    Raises:
        VocabularyError: the models do not all have the same vocabulary.
    """
    for model in [model for tuned, untuned, _ in pairs for model in (tuned, untuned)]:
        check_one_vocabulary(base.name, base.vocabulary, model.name, model.vocabulary)
    terms: dict[int, tuple[LanguageModel, float]] = {id(base): (base, 1.0)}
    for tuned, untuned, weight in pairs:
        for model, share in ((untuned, -weight), (tuned, weight)):
            terms[id(model)] = (model, terms.get(id(model), (model, 0.0))[1] + share)
    kept = [(model, weight) for model, weight in terms.values() if weight != 0]
    if len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    tuned, untuned, _ = pairs[0]
    # a tuned base is asked first, and so cannot take up what the untuned model has computed
    if len(pairs) == 1 and tuned is not base and {id(tuned), id(untuned)} <= {id(model) for model, _ in kept}:
        shared = dict(zip((id(untuned), id(tuned)), share_trunk(untuned, tuned), strict=True))
        kept = [(shared.get(id(model), model), weight) for model, weight in kept]
    name = " + ".join([base.name, *(f"{weight:g} ({tuned.name} - {untuned.name})" for tuned, untuned, weight in pairs)])
    return EmulatedModel(kept, name)
