"""Tiny tokenizers of the kinds that models have: how they spell bytes, spaces and parts of words."""

from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from tiny import CORPUS, tokenizer

_SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]


def _byte_fallback(*, strips: bool) -> Tokenizer:
    """A BPE of characters and bytes: Llama 2's, whose decoder strips a first space, or Gemma's, whose does not."""
    vocabulary = {name: number for number, name in enumerate(_SPECIAL)}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in ["▁", *map(chr, range(97, 123)), *".,!?\ufffdé", "th", "▁th"]:
        vocabulary.setdefault(character, len(vocabulary))
    merges = [("t", "h"), ("▁", "th")]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if strips else replace
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def _word_piece(*, cleanup: bool) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=_SPECIAL, show_progress=False)
    made.train_from_iterator([*CORPUS, "do n't , I 'm . we 've !"], trainer)
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def _suffixes() -> Tokenizer:
    """A BPE that marks the ends of words, as CLIP's and older GPTs' do."""
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=_SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _spaced() -> Tokenizer:
    made = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def _plain() -> Tokenizer:
    return Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())


MAKE: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": _plain,
    "byte-level with a first space": _spaced,
    "byte-fallback that strips": lambda: _byte_fallback(strips=True),
    "byte-fallback": lambda: _byte_fallback(strips=False),
    "word pieces": lambda: _word_piece(cleanup=False),
    "word pieces, cleaned up": lambda: _word_piece(cleanup=True),
    "unigram": _unigram,
    "ends of words": _suffixes,
}
KINDS = tuple(MAKE)
WHOLE_TEXTS = KINDS[:4]  # those that write any text, letter by letter


@cache
def kind_of_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind; "</s>" (or "<end>") ends texts, "<eot>" is added and not special, "<|user|>" special."""
    made = MAKE[kind]()
    own = made.token_to_id("</s>") is None
    named = {"eos_token": "<end>", "bos_token": "<start>"} if own else {"eos_token": "</s>", "bos_token": "<s>"}
    found = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces="clean" in kind, **named)
    found.add_tokens([AddedToken("<eot>", special=False, normalized=False)])
    found.add_tokens([AddedToken("<|user|>", special=True, normalized=False)], special_tokens=True)
    found.name_or_path = f"tiny {kind}"
    return found
