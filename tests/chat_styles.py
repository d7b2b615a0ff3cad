"""Chat templates in the styles of well-known model families, on tiny tokenizers that hold their special tokens."""

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tiny import CORPUS


@dataclass(frozen=True)
class Style:
    """A template and its tokens.

    `starts`: the tokenizer begins texts with its beginning-of-text token. `turn_end`: what the template puts behind
    an answer; `eos`: what the tokenizer calls its end, which may be another. `spaced`: the tokenizer puts a space
    before the first word of a text, as those of Llama 2 do. `more`: special tokens beside those that all styles have.
    `before`: what the template writes between the generation prompt and an answer; None where it writes answers
    behind something else than the generation prompt.
    """

    template: str
    bos: str | None
    eos: str
    turn_end: str
    starts: bool = False
    spaced: bool = False
    takes_system: bool = True
    more: tuple[str, ...] = ()
    before: str | None = ""


_TURNS = "{% for m in messages %}"
_ALTERNATE = "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
STYLES = {
    "chatml": Style(
        _TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        bos=None, eos="<|endoftext|>", turn_end="<|im_end|>",
    ),
    "llama-3": Style(
        "{{ bos_token }}" + _TURNS + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        bos="<|begin_of_text|>", eos="<|end_of_text|>", turn_end="<|eot_id|>", starts=True,
    ),
    "gemma": Style(
        "{{ bos_token }}" + _TURNS + _ALTERNATE
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        bos="<bos>", eos="<eos>", turn_end="<end_of_turn>", starts=True, takes_system=False,
    ),
    "llama-2": Style(
        _TURNS + _ALTERNATE
        + "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>", eos="</s>", turn_end="</s>", starts=True, spaced=True, takes_system=False, before=" ",
    ),
    "zephyr": Style(  # prints no beginning-of-text token, which its tokenizer puts
        _TURNS + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        bos="<s>", eos="</s>", turn_end="</s>", starts=True, spaced=True,
    ),
    "openchat": Style(  # leaves system messages out without a word
        "{{ bos_token }}{% for m in messages if m.role != 'system' %}GPT4 Correct {{ m.role | title }}: "
        "{{ m.content }}<|end_of_turn|>{% endfor %}{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}",
        bos="<s>", eos="</s>", turn_end="<|end_of_turn|>", starts=True, spaced=True, takes_system=False, before=" ",
    ),
    "qwen-3": Style(  # an empty thought before the last answer, none before earlier ones
        "{% set ns = namespace(asked=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
        + _TURNS + "<|im_start|>{{ m.role }}\n{% set parts = m.content.split('</think>') %}"
        "{% if m.role == 'assistant' and loop.index0 > ns.asked %}<think>\n"
        "{{ parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 }}\n</think>\n\n{% endif %}"
        "{{ parts[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        bos=None, eos="<|im_end|>", turn_end="<|im_end|>", before="<think>\n\n</think>\n\n",
    ),
    "deepseek": Style(  # the generation prompt opens a thought; thoughts are left out of what has been answered
        "{{ bos_token }}" + _TURNS + _ALTERNATE + "{% if m.role == 'user' %}<|User|>{{ m.content }}"
        "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] | trim }}<|end_of_sentence|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        bos="<|begin_of_text|>", eos="<|end_of_sentence|>", turn_end="<|end_of_sentence|>", starts=True,
        takes_system=False, more=("<|User|>", "<|Assistant|>", "<|end_of_sentence|>"), before=None,
    ),
    "phi": Style(  # writes the end of texts behind the last turn
        _TURNS + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        bos=None, eos="<|endoftext|>", turn_end="<|end|>",
        more=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "mistral-1": Style(
        "{{ bos_token }}" + _TURNS + _ALTERNATE + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>", eos="</s>", turn_end="</s>", starts=True, spaced=True, takes_system=False, before=" ",
    ),
    "mistral-3": Style(
        "{{ bos_token }}" + _TURNS + _ALTERNATE + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>", eos="</s>", turn_end="</s>", starts=True, spaced=True, takes_system=False, before=" ",
        more=("[INST]", "[/INST]"),
    ),
    "mistral-tekken": Style(
        "{{ bos_token }}" + _TURNS + _ALTERNATE + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>", eos="</s>", turn_end="</s>", starts=True, takes_system=False, more=("[INST]", "[/INST]"),
    ),
    "marked": Style(  # says itself what the model generates, as TRL's templates for training do
        _TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        bos=None, eos="<|im_end|>", turn_end="<|im_end|>",
    ),
}  # fmt: skip
_SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>",
    "<|end_of_turn|>",
)  # fmt: skip


def chat_tokenizer(name: str, size: int = 340) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the template and the special tokens of a style."""
    style = STYLES[name]
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=style.spaced)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*_SPECIAL, *style.more],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    base.train_from_iterator(CORPUS, trainer)
    if style.starts:
        assert style.bos is not None
        base.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, base.token_to_id(style.bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=base, eos_token=style.eos, bos_token=style.bos, pad_token=style.eos)
    made.chat_template = style.template
    made.name_or_path = f"tiny-{name}"
    return made
