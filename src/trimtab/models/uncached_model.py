"""A transformers model as a `LanguageModel` without a cache: it reads each text from its beginning for every token.

For models whose state cannot be forked or cut back, such as state-space models. Slower than with a cache, and as
exact.
"""

from collections.abc import Generator, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from trimtab.models.lm_head import LMHead, ModelLogits
from trimtab.models.transformers_model import TOKENS_AT_ONCE, TokenRows, TransformersModel
from trimtab.models.vocabulary import Vocabulary


class UncachedModel(TransformersModel[TokenRows]):
    """A causal language model of transformers without a cache.

    `head` computes logits from the output of the model's body; without one the model's own logits are used. `reason`
    says why the model has no cache, for messages.
    """

    def __init__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: LMHead | None, reason: str
    ) -> None:
        super().__init__(
            model, vocabulary, template, name, head or ModelLogits(model.get_output_embeddings().weight.shape[0])
        )
        self.reason = reason
        self._body = model if head is None else model.base_model

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> TokenRows:
        self._check_prompts(prompts, room)
        return TokenRows([list(ids) for ids in prompts], [len(ids) for ids in prompts])

    def _starting(self, prompts: Sequence[list[int]], room: int, tokens: int) -> Generator[None, None, TokenRows]:
        yield from ()  # a prompt is first read when its successor's distribution is asked for
        return self.start_ids(prompts, room)

    @torch.inference_mode()
    def logits_along(self, ids: Sequence[int], tokens: int) -> Iterator[torch.Tensor]:
        self._check_ids([ids])
        yield self._head.logits(self._read([ids], [slice(None)]))

    @torch.inference_mode()
    def next_logits(self, state: TokenRows) -> torch.Tensor:
        return self._head.logits(self._read(state.ids, [slice(len(ids) - 1, None) for ids in state.ids]))

    @torch.inference_mode()
    def score(
        self, state: TokenRows, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[TokenRows, list[list[float]]]:
        self._check_ids(tokens)
        children = state.select(parents)
        for ids, kept, new in zip(children.ids, keep, tokens, strict=True):
            ids[kept:] = [int(token) for token in new]
        grown = [row for row, new in enumerate(tokens) if new]
        if not grown:
            return children, [[] for _ in tokens]
        # the last new token predicts nothing yet, and is not read
        hidden = self._read([children.ids[row][:-1] for row in grown], [slice(keep[row] - 1, None) for row in grown])
        return children, self._head.log_probabilities(hidden, range(sum(map(len, tokens))), tokens)

    def _read(self, rows: Sequence[Sequence[int]], positions: Sequence[slice]) -> torch.Tensor:
        """The body's outputs at some positions of each row, row after row, [positions, width]."""
        self._check_length(max(map(len, rows)))
        outputs = []
        for batch in self._batches(rows):
            group = rows[batch]
            longest = max(map(len, group))
            # a causal body's output does not depend on the padding behind a text
            padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in group], device=self._device)
            output = self._body(input_ids=padded, use_cache=False)
            values = output.logits if isinstance(self._head, ModelLogits) else output.last_hidden_state
            outputs += [
                row_values[: len(row)][kept]
                for row_values, row, kept in zip(values, group, positions[batch], strict=True)
            ]
        tokens, predictions = sum(map(len, rows)), sum(map(len, outputs))
        self._work.tokens += tokens
        self._work.flops += 2.0 * (self._body_weights * tokens + self._head_weights * predictions)
        flat = torch.cat(outputs)
        # some bodies give float32 to a head of 16 bits (Mamba)
        return flat.to(self._head.weight.device, self._head.weight.dtype) if isinstance(self._head, LMHead) else flat

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Which rows to read at once. With the model's own logits they have one length, since its forward may attend to
        padding."""
        batch_size = max(1, TOKENS_AT_ONCE // max(map(len, rows)))
        one_length = isinstance(self._head, ModelLogits)
        first = 0
        for end in range(1, len(rows) + 1):
            full = end - first == batch_size or end == len(rows)
            if full or (one_length and len(rows[end]) != len(rows[first])):
                yield slice(first, end)
                first = end
