"""Requests of OpenAI's protocol before any model sees them: what is accepted, what is refused and how, and what a
model's name stands for."""

import importlib
import json
import random

import pydantic
import pytest

from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.errors import ModelError, TrimtabError
from trimtab.serve.answer_state import AnswerState, Choice
from trimtab.serve.api_errors import ApiError
from trimtab.serve.body_faults import refusal_of
from trimtab.serve.formats import CompletionFormat, Heading, Offsets, ShownLogprobs
from trimtab.serve.model_names import ModelNames, decoder_named, decoders_of
from trimtab.serve.protocol import UNSUPPORTED, ChatRequest, CompletionRequest
from trimtab.serve.requests import (
    ContextLengthError,
    QueueFullError,
    RequestFailed,
    ShutdownError,
    TextPiece,
    Token,
    TooManyRowsError,
)
from trimtab.serve.search_settings import CLIENT_SETTINGS, FLAGS, SETTINGS_SCHEMA, changed
from trimtab.serve.service import refusal

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
COMPLETION = {"model": "m", "prompt": "Hello"}


def refused(body: dict[str, object], kind: type[pydantic.BaseModel] = ChatRequest) -> ApiError:
    with pytest.raises(pydantic.ValidationError) as caught:
        kind.model_validate(body)
    return refusal_of([{**fault, "loc": ("body", *fault["loc"])} for fault in caught.value.errors()])


@pytest.mark.parametrize("name", sorted(set(UNSUPPORTED) - {"echo"}))
def test_a_field_that_would_change_the_answer_is_refused_by_its_name(name: str) -> None:
    for kind, body in ((ChatRequest, CHAT), (CompletionRequest, COMPLETION)):
        error = refused({**body, name: "something"}, kind)
        assert (error.status, error.param) == (400, name)
        assert str(error) == f"{name} is not supported: leave it out"


@pytest.mark.parametrize("name", sorted(set(UNSUPPORTED) - {"echo"}))
def test_a_value_that_asks_for_nothing_is_accepted(name: str) -> None:
    for value in (None, *UNSUPPORTED[name]):
        ChatRequest.model_validate({**CHAT, name: value})


def test_a_boolean_is_no_neutral_number() -> None:
    assert refused({**CHAT, "presence_penalty": False}).param == "presence_penalty"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"model": "m"}, "messages", "messages is missing: give it"),
        ({**CHAT, "n": 0}, "n", "n is 0"),
        ({**CHAT, "n": "2"}, "n", "n is '2'"),
        ({**CHAT, "n": True}, "n", "n is True"),
        ({**CHAT, "temperatur": 1}, "temperatur", "did you mean temperature?"),
        ({**CHAT, "a\nb": 1}, "a\nb", "is unknown: leave it out"),
        ({**CHAT, "top_logprobs": 2}, None, "give logprobs: true"),
        ({**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, None, "differ: give one of them"),
        ({**CHAT, "stream_options": {"include_usage": True}}, None, "give stream"),
        ({**CHAT, "stop": [""]}, "stop.0", "stop.0 is ''"),
        ({**CHAT, "seed": -1}, "seed", "seed is -1"),
        ({**CHAT, "user": "\ud800"}, None, "half of a character"),
        ({**CHAT, "messages": [{"role": "user", "content": "\ud800"}]}, None, "half of a character"),
        ({**CHAT, "messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "messages.0.role is 'robot'"),
        (
            {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type", "messages.0.content.0.image_url is unknown",
        ),
        (
            {**CHAT, "messages": [{"role": "assistant", "audio": {"id": "a"}}]},
            "messages.0.audio", "messages.0.audio is not supported",
        ),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_value_and_the_remedy(body: dict, param: str | None, words: str) -> None:
    error = refused(body)
    assert error.param == param
    assert words in str(error)
    json.dumps(error.body, ensure_ascii=False).encode()


def test_prompts_are_texts_or_ids_one_or_several() -> None:
    for prompt, prompts in (
        ("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [(1, 2)]), ([[1], [2, 3]], [(1,), (2, 3)]),
    ):  # fmt: skip
        assert CompletionRequest.model_validate({"model": "m", "prompt": prompt}).prompts == prompts
    for prompt in ([], [[]], [1, "a"], [-1], [2**31], 5, {"a": 1}):
        assert refused({"model": "m", "prompt": prompt}, CompletionRequest).param is not None


def test_sampling_has_the_names_of_vllm_and_only_what_was_given() -> None:
    body = {**COMPLETION, "temperature": 0, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.2, "top_p": None}
    sampling = CompletionRequest.model_validate(body).sampling
    assert sampling == {"temperature": 0, "top_k": 0, "min_p": 0.1, "repetition_penalty": 1.2}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bon-16", {"successors": 16}),
        ("cbs-4-4-5", {"width": 4, "successors": 4, "chunk": 5}),
        ("eft-0.5", {"beta": 0.5}),
        ("eft--1", {"beta": -1.0}),
        ("eft-0.5-bon-4", {"beta": 0.5, "successors": 4}),
        ("tuned", {"model": "tuned"}),
        ("untuned-cbs-2-2-3", {"model": "untuned", "width": 2, "successors": 2, "chunk": 3}),
        ("base", {}),
    ],
)
def test_a_name_says_which_decoder(name: str, settings: dict) -> None:
    decoder = decoder_named(name)
    assert decoder is not None
    assert decoder.name == name
    assert decoder.hashed() == DecoderConfig(**settings).hashed()


@pytest.mark.parametrize(
    "name", ["", "bon", "bon-0", "cbs-2-2", "-bon-4", "tuned-", "tunedbon-4", "bon-4/../x", "eft-1e9"]
)
def test_other_names_are_no_decoders(name: str) -> None:
    assert decoder_named(name) is None


def test_a_run_lends_its_decoders_their_names() -> None:
    decoders = [
        {"name": "mine", "width": 2, "successors": 2, "chunk": 5}, {"successors": 8, "n_best": 3},
        {"best_of": "bon-9"}, {"name": "bon-9", "successors": 9}, {"name": "beams", "best_of": "mine"},
    ]  # fmt: skip
    served = decoders_of(GuideConfig.model_validate({"decoders": decoders}))
    assert [*served] == ["mine", "bon-8", "gold-bon-9", "bon-9"]  # a pick among beams cannot be decoded
    assert served["bon-8"].n_best is None
    assert (served["gold-bon-9"].successors, served["gold-bon-9"].value[0].by) == (9, "reward")
    names = ModelNames("m", served)
    assert names.decoder("m:mine").width == 2
    assert names.decoder("m").plain and names.decoder("m:bon-3").successors == 3
    for unknown in ("n", "m:", "m:min", "mine", ":bon-3", "m:bon-3:bon-3"):
        with pytest.raises(ApiError) as caught:
            names.decoder(unknown)
        assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


def test_settings_of_the_search_are_checked_as_a_file_is() -> None:
    decoder = DecoderConfig(name="mine", successors=4)
    assert changed(decoder, {}) is decoder
    assert changed(decoder, {"width": 2, "chunk": 3}).name == "cbs-2-4-3"
    assert changed(decoder, {"value": {"by": "implicit", "per_token": True}}).value[0].per_token
    for settings, param, words in (
        ({"widht": 2}, "trimtab.widht", "did you mean width?"),
        ({"width": 2}, "trimtab.chunk", "give chunk"),
        ({"chunk": 0}, "trimtab.chunk", "greater than or equal to 1"),
        ({"groups": 3}, "trimtab", "divides the width"),
        ({"value": "rewrad"}, "trimtab.value", "no value"),
    ):
        with pytest.raises(ApiError) as caught:
            changed(decoder, settings)
        assert caught.value.param == param
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"value": "os:system"}, {"value": ["reward", {"by": "/etc/passwd:x"}]}, {"value": {"by": "rewards.py:f"}},
        {"emulate": [{"weight": 1, "tuned": {"name": "/etc"}}]}, {"best_of": "bon-16"}, {"model": "tuned"},
        {"vote": "(a+)+$"}, {"budget": 1e20}, {"plugins": ["os"]}, {"name": "x"},
    ],
)  # fmt: skip
def test_clients_name_no_code_no_file_and_no_pattern(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def importing(name: str) -> object:
        return real(name) if name.startswith("trimtab.") else pytest.fail(f"a client had {name} imported")

    monkeypatch.setattr(importlib, "import_module", importing)
    with pytest.raises(ApiError) as caught:
        changed(DecoderConfig(successors=4), settings)
    assert caught.value.status == 400


def test_the_schema_has_the_settings_that_clients_may_set() -> None:
    assert {*SETTINGS_SCHEMA["properties"]} == {*CLIENT_SETTINGS, *FLAGS}
    assert "$ref" not in json.dumps(SETTINGS_SCHEMA)


def test_offsets_follow_the_text_over_special_tokens_and_split_characters() -> None:
    tokens = [
        Token(0, "<start>"),
        Token(1, "tr"),
        Token(2, "\ufffd"),
        Token(3, "\ufffd"),
        Token(4, "s"),
        Token(5, "<end>"),
    ]
    assert Offsets().more(tokens, "très") == [0, 0, 2, 2, 3, 4]


def test_offsets_in_pieces_are_those_of_all_tokens_and_the_text_so_far() -> None:
    """The tokens of a piece and its text need not end at the same character."""
    draw = random.Random(5)
    parts = [("<start>", ""), ("ab", "ab"), ("\ufffd", ""), ("\ufffd", "é"), ("b", "b"), ("ba", "ba"), ("<end>", "")]
    for _ in range(2000):
        drawn = draw.choices(parts, k=draw.randrange(1, 12))
        tokens, text = [Token(1, word) for word, _ in drawn], "".join(written for _, written in drawn)
        offsets, told, length = Offsets(), 0, 0
        while told < len(tokens):
            until, length = draw.randint(told, len(tokens)), draw.randint(length, len(text))
            expected = Offsets().more(tokens[:until], text[:length])[told:]
            assert offsets.more(tokens[told:until], text[:length]) == expected, (drawn, told, until, length)
            told = until


def test_a_piece_with_log_probabilities_costs_its_own_tokens_alone() -> None:
    """Else long streamed answers would hold up the event loop, and with it all clients."""
    read: list[str] = []

    class Watched:
        def __getattribute__(self, name: str) -> object:
            read.append(name)
            return getattr(Token(1, "ab", -1.0, ((1, "ab", -1.0),)), name)

    form, choice, pieces = CompletionFormat(Heading("id", 0, "m", "m", 0, top=1)), Choice(0), 300
    for _ in range(pieces):
        piece = TextPiece(0, "ab", (Watched(),))  # type: ignore[arg-type]
        choice.text += piece.text
        choice.tokens += piece.tokens
        form.piece(choice, piece)
    assert 0 < len(read) < 40 * pieces  # 20 for each token; were all read for each piece, it would be 150 times as many


def test_likely_tokens_hold_the_sampled_one_and_no_infinity() -> None:
    tokens = [Token(1, "a"), Token(2, "b", float("-inf"), ((3, "c", -0.5), (4, "\ufffd", -1.0), (5, "\ufffd", -2.0)))]
    shown = ShownLogprobs().more(tokens, "ab")
    assert shown["token_logprobs"] == [None, -9999.0]
    assert shown["top_logprobs"] == [None, {"c": -0.5, "\ufffd": -1.0, "b": -9999.0}]
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError("full", 2.3), 429, "rate_limit_exceeded"),
        (ContextLengthError("long"), 400, "context_length_exceeded"),
        (TooManyRowsError("many"), 400, "too_many_rows"),
        (ShutdownError("ending"), 503, "shutting_down"),
        (ModelError("no chat template"), 400, None),
    ],
)
def test_what_the_engine_refuses_has_its_status(error: TrimtabError, status: int, code: str | None) -> None:
    told = refusal(error, "messages")
    assert (told.status, told.code, str(told)) == (status, code, str(error))
    assert told.param == ("messages" if code == "context_length_exceeded" else None)
    assert told.headers == {429: {"Retry-After": "3"}, 503: {"Retry-After": "5"}}.get(status, {})


def test_a_request_that_fails_is_the_servers_fault() -> None:
    state = AnswerState(prompts=2, n=2)
    choice = state.take(1, TextPiece(1, "An oak"))
    assert choice is state.choices[3] and choice.text == "An oak"
    for error, status, code in (
        (ModelError("logits are not finite"), 500, "request_failed"), (ShutdownError("ending"), 503, "shutting_down"),
    ):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            state.take(0, RequestFailed(error))
        assert (caught.value.status, caught.value.code) == (status, code)
        assert caught.value.body["error"]["type"] == "server_error"
    assert not state.ended
