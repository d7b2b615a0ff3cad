"""A tokenizer's own chat template: conversations as the ids that its model reads, and what stands around an answer.

No table of model names: everything is read off the template.

    >>> chat = ChatTemplate(tokenizer, system="Answer briefly.")                        # doctest: +SKIP
    >>> tokenizer.decode(chat.prompt_ids([{"role": "user", "content": "Hello"}]))       # doctest: +SKIP
    '<|im_start|>system\\nAnswer briefly.<|im_end|>\\n<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import jinja2
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.chat_turn import Turn
from trimtab.models.encoding import common_prefix, special_ids_around, text_ids
from trimtab.records import Message

_log = logging.getLogger(__name__)
_PROBE = "probe-5309"  # a text that no template holds
_MARGIN = "\n \n"  # white space, to see whether a template strips it


class ChatTemplate:
    """The chat template of a tokenizer.

    `system` is a system message for conversations that bring none. A template that refuses or leaves out system
    messages is shown them at the beginning of the first user message, which a warning says once.

    Raises:
        ModelError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = system
        if tokenizer.chat_template is None:
            raise ModelError(
                f"{tokenizer.name_or_path} has no chat template: save one as chat_template.jinja beside its tokenizer, "
                "or give its prompts as plain text"
            )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that a model reads before it answers, up to and with what opens its turn.

        A conversation that ends in a turn of the assistant is continued within that turn. A beginning-of-text token
        stands first, once, where template or tokenizer put one.

        Raises:
            ModelError: the template refuses the conversation.
        """
        return self._encode(self._render(self._with_system(messages), opened=True))

    def conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a whole conversation, as a reward model reads it.

        Raises:
            ModelError: the template refuses the conversation.
        """
        return self._encode(self._render(self._with_system(messages), opened=False))

    def answered_ids(
        self, messages: Sequence[Message], answers: Sequence[str], ended: Sequence[bool]
    ) -> tuple[list[int], list[list[int]]]:
        """The ids of conversations with an answer, cut into those of the prompt and those of each answer.

        Each whole conversation is encoded as the template writes it, up to the end of the answer: to its last word, or
        with `ended` to the token that ends its turn. The prompt is what the model reads before it answers
        (`prompt_ids`), unless the template writes answers behind something else: then all that it writes before them.
        It is shorter by a token where the first characters of an answer merge with it.

        Raises:
            ModelError: the template refuses the conversation.
        """
        turns = self._with_system(messages)
        opened = self._render(turns, opened=True)
        head, _, tail = self._render(_answered(turns, _PROBE), opened=False).rpartition(_PROBE)
        sizes, wholes = [], []
        for answer, end in zip(answers, ended, strict=True):
            whole = self._render(_answered(turns, answer), opened=False)
            ids = self._encode(self._up_to_end(whole, tail, ended=end))
            start = len(opened) if whole.startswith(opened) else self._start_of_answer(turns, opened, head, whole)
            sizes.append(common_prefix(self._encode(whole[:start]), ids))
            wholes.append(ids)
        size = min(*sizes, *(common_prefix(wholes[0], ids) for ids in wholes))
        return wholes[0][:size], [ids[size:] for ids in wholes]

    def _start_of_answer(self, turns: Sequence[Message], opened: str, head: str, whole: str) -> int:
        """Where an answer begins that the template does not write behind the generation prompt.

        `head` is what it writes before answers. Where both begin the turn alike, the answer is what differs.
        """
        before_words, common = common_prefix(head, whole), common_prefix(opened, whole)
        return min(before_words, common) if common >= len(self._render(turns, opened=False)) else before_words

    def _up_to_end(self, whole: str, tail: str, *, ended: bool) -> str:
        """A conversation up to the end of its answer; `tail` is what the template writes behind one."""
        after, closing = self._closing(tail)
        if whole.endswith(tail):
            return whole[: len(whole) - len(tail)] + (after + closing if ended else "")
        place = whole.rfind(closing) if closing else -1
        return whole if place < 0 else whole[: place + (len(closing) if ended else 0)]

    def turn(self, messages: Sequence[Message]) -> Turn:
        """What the template writes around an answer to a conversation.

        Raises:
            ModelError: the template refuses the conversation.
        """
        turns = self._with_system(messages)
        opened = self._render(turns, opened=True)
        head, _, tail = self._render(_answered(turns, _PROBE), opened=False).rpartition(_PROBE)
        padded = self._render(_answered(turns, f"{_MARGIN}{_PROBE}{_MARGIN}"), opened=False)
        padded_head, _, padded_tail = padded.rpartition(_PROBE)
        return Turn(
            before=head[len(opened) :] if head.startswith(opened) else "",
            after=self._closing(tail)[0],
            strips_start=padded_head == head,
            strips_end=padded_tail == tail,
        )

    def _closing(self, tail: str) -> tuple[str, str]:
        """What the template writes behind an answer's words: up to the token that ends the turn, and this token."""
        if self.end_of_turn is None:
            return tail, ""
        name = str(self._tokenizer.added_tokens_decoder[self.end_of_turn])
        before, found, _ = tail.partition(name)
        return (before, found) if found else ("", "")

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that the template puts behind the assistant's words; None where that is no token of its own."""
        try:
            text = self._render([_message("user", "Hello"), _message("assistant", _PROBE)], opened=False)
        except ModelError:
            return None
        tail = text.rpartition(_PROBE)[2].lstrip() if _PROBE in text else ""
        added = {str(token): int(number) for number, token in self._tokenizer.added_tokens_decoder.items()}
        run: list[str] = []
        while found := [token for token in added if token and tail.startswith(token)]:
            run.append(max(found, key=len))
            tail = tail.removeprefix(run[-1])
        own = [token for token in run if token == self._tokenizer.eos_token]  # which may stand behind another one
        return added[(own or run)[0]] if run else None

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        own = bool(messages) and messages[0]["role"] == "system"
        turns = list(messages[1:] if own else messages)
        system = messages[0]["content"] if own else self._system
        if system is not None and self._takes_system:
            turns = [_message("system", system), *turns]
        elif system is not None:
            first = next((number for number, turn in enumerate(turns) if turn["role"] == "user"), None)
            if first is None:
                raise ModelError(
                    f"{self._name}'s chat template takes no system message alone: add a message of the user"
                )
            turns[first] = _message("user", f"{system}\n\n{turns[first]['content']}")
        self._check_shown(turns)
        return turns

    def _check_shown(self, turns: Sequence[Message]) -> None:
        """Raise ModelError where the template leaves out tool calls, or what an unusual message says, without a word.

        Looked at are tool calls and messages of other roles than user and assistant; a first system message, which is
        checked once for all, counts as usual.
        """
        for place, turn in enumerate(turns):
            if "tool_calls" in turn:
                bare = cast(Message, {name: value for name, value in turn.items() if name != "tool_calls"})
                self._check_matters(turns, place, bare, "tool_calls")
            usual = ("user", "assistant") if place or _count(turns, "system") > 1 else ("user", "assistant", "system")
            unusual = turn["role"] not in usual or "tool_calls" in turn
            if unusual and str(turn["content"]).strip():  # a list of parts is never empty
                what = f"the content of a message of the role {turn['role']}"
                beside = " that has tool_calls" if "tool_calls" in turn else ""
                self._check_matters(turns, place, {**turn, "content": _PROBE}, what + beside)

    def _check_matters(self, turns: Sequence[Message], place: int, other: Message, what: str) -> None:
        """Raise ModelError where the template writes the same with another message in this place."""
        try:
            text = self._render([*turns[:place], other, *turns[place + 1 :]], opened=True)
        except ModelError:  # then the message matters, or the conversation itself is refused, too
            return
        if text == self._render(turns, opened=True):
            raise ModelError(
                f"{self._name}'s chat template leaves out {what}: write what matters into the messages of user and "
                "assistant, or use a template that has it"
            )

    @cached_property
    def _takes_system(self) -> bool:
        try:
            shown = _PROBE in self._render([_message("system", _PROBE), _message("user", "Hello")], opened=True)
        except ModelError:
            shown = False
        if not shown:
            _log.warning("%s's chat template has no system message: it stands before the user's first", self._name)
        return shown

    def _render(self, messages: Sequence[Message], *, opened: bool) -> str:
        """The conversation as text; `opened`: up to where the assistant goes on."""
        return self._applied([self._with_content(message) for message in messages], opened=opened)

    def _with_content(self, message: Message) -> Message:
        """The message with its content as the template takes it: as a text, or as a list of parts."""
        content: object = message.get("content")
        if isinstance(content, str) and not self._takes_texts:
            return cast(Message, {**message, "content": _parts(content)})
        if isinstance(content, list) and not self._takes_parts:
            texts = [part.get("text") for part in content if part.get("type") == "text"]
            if len(texts) < len(content):
                raise ModelError(
                    f"{self._name}'s chat template takes texts alone, not {str(content)[:80]}: drop the rest"
                )
            return cast(Message, {**message, "content": "".join(map(str, texts))})
        return message

    @cached_property
    def _takes_texts(self) -> bool:
        """Whether the template shows a content that is a text; where it shows neither, texts are what it is given."""
        return self._shows(_PROBE) or not self._takes_parts

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template shows a content that is a list of parts, and not as Python spells one."""
        return self._shows(_parts(_PROBE))

    def _shows(self, content: object) -> bool:
        try:
            text = self._applied([cast(Message, {"role": "user", "content": content})], opened=True)
        except ModelError:
            return False
        return _PROBE in text and (content == _PROBE or str(content) not in text)

    def _applied(self, messages: Sequence[Message], *, opened: bool) -> str:
        continued = opened and bool(messages) and messages[-1]["role"] == "assistant"
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=opened and not continued,
                continue_final_message=continued,
            )
        except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ModelError(
                f"{self._name}'s chat template refuses {str(messages)[:80]} ({reason}): mend either"
            ) from None
        assert isinstance(text, str)
        return text

    def _encode(self, text: str) -> list[int]:
        return text_ids(self._tokenizer, text, self._before)

    @cached_property
    def _before(self) -> list[int]:
        """The special tokens that the tokenizer begins texts with."""
        return special_ids_around(self._tokenizer)[0]

    @property
    def _name(self) -> str:
        return str(self._tokenizer.name_or_path)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _count(turns: Sequence[Message], role: str) -> int:
    return sum(turn["role"] == role for turn in turns)


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _answered(turns: Sequence[Message], answer: str) -> list[Message]:
    """The conversation with the answer; one that ends in the assistant's turn goes on within it."""
    if turns and turns[-1]["role"] == "assistant":
        return [*turns[:-1], {**turns[-1], "content": turns[-1]["content"] + answer}]
    return [*turns, _message("assistant", answer)]
