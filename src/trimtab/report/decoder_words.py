"""What a decoder does, in words.

>>> description(DecoderConfig(width=4, successors=4, chunk=5))
'chunk-level beam search (CBS 4/4/5)'
"""

from trimtab.config.guide import DecoderConfig


def description(decoder: DecoderConfig) -> str:
    """The decoder's settings in a few words, such as `chunk-level beam search (CBS 4/4/5)`."""
    if decoder.best_of is not None:
        return f"the best of {decoder.best_of}'s samples by the gold reward"
    search = "unguided decoding"
    if decoder.budget is not None:
        search = f"the search that {decoder.budget:g} FLOPs a prompt pay for"
    elif decoder.chunk is not None:
        search = f"chunk-level beam search (CBS {decoder.width}/{decoder.successors}/{decoder.chunk})"
    elif decoder.guided:
        search = f"best-of-{decoder.successors}"
    search += _judged_by(decoder)
    if not decoder.terms:
        return search
    name = "EFT beta" if decoder.beta is not None else "EFT weights"
    weights = ", ".join(f"{term.weight:g}" for term in decoder.terms)
    return f"{name} {weights}" + (f" with {search}" if decoder.guided else "")


def explanation(decoder: DecoderConfig) -> str:
    """How the decoder works, for someone who does not know the method."""
    if decoder.best_of is not None:
        return (
            f"Of {decoder.best_of}'s candidates the one that the gold reward itself likes best: not a method, but the "
            "mark to measure methods by."
        )
    tokens = "token" if decoder.chunk == 1 else f"{decoder.chunk} tokens"
    search = "Unguided: the model samples by itself."
    if decoder.budget is not None:
        search = f"Of all searches that {decoder.budget:g} FLOPs a prompt pay for, the largest."
    elif decoder.chunk is not None:
        search = (
            f"Chunk-level beam search (CBS): every {tokens}, each of {decoder.width} beams grows {decoder.successors} "
            f"ways and the guide keeps the best {decoder.width}."
        )
    elif decoder.guided:
        search = f"Best-of-{decoder.successors}: of {decoder.successors} samples the guide picks one."
    options = {
        f"Beams compete within {decoder.groups} groups.": decoder.groups > 1,
        "Of equal candidates one stays.": decoder.duplicates == "drop",
        "A finished response leaves its slot to others.": decoder.pool is not None,
        "The worst samples are dropped before they are finished.": decoder.reject is not None,
        "Chunks end early at a given text.": bool(decoder.chunk_ends),
        "Equal answers pool their weight.": decoder.vote is not None,
        f"Candidates are{_judged_by(decoder)}.": bool(decoder.value),
        "Decoders are measured by the gold reward: this is an upper line, not a method.": decoder.guided_by_gold,
    }
    search = " ".join([search, *(sentence for sentence, used in options.items() if used)])
    if not decoder.terms:
        return search
    weights = " and ".join(f"{term.weight:g} times" for term in decoder.terms)
    emulated = (
        f"Emulated fine-tuning (EFT): at each token {weights} the difference of tuned and untuned model "
        "is added to the model's logits."
    )
    return f"{emulated} {search}" if decoder.guided else emulated


def _judged_by(decoder: DecoderConfig) -> str:
    """` guided by the gold reward`, and so on; empty where the tuned/untuned pair alone guides."""
    if not decoder.value:
        return ""
    return " guided by " + " and ".join(value.words for value in decoder.value)
