"""A tokenizer as the search needs it: prompts to ids, ids to text, and whether two vocabularies are the same.

A response is always encoded and decoded apart from its prompt's characters, so that the boundary between the two never
moves.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from trimtab.config.fields import CHAT, fill
from trimtab.errors import ModelError, VocabularyError
from trimtab.models.chat import ChatTemplate, Turn
from trimtab.models.detokenize import Detokenizer
from trimtab.models.encoding import continuation_ids, special_ids_around, text_ids
from trimtab.records import Message, PromptInput


class Vocabulary:
    """The tokens of one model.

    `eos_ids` are all ids that end a text: those given, the tokenizer's own, and the one that its chat template writes
    behind a turn. `rows` is the number of ids that the model can read (None: all); an end token beyond them counts only
    where there is no other. `start_token` begins an empty text. With `chat` the model reads prompts as conversations,
    with the system message `system` where they bring none. Methods that render conversations raise ModelError where
    there is no chat template, or it refuses them.
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
        self.start_token = start_token
        self._chats, self.system = chat, system
        turn_end = None if tokenizer.chat_template is None else self._chat.end_of_turn
        ends = frozenset({*map(int, {tokenizer.eos_token_id, turn_end} - {None}), *eos_ids})
        # an end token that was added beyond the model's rows can neither be written nor read: another is taken, if any
        readable = frozenset(token for token in ends if rows is None or token < rows)
        self._turn_end = turn_end if turn_end in readable else None
        self.eos_ids = readable or ends
        if not self.eos_ids:
            raise ModelError(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no end token: name one in its tokenizer's eos_token"
            )

    @property
    def end_id(self) -> int:
        """The id that ends a text: of a model that reads conversations, the one that ends a turn."""
        if self._chats and self._turn_end is not None:
            return self._turn_end
        eos = self.tokenizer.eos_token_id
        return int(eos) if eos in self.eos_ids else min(self.eos_ids)

    @property
    def turn_end_id(self) -> int:
        """The id that ends an answer in a conversation."""
        return self.end_id if self._turn_end is None else self._turn_end

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

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the map from tokens to ids: equal exactly where two vocabularies are the same."""
        return hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    def unlike_ids(self, other: "Vocabulary") -> frozenset[int] | None:
        """The ids that mean different tokens in the two vocabularies, or a token in one of them only.

        None where the vocabularies are really different: some of these tokens occur when plain text is encoded. (Added
        tokens and padding do not.)
        """
        if self.fingerprint == other.fingerprint:
            return frozenset()
        ours, theirs = (
            {i: token for token, i in vocabulary.tokenizer.get_vocab().items()} for vocabulary in (self, other)
        )
        unlike = frozenset(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
        pairs = (self.tokenizer, unlike & ours.keys()), (other.tokenizer, unlike & theirs.keys())
        return None if any(_splits_into_any(tokenizer, ids) for tokenizer, ids in pairs) else unlike

    def encode_prompt(self, prompt: PromptInput, template: str) -> list[int]:
        """The ids that a model reads before it answers.

        A string is put into `template`, a text with `{prompt}` in it; where that is `chat` the string becomes a message
        of the user. The tokenizer's own chat template renders messages. A start token stands first where the tokenizer
        adds one, or where the text is empty.

        Raises:
            ModelError: the text is empty and there is no start token.
        """
        if isinstance(prompt, list) or template == CHAT:
            return self._chat.prompt_ids(_messages(prompt))
        text = fill(template, prompt=prompt)
        return (text_ids(self.tokenizer, text, self._prefix) if text else []) or [self.start_id]

    def encode_answered(
        self, prompt: PromptInput, template: str, answers: Sequence[str], ended: Sequence[bool]
    ) -> tuple[list[int], list[list[int]]]:
        """The ids of a prompt, and of each of several answers to it.

        A conversation is encoded as its chat template renders it, up to and with the end of the answer's turn. Else
        answers are encoded apart, with the end token behind those that `ended`. An end token in an answer's text itself
        counts once. An empty answer that has not ended has no ids.
        """
        texts = [self.without_ends(answer) for answer in answers]
        ended = [end or text != answer for end, text, answer in zip(ended, texts, answers, strict=True)]
        if isinstance(prompt, list) or template == CHAT:
            prompt_ids, encoded = self._chat.answered_ids(_messages(prompt), texts, ended)
            end_id = self.turn_end_id
        else:
            prompt_ids, encoded = self.encode_prompt(prompt, template), self.encode_responses(texts)
            end_id = self.end_id
        answer_ids = []
        for ids, text, end in zip(encoded, texts, ended, strict=True):
            if end and ids[-1:] != [end_id]:
                ids = [*ids, end_id]
            answer_ids.append(ids if text or end else [])
        return prompt_ids, answer_ids

    def turn(self, prompt: PromptInput) -> Turn:
        """The text around an answer to a prompt, behind the prompt's ids."""
        return self._chat.turn(_messages(prompt)) if self.converses(prompt) else Turn()

    def converses(self, prompt: PromptInput) -> bool:
        """Whether the model reads this prompt as a conversation."""
        return isinstance(prompt, list) or self._chats

    def encode_answers(self, turns: Sequence[Turn], texts: Sequence[str], ended: Sequence[bool]) -> list[list[int]]:
        """The ids of texts, each as its turn writes it behind a prompt's ids, with the end token where it ended."""
        written = [turn.written(text, ended=end) for turn, text, end in zip(turns, texts, ended, strict=True)]
        encoded = self.encode_responses(written)
        return [[*ids, self.end_id] if end else ids for ids, end in zip(encoded, ended, strict=True)]

    def without_ends(self, text: str) -> str:
        """A text without the end tokens at its end."""
        names = [self.detokenizer.added[end] for end in self.eos_ids if end in self.detokenizer.added]
        while at_end := [name for name in names if name and text.rstrip().endswith(name)]:
            text = text.rstrip().removesuffix(max(at_end, key=len))
        return text

    def encode_response(self, text: str) -> list[int]:
        """The ids of a text that continues a prompt, without start or end tokens."""
        return self.encode_responses([text])[0]

    def encode_responses(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_response` of many texts at once."""
        return continuation_ids(self.tokenizer, texts)

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of texts."""
        return special_ids_around(self.tokenizer)[0]

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.system)

    @cached_property
    def detokenizer(self) -> Detokenizer:
        """Decodes this vocabulary's ids."""
        return Detokenizer(self.tokenizer)

    def decode_response(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """The text that `token_ids` add after `prompt_ids`, which is a prefix of the text of more tokens.

        An end token at its end, special tokens and an unfinished last character are left out.
        """
        return self.decode_responses([prompt_ids], [token_ids])[0]

    def decode_responses(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[str]:
        """`decode_response` of many responses, each after its own prompt."""
        keys = [tuple(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(keys))
        # tokenizers decode an end token as text where it is not flagged as special
        bare = [ids[:-1] if ids and ids[-1] in self.eos_ids else ids for ids in responses]
        texts = self.detokenizer.texts([*unique, *(key + tuple(ids) for key, ids in zip(keys, bare, strict=True))])
        starts = {key: len(text) for key, text in zip(unique, texts, strict=False)}
        return [text[starts[key] :] for key, text in zip(keys, texts[len(unique) :], strict=True)]

    def special_tokens_in(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[tuple[int, str]]:
        """The tokens that a response's text leaves out: the position of each in the text, and its name."""
        special, added = self.detokenizer.special, self.detokenizer.added
        tokens = [(index, special[token]) for index, token in enumerate(token_ids) if token in special]
        last = token_ids[-1] if token_ids else None
        if last in self.eos_ids and last in added and last not in special:
            tokens.append((len(token_ids) - 1, added[last]))
        if not tokens:
            return []
        before = self.decode_responses([prompt_ids] * len(tokens), [token_ids[:index] for index, _ in tokens])
        return [(len(text), name) for text, (_, name) in zip(before, tokens, strict=True)]


class HasVocabulary(Protocol):
    """A model, or what is known of one that is not loaded: its tokens, and how many ids it reads and predicts."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...


def check_one_vocabulary(base: HasVocabulary, guide: HasVocabulary) -> None:
    """Raise VocabularyError unless two models have the same tokens under the same ids.

    Added tokens of one of them alone do no harm.
    """
    if base.vocabulary.unlike_ids(guide.vocabulary) is None:
        raise VocabularyError(
            f"EFT adds logits, and {base.name} and {guide.name} have unlike vocabularies "
            f"({len(base.vocabulary.tokenizer)} and {len(guide.vocabulary.tokenizer)} tokens): "
            "use best-of-N or CBS, which work across vocabularies, or a guide with the base's tokenizer"
        )


def check_end(base: HasVocabulary, guide: HasVocabulary) -> None:
    """Raise VocabularyError where the guide lacks the token that ends the base's texts: a sum would never end one."""
    end = base.vocabulary.end_id
    unlike = base.vocabulary.unlike_ids(guide.vocabulary) or frozenset()
    if end < base.vocab_size and (end in unlike or end >= guide.vocab_size):
        token = base.vocabulary.tokenizer.convert_ids_to_tokens(end)
        raise VocabularyError(
            f"EFT adds logits, and {base.name}'s end token {token} (id {end}) is none of {guide.name}'s tokens, so "
            "that no text would end: use best-of-N or CBS, or a guide that has it"
        )


def _messages(prompt: PromptInput) -> list[Message]:
    """A prompt as a conversation: a string is one message of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _splits_into_any(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> bool:
    """Whether a text without added tokens can be split into one of these tokens."""
    added = tokenizer.added_tokens_decoder
    for token in ids:
        text = "" if token in added else tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(token)])
        if text and token in tokenizer.encode(text, add_special_tokens=False):
            return True
    return False
