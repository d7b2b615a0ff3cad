"""A tokenizer's own chat template: conversations as the ids that its model reads, and the text around an answer.

Nothing depends on model names: what a template does is found out by rendering probe texts with it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import jinja2
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.encoding import common_prefix, special_ids_around, text_ids
from trimtab.records import Message

_log = logging.getLogger(__name__)
_PROBE = "probe-5309"  # a text that no template holds
_MARGIN = "\n \n"  # white space around the probe, to see whether a template strips it


@dataclass(frozen=True, slots=True)
class Turn:
    """The text of an assistant's turn around the answer; all of it is empty where a prompt is plain text.

    `before` is between the generation prompt and the answer (a space in Llama 2, an empty thought in Qwen3), `after`
    between the answer and the end token. `strips_start`, `strips_end`: the template strips white space of the answer.

    >>> turn = Turn(before=" ", after=" ")
    >>> turn.written("An oak.", ended=True), turn.written(" An oak.", ended=False)
    (' An oak. ', ' An oak.')
    """

    before: str = ""
    after: str = ""
    strips_start: bool = False
    strips_end: bool = False

    def written(self, text: str, *, ended: bool) -> str:
        """An answer as the template writes it behind the generation prompt; an empty one that has not ended is empty.

        `before` is written once, and not at all where the text brings its own, such as a thought for an empty one.
        """
        answer = self.words(text)
        if not answer and not ended:
            return text
        marker = self.before.split()[:1]  # such as <think>
        if answer == text and marker and text.lstrip().startswith(marker[0]):
            before = ""
        else:
            before, answer = self.before, answer.lstrip() if self.strips_start else answer
        if not ended:
            return before + answer
        return before + (answer.rstrip() if self.strips_end else answer) + self.after

    def words(self, text: str) -> str:
        """A text that was sampled behind the generation prompt, without what the template itself writes there."""
        return text.removeprefix(self.before)


class ChatTemplate:
    """The chat template of a tokenizer.

    `system` is the system message of conversations without one. Where a template refuses or ignores system messages,
    the text is put in front of the first user message; a warning says so once.

    Raises:
        ModelError: the tokenizer has no chat template; from methods: the template refuses the conversation, or would
            leave out a part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._name = str(tokenizer.name_or_path)
        if tokenizer.chat_template is None:
            raise ModelError(
                f"{self._name} has no chat template: save one as chat_template.jinja beside its tokenizer, "
                "or give its prompts as plain text, with a template that has {prompt} in it"
            )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that a model reads before it answers, up to and with the generation prompt.

        A conversation that ends in a turn of the assistant is continued within that turn. A beginning-of-text token
        stands first, once, where template or tokenizer put one.
        """
        return self._encode(self._render(self._with_system(messages), opened=True))

    def conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a whole conversation, as a reward model reads it."""
        return self._encode(self._render(self._with_system(messages), opened=False))

    def answered_ids(
        self, messages: Sequence[Message], answers: Sequence[str], ended: Sequence[bool]
    ) -> tuple[list[int], list[list[int]]]:
        """The ids of a prompt, and the ids of each of several answers to it, as the template writes them.

        The conversation with each answer is encoded as a whole: up to the last word of the answer, or where it has
        `ended` through the token that ends its turn. Its ids are then split where the answer begins. The ids before
        that, which all answers share, are the prompt's. They are those of `prompt_ids`, but for two cases: a template
        may write another text before a finished answer than its generation prompt, and a token may hold both the end
        of the prompt and the beginning of an answer; it then counts as the answer's.
        """
        turns = self._with_system(messages)
        opened, head, tail = self._around_answer(turns)
        after, closing = self._split_tail(tail)
        prompt_sizes, conversations = [], []
        for answer, end in zip(answers, ended, strict=True):
            whole = self._render(_answered(turns, answer), opened=False)
            if whole.startswith(opened):
                start = len(opened)
            else:  # the template begins a finished turn with another text than the generation prompt
                start, common = common_prefix(head, whole), common_prefix(opened, whole)
                if common >= len(self._render(turns, opened=False)):  # they differ only within the assistant's turn
                    start = min(start, common)
            text = whole  # is cut at the end of the answer
            if whole.endswith(tail):
                text = whole.removesuffix(tail) + (after + closing if end else "")
            elif closing and (index := whole.rfind(closing)) >= 0:
                text = whole[: index + (len(closing) if end else 0)]
            ids = self._encode(text)
            prompt_sizes.append(common_prefix(self._encode(whole[:start]), ids))
            conversations.append(ids)
        size = min(*prompt_sizes, *(common_prefix(conversations[0], ids) for ids in conversations))
        return conversations[0][:size], [ids[size:] for ids in conversations]

    def turn(self, messages: Sequence[Message]) -> Turn:
        """The text around an answer to a conversation."""
        turns = self._with_system(messages)
        opened, head, tail = self._around_answer(turns)
        padded = self._render(_answered(turns, f"{_MARGIN}{_PROBE}{_MARGIN}"), opened=False)
        padded_head, _, padded_tail = padded.rpartition(_PROBE)
        return Turn(
            before=head[len(opened) :] if head.startswith(opened) else "",
            after=self._split_tail(tail)[0],
            strips_start=padded_head == head,
            strips_end=padded_tail == tail,
        )

    def _around_answer(self, turns: Sequence[Message]) -> tuple[str, str, str]:
        """The text up to the generation prompt, the text before an answer's words, and the text behind them."""
        opened = self._render(turns, opened=True)  # first, so that a refusal shows the conversation itself
        head, _, tail = self._render(_answered(turns, _PROBE), opened=False).rpartition(_PROBE)
        return opened, head, tail

    def _split_tail(self, tail: str) -> tuple[str, str]:
        """Split the text behind an answer: what comes before the token that ends the turn, and that token."""
        if self.end_of_turn is None:
            return tail, ""
        after, token, _ = tail.partition(str(self._tokenizer.added_tokens_decoder[self.end_of_turn]))
        return (after, token) if token else ("", "")

    @cached_property
    def end_of_turn(self) -> int | None:
        """The id of the special token that ends an answer's turn; None where the template ends turns by plain text."""
        try:
            text = self._render([_message("user", "Hello"), _message("assistant", _PROBE)], opened=False)
        except ModelError:
            return None
        tail = text.rpartition(_PROBE)[2].lstrip() if _PROBE in text else ""
        added = {str(token): int(index) for index, token in self._tokenizer.added_tokens_decoder.items()}
        run: list[str] = []
        while names := [token for token in added if token and tail.startswith(token)]:
            run.append(max(names, key=len))
            tail = tail.removeprefix(run[-1])
        eos = self._tokenizer.eos_token  # may be behind another one
        return added[eos if eos in run else run[0]] if run else None

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with its system message: as a turn, or where it has none in the first user turn."""
        brings_system = bool(messages) and messages[0]["role"] == "system"
        turns = list(messages[1:] if brings_system else messages)
        system = messages[0]["content"] if brings_system else self._system
        if system is not None and self._takes_system:
            turns = [_message("system", system), *turns]
        elif system is not None:
            first = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), None)
            if first is None:
                raise ModelError(
                    f"{self._name}'s chat template takes no system message alone: add a message of the user"
                )
            turns[first] = _message("user", f"{system}\n\n{turns[first]['content']}")
        several_systems = sum(turn["role"] == "system" for turn in turns) > 1
        for index, turn in enumerate(turns):
            first_system = turn["role"] == "system" and index == 0 and not several_systems  # see _takes_system
            has_calls = "tool_calls" in turn
            if has_calls:
                bare = cast(Message, {name: value for name, value in turn.items() if name != "tool_calls"})
                self._check_shown(turns, index, bare, "tool_calls")
            unusual = has_calls or not (first_system or turn["role"] in ("user", "assistant"))
            if unusual and str(turn["content"]).strip():  # a list of parts is never empty
                beside = " that has tool_calls" if has_calls else ""
                part = f"the content of a message of the role {turn['role']}{beside}"
                self._check_shown(turns, index, {**turn, "content": _PROBE}, part)
        return turns

    def _check_shown(self, turns: Sequence[Message], index: int, other: Message, part: str) -> None:
        """Raise ModelError where the template writes the same text with `other` as the message at `index`.

        It then ignores the `part` in which the two differ.
        """
        try:
            text = self._render([*turns[:index], other, *turns[index + 1 :]], opened=True)
        except ModelError:  # so the message is not ignored, or the conversation itself will be refused
            return
        if text == self._render(turns, opened=True):
            raise ModelError(
                f"{self._name}'s chat template leaves out {part}: write what matters into the messages of user and "
                "assistant, or use a template that has it"
            )

    @cached_property
    def _takes_system(self) -> bool:
        try:
            takes_system = _PROBE in self._render([_message("system", _PROBE), _message("user", "Hello")], opened=True)
        except ModelError:
            takes_system = False
        if not takes_system:
            _log.warning("%s's chat template has no system message: it stands before the user's first", self._name)
        return takes_system

    def _render(self, messages: Sequence[Message], *, opened: bool) -> str:
        """The conversation as text; with `opened` up to the generation prompt, or within the assistant's last turn."""
        return self._apply([self._with_content(message) for message in messages], opened=opened)

    def _with_content(self, message: Message) -> Message:
        """The message with its content in the form that the template can show: a text, or a list of parts."""
        content: object = message.get("content")
        if isinstance(content, str) and not self._takes_texts:
            return cast(Message, {**message, "content": _parts(content)})
        if isinstance(content, list) and not self._takes_parts:
            texts = [part.get("text") for part in content if part.get("type") == "text"]
            if len(texts) < len(content):
                raise ModelError(
                    f"{self._name}'s chat template takes only texts, not {str(content)[:80]}: drop the other parts"
                )
            return cast(Message, {**message, "content": "".join(map(str, texts))})
        return message

    @cached_property
    def _takes_texts(self) -> bool:
        """Whether contents are passed as texts: the template shows texts, or shows neither texts nor parts."""
        return self._shows(_PROBE) or not self._takes_parts

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template shows the text of a content that is a list of parts, and not the list's `repr`."""
        return self._shows(_parts(_PROBE))

    def _shows(self, content: object) -> bool:
        try:
            text = self._apply([cast(Message, {"role": "user", "content": content})], opened=True)
        except ModelError:
            return False
        return _PROBE in text and (content == _PROBE or str(content) not in text)

    def _apply(self, messages: Sequence[Message], *, opened: bool) -> str:
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
                f"{self._name}'s chat template refuses {str(messages)[:80]} ({reason}): mend one of them"
            ) from None
        assert isinstance(text, str)
        return text

    def _encode(self, text: str) -> list[int]:
        return text_ids(self._tokenizer, text, self._prefix)

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of texts."""
        return special_ids_around(self._tokenizer)[0]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _answered(turns: Sequence[Message], answer: str) -> list[Message]:
    """The conversation with the answer, which continues the last turn where that is the assistant's."""
    if turns and turns[-1]["role"] == "assistant":
        return [*turns[:-1], {**turns[-1], "content": turns[-1]["content"] + answer}]
    return [*turns, _message("assistant", answer)]
