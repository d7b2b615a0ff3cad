"""From a request to what the engine runs: the prompt's ids, the search, its random numbers; and what is refused."""

import json
from dataclasses import fields

from trimtab.errors import ConfigurationError, shown
from trimtab.messages import prompt_of
from trimtab.models.language_model import check_ids
from trimtab.records import Prompt, PromptInput
from trimtab.search.chunk_beam import Search
from trimtab.search.decoders import search_settings
from trimtab.search.guided_model import prompt_id
from trimtab.search.proposer import LanguageModelProposer
from trimtab.serve.engine_choice import Choice, Entry
from trimtab.serve.engine_handle import Handle
from trimtab.serve.engine_parts import DecoderParts
from trimtab.serve.engine_tokens import TokenTexts
from trimtab.serve.requests import ContextLengthError, GenerationRequest, Limits, TooManyRowsError

MAX_SEED = 2**64 - 1


def entry_of(request: GenerationRequest, handle: Handle, parts: DecoderParts, texts: TokenTexts) -> Entry:
    """The request with its prompt encoded.

    Raises:
        DataError, ModelError: the prompt cannot be read.
        ConfigurationError: settings that do not go together.
    """
    _check_settings(request, parts)
    model = parts.model
    if isinstance(request.prompt, tuple):
        check_ids(model.name, model.vocabulary, model.vocab_size, [request.prompt])
        prompt_ids, content = list(request.prompt), json.dumps(list(request.prompt))
        prompt: PromptInput = model.vocabulary.detokenizer.texts([prompt_ids])[0]
    else:
        prompt = prompt_of(request.prompt, "the prompt")
        prompt_ids, content = model.vocabulary.encode_prompt(prompt, model.template), json.dumps(prompt)
    search = search_of(request)
    proposer = LanguageModelProposer(
        model,
        request.sampling,
        request.seed,
        stop=request.stop,
        chunk_ends=request.decoder.chunk_ends,
        stop_ids=frozenset(request.stop_token_ids),
    )
    entry = Entry(request, handle, parts, texts, prompt_ids, prompt, search, proposer)
    entry.choices = [Choice(entry, n, Prompt(prompt_id(content, request.first + n), prompt)) for n in range(request.n)]
    return entry


def search_of(request: GenerationRequest) -> Search:
    """The search of a request; plain sampling that is streamed stops at each token, which gives the same tokens."""
    search = Search(**search_settings(request.decoder), max_new_tokens=max(1, request.max_new_tokens))
    if search.candidates > 1 or not (request.stream or request.trace):
        return search
    return Search(**{**{field.name: vars(search)[field.name] for field in fields(Search)}, "chunk": 1})


def _check_settings(request: GenerationRequest, parts: DecoderParts) -> None:
    least = 0 if request.echo else 1
    for name, number, smallest, largest in (
        ("n", request.n, 1, None),
        ("first", request.first, 0, None),
        ("max_new_tokens", request.max_new_tokens, least, None),
        ("seed", request.seed, 0, MAX_SEED),
        ("logprobs", request.logprobs or 0, 0, parts.model.vocab_size),
    ):
        if number < smallest or (largest is not None and number > largest):
            limit = f"at least {smallest}" if largest is None else f"from {smallest} to {largest}"
            raise ConfigurationError(f"{name} is {number}: give a whole number {limit}")
    if not all(request.stop):
        raise ConfigurationError("stop holds an empty text, at which every response ends: leave it out")
    wrong = [token for token in request.stop_token_ids if not 0 <= token < parts.model.vocab_size]
    if wrong:
        raise ConfigurationError(f"stop_token_ids holds {wrong[0]}, which is no token of {parts.model.name}")
    if not request.prompt and isinstance(request.prompt, tuple):
        raise ConfigurationError("the prompt has no token ids: give at least one")
    if request.echo and not isinstance(request.prompt, str | tuple):
        raise ConfigurationError(f"echo is {shown(request.echo)}, and a conversation cannot be echoed: leave it out")


def check_rows(request: GenerationRequest, limits: Limits) -> None:
    """Raise TooManyRowsError where a request asks for too many rows, before anything is made for each of them."""
    if request.rows > limits.request_rows or request.rows // max(1, request.n) > limits.rows:
        most = min(limits.request_rows, limits.rows)
        raise TooManyRowsError(
            f"width x successors x n is {request.rows} rows, and a request may have {most}: lower one of them"
        )


def check_fits(entry: Entry, limits: Limits) -> None:
    """Raise ContextLengthError where prompt and response exceed the limit, or a model's context."""
    request, model = entry.request, entry.parts.model
    tokens, room = len(entry.prompt_ids), request.max_new_tokens
    if tokens + room > (limit := context_of(entry.parts, limits)):
        raise ContextLengthError(
            f"a prompt of {tokens} tokens and {room} new ones exceed the context of {limit}: shorten the prompt or "
            "lower max_tokens"
        )
    first = entry.choices[0].prompt
    reason = None if isinstance(request.prompt, tuple) else model.too_long(first.text, room)
    if reason is None and entry.parts.value is not None:
        reason = entry.parts.value.too_long(first, room)
    if reason is not None:
        raise ContextLengthError(f"{reason}: shorten the prompt or lower max_tokens")


def context_of(parts: DecoderParts, limits: Limits) -> int:
    """How many tokens prompt and response may have together."""
    return parts.model.context if limits.context is None else min(limits.context, parts.model.context)
