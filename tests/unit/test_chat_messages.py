"""No message of a conversation is left out by a chat template without a word: over the templates that TRL ships."""

import re
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tiny import CORPUS
from trimtab.errors import ModelError
from trimtab.models.vocabulary import Vocabulary

TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8")
    for file in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
}
USER: dict[str, Any] = {"role": "user", "content": "Name a tree."}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "KEPT-find", "arguments": {"kind": "tree"}}}
RESULT = {"role": "tool", "content": "KEPT-oak", "tool_call_id": "abcdefghi", "name": "KEPT-find"}
TALKS: dict[str, list[dict[str, Any]]] = {
    "several turns": [USER, {"role": "assistant", "content": "KEPT-one"}, {"role": "user", "content": "KEPT-two"}],
    "system": [{"role": "system", "content": "KEPT-brief"}, USER],
    "two systems": [{"role": "system", "content": "KEPT-one"}, {"role": "system", "content": "KEPT-two"}, USER],
    "system later": [USER, {"role": "assistant", "content": "x"}, {"role": "system", "content": "KEPT-brief"}, USER],
    "developer": [{"role": "developer", "content": "KEPT-brief"}, USER],
    "tools": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT],
    "words beside tools": [USER, {"role": "assistant", "content": "KEPT-words", "tool_calls": [CALL]}, RESULT],
    "a result alone": [USER, RESULT],
    "begun answer": [USER, {"role": "assistant", "content": "KEPT-begun"}],
}


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE that has whatever looks like a special token in a template."""
    special = sorted({*re.findall(r"<[|｜]?[A-Za-z_/▁|｜0-9]+[|｜]?>|\[/?[A-Z_]+\]", template), "<s>", "</s>"})
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340 + len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    base.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", bos_token="<s>", pad_token="</s>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_message_is_shown_or_refused(template: str) -> None:
    made = tokenizer_with(TEMPLATES[template])
    shown = 0
    for talk in TALKS.values():
        try:
            text = made.decode(Vocabulary(made).encode_prompt(talk, "chat"))  # type: ignore[arg-type]
        except ModelError as error:
            assert "chat template refuses" in str(error) or "chat template leaves out" in str(error)
            continue
        shown += 1
        names = {name for message in talk for name in re.findall(r"KEPT-\w+", str(message))}
        if "KEPT-find" in names and not any("tool_calls" in message for message in talk):
            names.remove("KEPT-find")  # a result may be told without the name of its function
        assert [name for name in names if name not in text] == []
    assert shown >= 3


def test_tool_calls_are_kept_where_a_template_refuses_a_result_without_them() -> None:
    template = (
        "{% set ns = namespace(called=false) %}{% for m in messages %}{% if m.tool_calls %}{% set ns.called = true %}"
        "CALL {{ m.tool_calls[0].function.name }}{% elif m.role == 'tool' %}{% if not ns.called %}"
        "{{ raise_exception('no call before') }}{% endif %}RESULT {{ m.content }}{% else %}{{ m.role }}: "
        "{{ m.content }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    made = tokenizer_with(template)
    text = made.decode(Vocabulary(made).encode_prompt(TALKS["tools"], "chat"))  # type: ignore[arg-type]
    assert "CALL KEPT-find" in text and "RESULT KEPT-oak" in text
    with pytest.raises(ModelError, match=r"refuses .*no call before"):
        Vocabulary(made).encode_prompt(TALKS["a result alone"], "chat")  # type: ignore[arg-type]
