"""The logits of a sequence classifier in batches, each text's as transformers gives them for this text alone.

A decoder's classifier reads a text at its last token that is not `config.pad_token_id`. In a batch this goes wrong
where the tokenizer pads with another token or on the other side, and where the configuration names no padding token, or
one that has no embedding. So rows are padded here, without the tokenizer, with a token that the model skips.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.context import context_of
from trimtab.rewards.token_rows import TokenRows, padded

ROUNDING_TOLERANCE = 2e-5
"""Relative difference between a padded row's logits and the same row's alone that float32 rounding explains."""


class SequenceLogits:
    """Logits [rows, labels] of rows of token ids.

    Families that read padding (FNet mixes all positions, XLNet reads the last one) get batches of equal lengths, as do
    BART and T5, which are read at the end token. A trial on `probe`, a short and a longer row as the tokenizer encodes
    texts, tells whether a model reads padding. The model is not changed: others may share it, also in other threads.
    """

    def __init__(self, model: PreTrainedModel, probe: Sequence[list[int]]) -> None:
        self.model = model
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._pad = padding_id(model)
        self._pads = False
        self._pads = not model.config.is_encoder_decoder and self._takes_padding(*probe)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """Logits [rows, labels] of rows that are not empty; no token is beyond `vocabulary`."""
        together: dict[tuple[int, int], list[int]] = {}
        for number, row in enumerate(rows):
            together.setdefault(self._kind(row), []).append(number)
        parts = [self._read([rows[number] for number in numbers]) for numbers in together.values()]
        order = torch.tensor([number for numbers in together.values() for number in numbers])
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def _kind(self, row: Sequence[int]) -> tuple[int, int]:
        """Rows of one kind can be read in one batch."""
        config = self.model.config
        # BART and T5 refuse rows with unlike numbers of end tokens
        ends = row.count(config.eos_token_id) if config.is_encoder_decoder else 0
        return (0 if self._pads else len(row)), ends

    def _read(self, rows: list[list[int]]) -> torch.Tensor:
        model, pad = self.model, self._pad
        if pad is None:
            used = {token for row in rows for token in row}
            pad = next((token for token in range(self.vocabulary) if token not in used), None)
            if pad is None and len(rows) > 1:  # every token of a small vocabulary is in use
                half = len(rows) // 2
                return torch.cat([self._read(rows[:half]), self._read(rows[half:])])
            model = _padding_with(model, pad)
        ids, mask = padded(rows, pad or 0)
        logits: torch.Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        return logits

    def _takes_padding(self, short: list[int], long: list[int]) -> bool:
        """Whether padding a row leaves its logits unchanged."""
        if not 0 < len(short) < len(long):
            return False
        with torch.inference_mode():
            alone, among = self._read([short])[0].float(), self._read([short, long])[0].float()
        rounding = max(ROUNDING_TOLERANCE, 8 * torch.finfo(self.model.dtype).eps)
        scale = 1 + float(alone.nan_to_num().abs().max())
        return torch.allclose(among, alone, rtol=0, atol=rounding * scale, equal_nan=True)


def reading(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[TokenRows, SequenceLogits]:
    """What cuts rows of token ids for a sequence classifier, and what gives their logits.

    Raises:
        ModelError: the model reads fewer than `max_length` tokens.
    """
    positions = positions_of(model)
    if max_length > positions:
        raise ModelError(
            f"max_length {max_length} is more than the {positions} positions of the reward model: set reward."
            f"max_length to {positions} or less"
        )
    limit = TokenRows(tokenizer, max_length=max_length, vocabulary=model.get_input_embeddings().weight.shape[0])
    probe = [tokenizer.encode(text)[:max_length] for text in ("This", " ".join(["This film is good."] * 3))]
    return limit, SequenceLogits(model, limit.fitted(probe))


def padding_id(model: PreTrainedModel) -> int | None:
    """The token that a classifier treats as padding; None where none is configured, or it has no embedding."""
    pad = model.config.get_text_config().pad_token_id
    return pad if isinstance(pad, int) and 0 <= pad < model.get_input_embeddings().weight.shape[0] else None


def positions_of(model: PreTrainedModel) -> int:
    """The largest number of tokens that a classifier reads."""
    limits = [context_of(model)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            # RoBERTa and its relatives count positions from the padding token's id on, also from a negative one, which
            # torch counts from the end
            rows, first, pad = module.num_embeddings, module.padding_idx, model.config.pad_token_id
            limits.append(rows - 1 - (pad if pad is not None and pad + rows == first else first))
    return min(limits)


def _padding_with(model: PreTrainedModel, pad: int | None) -> PreTrainedModel:
    """The same modules and weights under a configuration that names `pad` as the padding token."""
    view = copy.copy(model)
    view.config = copy.deepcopy(model.config)
    view.config.get_text_config().pad_token_id = pad
    return view
