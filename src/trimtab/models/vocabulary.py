"""A tokenizer as the search needs it: prompts to ids, ids to text, and whether two of them are the same.

Knows nothing of models. A response is always encoded and decoded apart from its prompt's characters, so that the
boundary between the two never moves.

    >>> vocabulary = Vocabulary(tokenizer)                                              # doctest: +SKIP
    >>> prompt = vocabulary.encode_prompt("I really", "{prompt}")                       # doctest: +SKIP
    >>> vocabulary.decode_response(prompt, vocabulary.encode_response(" like it"))      # doctest: +SKIP
    ' like it'
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trimtab.errors import ModelError
from trimtab.fields import CHAT
from trimtab.models.chat import ChatTemplate
from trimtab.models.continuation import continuation_ids
from trimtab.records import PromptInput

INCOMPLETE = "\ufffd"  # what a tokenizer decodes the first bytes of an unfinished character to


class Vocabulary:
    """The tokens of one model.

    `eos_ids` are all ids that end a text: those given, the tokenizer's own, and the one that its chat template puts
    behind a turn. Of these an id that is not below `rows`, the number of ids that the model can read (None: all),
    counts only where there is no other. `start_token` begins an empty text. `chat` says that the model is shown
    conversations, `system` with which system message where they bring none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Collection[int] = (),
        start_token: str | None = None,
        *,
        chat: bool = False,
        system: str | None = None,
        rows: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._rows = rows
        self.start_token = start_token
        self._shows_chat, self._system = chat, system
        turn_end = None if tokenizer.chat_template is None else self._chat.end_of_turn
        self._turn_end = turn_end if turn_end is not None and self._has_row(turn_end) else None
        own = {tokenizer.eos_token_id, turn_end} - {None}
        named = frozenset({*map(int, own), *eos_ids})
        # an end token that was added behind the model's rows can neither be written nor read: another is taken, if any
        self.eos_ids = frozenset(filter(self._has_row, named)) or named
        if not self.eos_ids:
            raise ModelError(f"{tokenizer.name_or_path} has no end token: name one in its tokenizer's eos_token")

    @property
    def end_id(self) -> int:
        """The id that is put where a text of another vocabulary ended: in a conversation what ends a turn."""
        if self._shows_chat and self._turn_end is not None:
            return self._turn_end
        own = self.tokenizer.eos_token_id
        return int(own) if own in self.eos_ids else min(self.eos_ids)

    def _has_row(self, token: int) -> bool:
        return self._rows is None or token < self._rows

    @property
    def turn_end_id(self) -> int:
        """The id that ends an answer in a conversation."""
        return self.end_id if self._turn_end is None else self._turn_end

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the map from tokens to ids: equal exactly where two vocabularies are the same."""
        return hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    def unlike_ids(self, other: "Vocabulary") -> frozenset[int] | None:
        """The ids that stand for different tokens in the two, or for a token in one of them only.

        None where these are more than added tokens and tokens that no text is ever split into, such as padding: then
        the two are different vocabularies.
        """
        if self.fingerprint == other.fingerprint:
            return frozenset()
        ours, theirs = ({token: text for text, token in each.tokenizer.get_vocab().items()} for each in (self, other))
        unlike = frozenset(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        pairs = (self.tokenizer, unlike & ours.keys()), (other.tokenizer, unlike & theirs.keys())
        return None if any(_splits_into_any(tokenizer, ids) for tokenizer, ids in pairs) else unlike

    def encode_prompt(self, prompt: PromptInput, template: str) -> list[int]:
        """The ids that a model reads before it answers.

        A string is put into `template`, a text with `{prompt}` in it. Where that is `chat` a string is a message of the
        user; messages are always rendered by the tokenizer's own chat template. A start token stands first where
        the tokenizer puts one, or where the text is empty.

        Raises:
            ModelError: the text is empty and there is no start token; there is no chat template, or it refuses the
                messages.
        """
        if isinstance(prompt, list):
            return self._chat.prompt_ids(prompt)
        if template == CHAT:
            return self._chat.prompt_ids([{"role": "user", "content": prompt}])
        text = template.replace("{prompt}", prompt)
        ids = [int(token) for token in self.tokenizer.encode(text, add_special_tokens=True)]
        while ids and ids[-1] in self.eos_ids and len(ids) > 1:  # some tokenizers close every text
            ids.pop()
        if not text or not ids:
            return [self.start_id]
        return ids

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self._system)

    @property
    def start_id(self) -> int:
        """The id that begins a text without a prompt.

        Raises:
            ModelError: neither the configuration nor the tokenizer names one.
        """
        if self.start_token is not None:
            ids = self.tokenizer.encode(self.start_token, add_special_tokens=False)
            if len(ids) != 1:
                raise ModelError(f"start_token {self.start_token!r} is {len(ids)} tokens: name a single token")
            return int(ids[0])
        if self.tokenizer.bos_token_id is None:
            name = self.tokenizer.name_or_path
            raise ModelError(f"the prompt is empty and {name} has no start token: give start_token")
        return int(self.tokenizer.bos_token_id)

    def encode_response(self, text: str) -> list[int]:
        """The ids of a text that continues a prompt, without start or end tokens."""
        return self.encode_responses([text])[0]

    def encode_responses(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_response` of many texts at once."""
        return continuation_ids(self.tokenizer, texts)

    def decode_response(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """The text that `token_ids` add after `prompt_ids`, an unfinished last character left out."""
        before = self._decode(prompt_ids)
        return self._decode([*prompt_ids, *token_ids])[len(before) :].rstrip(INCOMPLETE)

    def decode_responses(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[str]:
        """`decode_response` of many responses, each after its own prompt."""
        keys = [tuple(prompt) for prompt in prompts]
        own = list(dict.fromkeys(keys))
        texts = self._decode_all([*own, *(key + tuple(ids) for key, ids in zip(keys, responses, strict=True))])
        starts = {key: len(text) for key, text in zip(own, texts, strict=False)}
        return [text[starts[key] :].rstrip(INCOMPLETE) for key, text in zip(keys, texts[len(own) :], strict=True)]

    def _decode_all(self, rows: Sequence[Sequence[int]]) -> list[str]:
        kind = type(self.tokenizer)
        if not issubclass(kind, PreTrainedTokenizerFast) or kind._decode is not PreTrainedTokenizerFast._decode:
            return [self._decode(row) for row in rows]
        texts: list[str] = self.tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=True)
        return texts

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _splits_into_any(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> bool:
    """Whether a text without added tokens can be split into one of these tokens."""
    added = tokenizer.added_tokens_decoder

    def alone(token: int) -> list[int]:
        text = tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(token)])
        return [int(each) for each in tokenizer.encode(text, add_special_tokens=False)]

    return any(token in alone(token) for token in ids if token not in added)
