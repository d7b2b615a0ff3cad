"""A transformers model as a `LanguageModel` without a cache: it reads each text from its beginning for every token.

For models whose memory of a text cannot be forked or cut back, such as state-space ones. Slower, and just as exact.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from trimtab.models.lm_head import GivenLogits, LMHead
from trimtab.models.transformers_model import TOKENS_AT_ONCE, TokenRows, TransformersModel
from trimtab.models.vocabulary import Vocabulary


class UncachedModel(TransformersModel[TokenRows]):
    """`head` is None where the model's own logits are taken; `reason` says why it is not read through a cache."""

    def __init__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: LMHead | None, reason: str
    ) -> None:
        super().__init__(
            model, vocabulary, template, name, head or GivenLogits(model.get_output_embeddings().weight.shape[0])
        )
        self.reason = reason
        self._body = model if head is None else model.base_model

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> TokenRows:
        self._check_prompts(prompts, room)
        return TokenRows([list(ids) for ids in prompts], [len(ids) for ids in prompts])

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

    def _read(self, rows: Sequence[Sequence[int]], wanted: Sequence[slice]) -> torch.Tensor:
        """The body's outputs at the wanted positions of each row, row after row, [positions, width]."""
        self._check_length(max(map(len, rows)))
        outputs = []
        for batch in self._batches(rows):
            group = rows[batch]
            longest = max(map(len, group))
            # a causal body's output does not depend on the padding behind a text
            padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in group], device=self._device)
            output = self._body(input_ids=padded, use_cache=False)
            values = output.logits if isinstance(self._head, GivenLogits) else output.last_hidden_state
            outputs += [
                row_values[: len(row)][positions]
                for row_values, row, positions in zip(values, group, wanted[batch], strict=True)
            ]
        tokens, positions = sum(map(len, rows)), sum(map(len, outputs))
        self._work.tokens += tokens
        self._work.flops += 2.0 * (self._body_weights * tokens + self._head_weights * positions)
        flat = torch.cat(outputs)
        # some bodies give float32 to a head of 16 bits (Mamba)
        return flat.to(self._head.weight.device, self._head.weight.dtype) if isinstance(self._head, LMHead) else flat

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Rows to read at once; all of one length where the model's own forward may look at the padding."""
        batch_size = max(1, TOKENS_AT_ONCE // max(map(len, rows)))
        one_length = isinstance(self._head, GivenLogits)
        first = 0
        for end in range(1, len(rows) + 1):
            full = end - first == batch_size or end == len(rows)
            if full or (one_length and len(rows[end]) != len(rows[first])):
                yield slice(first, end)
                first = end
