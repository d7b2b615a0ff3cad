"""A tokenizer as the search needs it: prompts to ids, ids to text, and whether two of them are the same.

A response is always encoded and decoded apart from its prompt's characters, so that the boundary between the two never
moves.

    >>> vocabulary = Vocabulary(tokenizer)                                              # doctest: +SKIP
    >>> prompt = vocabulary.encode_prompt("I really", "{prompt}")                       # doctest: +SKIP
    >>> vocabulary.decode_response(prompt, vocabulary.encode_response(" like it"))      # doctest: +SKIP
    ' like it'
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from trimtab.config.fields import CHAT, fill
from trimtab.errors import ModelError
from trimtab.models.chat import ChatTemplate
from trimtab.models.chat_turn import Turn
from trimtab.models.detokenize import Detokenizer
from trimtab.models.encoding import continuation_ids, special_ids_around, text_ids
from trimtab.records import Message, PromptInput


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
            raise ModelError(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no end token: name one in its tokenizer's eos_token"
            )

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
        if isinstance(prompt, list) or template == CHAT:
            return self._chat.prompt_ids(_messages(prompt))
        text = fill(template, prompt=prompt)
        ids = text_ids(self.tokenizer, text, self._before) if text else []
        return ids or [self.start_id]

    def encode_answered(
        self, prompt: PromptInput, template: str, answers: Sequence[str], ended: Sequence[bool]
    ) -> tuple[list[int], list[list[int]]]:
        """The ids of a prompt, and of each of several answers to it.

        A conversation is the tokens of the chat template's own rendering, up to and with what ends the answer's turn.
        Else answers are encoded apart, with the end token behind those that `ended`. Where an answer's text itself
        closes with an end token, this counts once. Of an empty answer that has not ended there are no ids.

        Raises:
            ModelError: as `encode_prompt`.
        """
        words = [self.without_ends(answer) for answer in answers]
        whole = [end or text != answer for end, text, answer in zip(ended, words, answers, strict=True)]
        if isinstance(prompt, list) or template == CHAT:
            ids, encoded = self._chat.answered_ids(_messages(prompt), words, whole)
            end = self.turn_end_id
        else:
            ids, encoded = self.encode_prompt(prompt, template), self.encode_responses(words)
            end = self.end_id
        closed = [
            [*own, end] if ended and own[-1:] != [end] else own for own, ended in zip(encoded, whole, strict=True)
        ]
        return ids, [own if text or ended else [] for own, text, ended in zip(closed, words, whole, strict=True)]

    def turn(self, prompt: PromptInput) -> Turn:
        """What stands around an answer to a prompt, behind the prompt's ids.

        Raises:
            ModelError: there is no chat template, or it refuses the messages.
        """
        return self._chat.turn(_messages(prompt)) if self.converses(prompt) else Turn()

    def converses(self, prompt: PromptInput) -> bool:
        """Whether the model reads this prompt as a conversation."""
        return isinstance(prompt, list) or self._shows_chat

    def encode_answers(self, turns: Sequence[Turn], texts: Sequence[str], ended: Sequence[bool]) -> list[list[int]]:
        """The ids of texts, each as its turn writes it behind a prompt's ids, with the end token where it ended."""
        written = [turn.written(text, ended=end) for turn, text, end in zip(turns, texts, ended, strict=True)]
        encoded = self.encode_responses(written)
        return [[*ids, self.end_id] if end else ids for ids, end in zip(encoded, ended, strict=True)]

    def without_ends(self, text: str) -> str:
        """A text without the end tokens that close it."""
        left = text
        names = [self.detokenizer.added[end] for end in self.eos_ids if end in self.detokenizer.added]
        while found := [name for name in names if name and left.rstrip().endswith(name)]:
            left = left.rstrip().removesuffix(max(found, key=len))
        return left

    @cached_property
    def _before(self) -> list[int]:
        """The special tokens that the tokenizer begins texts with."""
        return special_ids_around(self.tokenizer)[0]

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
            name = self.tokenizer.name_or_path or "the tokenizer"
            raise ModelError(f"the prompt is empty and {name} has no start token: give start_token")
        return int(self.tokenizer.bos_token_id)

    def encode_response(self, text: str) -> list[int]:
        """The ids of a text that continues a prompt, without start or end tokens."""
        return self.encode_responses([text])[0]

    def encode_responses(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_response` of many texts at once."""
        return continuation_ids(self.tokenizer, texts)

    @cached_property
    def detokenizer(self) -> Detokenizer:
        """Decodes this vocabulary's ids."""
        return Detokenizer(self.tokenizer)

    def decode_response(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """The text that `token_ids` add after `prompt_ids`.

        An end token at its end, special tokens and an unfinished last character are left out. The text of more tokens
        always begins with that of fewer.
        """
        return self.decode_responses([prompt_ids], [token_ids])[0]

    def decode_responses(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[str]:
        """`decode_response` of many responses, each after its own prompt."""
        keys = [tuple(prompt) for prompt in prompts]
        own = list(dict.fromkeys(keys))
        wholes = (key + tuple(self._unended(ids)) for key, ids in zip(keys, responses, strict=True))
        texts = self.detokenizer.texts([*own, *wholes])
        starts = {key: len(text) for key, text in zip(own, texts, strict=False)}
        return [text[starts[key] :] for key, text in zip(keys, texts[len(own) :], strict=True)]

    def special_tokens_in(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[tuple[int, str]]:
        """The tokens of a response that its text is given without: the place of each in the text, and its name."""
        special, added = self.detokenizer.special, self.detokenizer.added
        found = [(count, special[token]) for count, token in enumerate(token_ids) if token in special]
        last = len(token_ids) - 1
        if (
            token_ids
            and token_ids[last] not in special
            and token_ids[last] in self.eos_ids
            and token_ids[last] in added
        ):
            found.append((last, added[token_ids[last]]))
        if not found:
            return []
        before = self.decode_responses([prompt_ids] * len(found), [token_ids[:count] for count, _ in found])
        return [(len(text), name) for text, (_, name) in zip(before, found, strict=True)]

    def _unended(self, ids: Sequence[int]) -> Sequence[int]:
        """Ids without an end token at their end: tokenizers show it as text where it is not flagged as special."""
        return ids[:-1] if ids and ids[-1] in self.eos_ids else ids


def _messages(prompt: PromptInput) -> list[Message]:
    """A prompt as a conversation: a string is one message of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _splits_into_any(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> bool:
    """Whether a text without added tokens can be split into one of these tokens."""
    added = tokenizer.added_tokens_decoder

    def alone(token: int) -> list[int]:
        text = tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(token)])
        return [int(each) for each in tokenizer.encode(text, add_special_tokens=False)]

    return any(token in alone(token) for token in ids if token not in added)
