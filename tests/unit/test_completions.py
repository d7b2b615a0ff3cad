"""A base behind a completions endpoint, a real server on the loopback address, under searches that need only text."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from completions_server import Server, serving
from tiny import language_model, tokenizer
from trimtab.config.models import EndpointConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError, DataError, EndpointError, ModelError
from trimtab.models.cached_model import CachedModel
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.models.served_answer import Choice, share_out
from trimtab.models.served_model import CompletionsModel, Question, Usage
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import CompletionsProposer
from trimtab.search.value import ImplicitValue, RewardValue

PROMPTS = [Prompt("a", "I really"), Prompt("b", "This was the")]
SAMPLING = SamplingConfig(temperature=1.0, top_k=0)


@pytest.fixture(scope="module")
def base() -> CachedModel:
    return language_model(0, ends=range(40, 60))


@pytest.fixture
def server(base: CachedModel) -> Iterator[Server]:
    with serving(base) as server:
        yield server


def closed(server: Server, **settings: object) -> CompletionsModel:
    config = EndpointConfig.model_validate({"url": server.url, "timeout": 20, "attempts": 3, **settings})
    return CompletionsModel(server.url, "tiny", settings=config)


def searched(server: Server, search: Search, stop: tuple[str, ...] = (), sampling=SAMPLING, value=None):
    model = closed(server)
    value = value or RewardValue(FunctionReward(lambda texts: [float(sum(map(ord, text)) % 97) for text in texts]))
    found = search.run(PROMPTS, CompletionsProposer(model, sampling, 3, stop=stop), value)
    return found, model


@pytest.mark.parametrize("search", [Search(4, 2, 3, 12), Search(successors=6, max_new_tokens=12, keep=6), Search()])
def test_searches_need_only_text(server: Server, search: Search) -> None:
    """Responses are of at most max_new_tokens of the server's tokens; the best come first; the same seed, the same."""
    found, model = searched(server, search)
    again, _ = searched(server, search)
    assert [[each.text for each in group] for group in found] == [[each.text for each in group] for group in again]
    for group in found:
        assert [each.value for each in group] == sorted((each.value for each in group), reverse=True)
        for each in group:
            assert each.finish in ("eos", "length") and len(each.token_ids) <= search.max_new_tokens
            assert (each.finish == "length") == (len(each.token_ids) == search.max_new_tokens)
    assert model.usage.requests == len(server.requests) // 2


def test_best_of_n_asks_once_a_prompt_and_cbs_once_a_beam_and_chunk(server: Server) -> None:
    """Successors of a beam are choices of one request: a server that bills by token reads the text once for all."""
    searched(server, Search(successors=6, max_new_tokens=12))
    assert [body["n"] for body in server.requests] == [6, 6]
    server.requests.clear()
    _, model = searched(server, Search(2, 3, 3, 9))
    assert [body["n"] for body in server.requests[:2]] == [6, 6]
    later = server.requests[2:]
    assert all(body["max_tokens"] == 3 for body in later if body["n"] == 3)
    assert all(body["n"] == 1 for body in later if body["n"] != 3)  # where a chunk was a part of a character
    assert model.usage == Usage(
        len(server.requests),
        sum(len(tokenizer().encode(body["prompt"])) for body in server.requests),
        model.usage.completion_tokens,
    )


def test_values_of_a_pair_are_those_of_the_texts(server: Server) -> None:
    """The guides read the text as they split it, and the end only where the model ended it."""
    tuned, untuned = language_model(5, size=300), language_model(6, size=300)
    found, _ = searched(
        server, Search(successors=8, max_new_tokens=10, keep=8), value=ImplicitValue(tuned, untuned, None)
    )
    finishes = set()
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            ids = tuned.vocabulary.encode_response(each.text) + [tuned.vocabulary.end_id] * (each.finish == "eos")
            (high,), (low,) = (sequence_log_probabilities(m, [prompt.text], [ids]) for m in (tuned, untuned))
            assert each.value == pytest.approx(high - low, abs=1e-9)
            finishes.add(each.finish)
    assert finishes == {"eos", "length"}


@pytest.mark.parametrize("vllm", [True, False])
def test_stop_strings_end_a_response_also_across_chunks(base: CachedModel, vllm: bool) -> None:
    """The server sees a chunk at a time, so a string that spans two is found here; the text is cut before it."""
    with serving(base, vllm=vllm) as server:
        free, _ = searched(server, Search(successors=4, max_new_tokens=12, keep=4))
        text = max((each.text for group in free for each in group), key=len)
        stop = (text[4:6], "never")
        for search in (Search(successors=4, max_new_tokens=12, keep=4), Search(2, 2, 1, 12)):
            found, _ = searched(server, search, stop)
            flat = [each for group in found for each in group]
            assert not any(string in each.text for each in flat for string in stop)
            if search.chunk is None:
                assert any(each.finish == "stop" and text.startswith(each.text) for each in flat)
        assert all(body["stop"] == list(stop) for body in server.requests if "stop" in body)


def test_a_stop_that_spans_two_chunks_is_found_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunks = closed(server), itertools.cycle(["ab", "cd", "ef"])
    monkeypatch.setattr(
        model, "complete", lambda questions, *_: [[Choice(next(chunks), 2, "length")] for _ in questions]
    )
    proposer = CompletionsProposer(model, SAMPLING, 0, stop=["bc"])
    ((found,),) = Search(1, 1, 2, 6).run(PROMPTS[:1], proposer, None)
    assert (found.text, found.finish, len(found.token_ids)) == ("a", "stop", 4)


@pytest.mark.parametrize(
    ("choice", "stop", "finish"),
    [
        ({"finish_reason": "stop", "stop_reason": None}, ["x"], "eos"),
        ({"finish_reason": "stop", "stop_reason": "x"}, ["x"], "stop"),
        ({"finish_reason": "stop"}, ["x"], "stop"),  # a server that does not say which: the end is not counted
        ({"finish_reason": "stop"}, [], "eos"),
        ({"finish_reason": "content_filter"}, [], "stop"),
        ({"finish_reason": "length"}, ["x"], "length"),
    ],
)
def test_finish_reasons(server: Server, choice: dict, stop: list[str], finish: str) -> None:
    model = closed(server)
    model._post = lambda body: {"choices": [{"index": 0, "text": " so", **choice}], "usage": {"completion_tokens": 5}}
    ((found,),) = model.complete([Question("I", 1, 5, 0)], SAMPLING, stop)
    assert found == Choice(" so", 5, finish)


def answer(count: int = 2, total: object = 4, **more: object) -> dict:
    choices = [{"index": place, "text": f" {place}", "finish_reason": "stop", **more} for place in range(count)]
    return {"choices": choices, "usage": {"prompt_tokens": 2, "completion_tokens": total}}


def without(name: str, given: dict) -> dict:
    choices = [{key: value for key, value in each.items() if key != name} for each in given["choices"]]
    return {key: value for key, value in {**given, "choices": choices}.items() if key != name}


def asked(server: Server, given: dict, count: int = 2, tokens: int = 5) -> list[str]:
    model = closed(server)
    server.complete = lambda body: given
    return [each.text for each in model.complete([Question("I", count, tokens, 0)], SAMPLING)[0]]


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        (answer(), [" 0", " 1"]),
        (answer(text=None), ["", ""]),
        (answer(text=""), ["", ""]),
        (answer(text="None"), ["None", "None"]),
        ({**answer(), "choices": answer()["choices"][::-1]}, [" 0", " 1"]),
        (without("index", answer()), [" 0", " 1"]),
        (answer(index=None), [" 0", " 1"]),
        (answer(3, 6), [" 0", " 1"]),
        (answer(total=12), [" 0", " 1"]),  # an end token of each beyond the limit
        (answer(finish_reason="eos_token"), [" 0", " 1"]),
        ({**answer(), "error": None, "object": "text_completion"}, [" 0", " 1"]),
    ],
)
def test_what_the_protocol_allows_is_read(server: Server, given: dict, texts: list[str]) -> None:
    """A text of null was the word None."""
    assert asked(server, given) == texts


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (answer(text=5), r"choices\.0\.text is 5 \(Input should be a valid string\)"),
        (answer(text=[" so"]), r"choices\.0\.text is \[' so'\]"),
        (without("text", answer()), r"choices\.0\.text is missing"),
        (
            without("text", answer(message={"content": "x"})),
            r"with messages, as a chat endpoint does \(choices\.0\.text is missing",
        ),
        (answer(text="\ud83d"), "half of a character"),
        (answer(index="0"), r"choices\.0\.index is '0' \(Input should be a valid integer"),
        (answer(index=True), r"choices\.0\.index is True"),
        (
            {**answer(), "choices": [answer()["choices"][0], without("index", answer())["choices"][1]]},
            "an index of its own to some choices alone",
        ),
        (answer(index=0), "an index of its own to some choices alone"),
        ({**answer(), "choices": None}, "choices is None"),
        ({**answer(), "choices": [None]}, r"choices\.0 is None"),
        ({**answer(), "choices": {"text": "x"}}, "choices is {'text': 'x'}"),
        (answer(finish_reason=None), r"choices\.0\.finish_reason is None"),
        (without("finish_reason", answer()), r"choices\.0\.finish_reason is missing"),
        (answer(finish_reason=["stop"]), r"choices\.0\.finish_reason is \['stop'\]"),
        (without("usage", answer()), "usage is missing"),
        ({**answer(), "usage": None}, "usage is None"),
        ({**answer(), "usage": [4]}, r"usage is \[4\]"),
        (answer(total=None), r"usage\.completion_tokens is None"),
        (answer(total="4"), r"usage\.completion_tokens is '4'"),
        (answer(total=-1), r"usage\.completion_tokens is -1"),
        (answer(total=99), "wrote 99 tokens in 2 choices of at most 5: it does not keep to max_tokens"),
        ({"error": {"message": "context length exceeded"}}, "answers an error, .*context length exceeded"),
    ],
)
def test_what_it_does_not_allow_is_one_line(server: Server, given: dict, line: str) -> None:
    with pytest.raises((EndpointError, DataError), match=line) as caught:
        asked(server, given)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)


@pytest.mark.parametrize("log", [None, "-1.5", float("nan"), True, [-1.5]], ids=str)
def test_a_log_probability_that_is_no_number_is_one_line(server: Server, log: object) -> None:
    logs = {"text_offset": [0, 1, 3], "token_logprobs": [None, log, -2.0]}
    server.complete = lambda body: {"choices": [{"index": 0, "text": "", "logprobs": logs}]}
    with pytest.raises(EndpointError, match=r"leave out endpoint\.log_probabilities"):
        closed(server).log_probability("I", " so it")
    logs["token_logprobs"] = [None, -1.5]  # one too few
    with pytest.raises(EndpointError, match=r"leave out endpoint\.log_probabilities"):
        closed(server).log_probability("I", " so it")
    logs["token_logprobs"] = [None, -1, -2.0]
    assert closed(server).log_probability("I", " so it") == (-3.0, 2)


def test_prompts_stand_in_the_template_as_they_are() -> None:
    model = CompletionsModel("http://host/v1", "m", template="<{prompt}> {{x}}")
    assert model.prompt_text("{prompt} $1 \\g<0>") == "<{prompt} $1 \\g<0>> {{x}}"


def test_a_chunk_that_ends_inside_a_character_goes_on_before_it(base: CachedModel) -> None:
    """Fault of the original: a chunk can end inside a multi-byte character. Here every token is one byte of one."""
    vocabulary = Vocabulary(tokenizer(), ())
    ids = vocabulary.tokenizer.encode("😀好", add_special_tokens=False)
    assert len(ids) == 7  # each byte by itself

    class Fixed:
        """Writes the bytes one after the other, wherever the text stands."""

        vocabulary = Vocabulary(tokenizer(), ())

        def complete(self, body: dict) -> dict:
            done = body["prompt"].removeprefix("I really")
            whole = vocabulary.tokenizer.encode("😀好" * 3, add_special_tokens=False)
            left = whole[len(vocabulary.tokenizer.encode(done, add_special_tokens=False)) :][: body["max_tokens"]]
            text = vocabulary.tokenizer.decode(left)
            choice = {"index": 0, "text": text, "finish_reason": "length", "stop_reason": None}
            return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": len(left)}}

    with serving(base) as server:
        server.complete = Fixed().complete
        for chunk in (1, 2, 3, 5):
            proposer = CompletionsProposer(closed(server), SAMPLING, 0)
            ((found,),) = Search(1, 1, chunk, 18).run(PROMPTS[:1], proposer, None)
            assert ("😀好" * 3).startswith(found.text) and found.text, chunk
            assert "\ufffd" not in found.text and found.finish == "length"


def test_greedy_is_asked_for_once(server: Server) -> None:
    """Servers refuse to give several choices at temperature 0, which would be equal."""
    found, _ = searched(server, Search(successors=3, max_new_tokens=6, keep=3), sampling=SamplingConfig(temperature=0))
    assert [body["n"] for body in server.requests] == [1, 1]
    assert all(len({each.text for each in group}) == 1 and len(group) == 3 for group in found)


def test_a_server_that_gives_fewer_choices_is_asked_again(server: Server) -> None:
    server.most_choices = 2
    found, _ = searched(server, Search(successors=5, max_new_tokens=6, keep=5))
    assert [len(group) for group in found] == [5, 5]
    assert sorted(body["n"] for body in server.requests) == [1, 1, 3, 3, 5, 5]
    assert len({each.text for each in found[0]}) > 2  # by other seeds


def test_only_filters_that_are_on_are_sent(server: Server) -> None:
    """OpenAI's own servers refuse fields that they do not know."""
    searched(server, Search(max_new_tokens=2))
    assert set(server.requests[0]) == {"model", "prompt", "max_tokens", "n", "temperature", "top_p", "seed"}
    searched(server, Search(max_new_tokens=2), ("x",), SamplingConfig(top_k=5, min_p=0.1, repetition_penalty=1.2))
    added = set(server.requests[-1]) - set(server.requests[0])
    assert added == {"top_k", "min_p", "repetition_penalty", "stop"}


def test_so_many_requests_at_once_and_no_more(server: Server) -> None:
    gate = threading.Barrier(3, timeout=10)
    complete = server.complete

    def together(body: dict) -> dict:
        gate.wait()
        return complete(body)

    server.complete = together
    model = closed(server, concurrency=3)
    model.complete([Question("I really", 1, 2, seed) for seed in range(9)], SAMPLING)
    assert server.busiest == 3


def test_what_passes_is_tried_again_and_what_stays_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    model = closed(server)
    monkeypatch.setattr(model._endpoint, "_pause", pauses.append)
    server.faults = [(503, {}, b"busy"), (429, {"Retry-After": "7"}, b"")]
    assert len(model.complete([Question("I", 1, 2, 0)], SAMPLING)) == 1
    assert pauses == [1.0, 7.0]
    for fault, line in [
        ((400, {}, b"top_k is unknown"), r"refuses the request \(400: top_k is unknown\)"),
        ((200, {}, b"<html>"), "no JSON object"),
        ((200, {}, b"{}"), "choices is missing; usage is missing"),
        (
            (200, {}, b'{"choices": [], "usage": {"completion_tokens": 0}}'),
            r"choices is \[\] \(List should have at least 1 item",
        ),
        (
            (200, {}, b'{"choices": [{"index": 0, "text": "", "finish_reason": "gone"}]}'),
            r"choices\.0\.finish_reason is 'gone'",
        ),
    ]:
        server.faults = [fault]
        with pytest.raises(EndpointError, match=line) as caught:
            model.complete([Question("I", 1, 2, 0)], SAMPLING)
        assert "\n" not in str(caught.value)


def test_a_dead_server_ends_all_requests_at_once(server: Server) -> None:
    """The first that is given up ends the pauses of the others."""
    model = closed(server, attempts=2, concurrency=4)
    server.dead_after = 2
    with pytest.raises(EndpointError, match=r"does not answer .*2 attempts.* the same command goes on"):
        model.complete([Question("I", 1, 2, seed) for seed in range(8)], SAMPLING)
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_the_key_comes_from_the_environment_alone(base: CachedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(base, key="s3cret") as server:
        with pytest.raises(EndpointError, match=r"401: .*Incorrect API key"):
            closed(server).complete([Question("I", 1, 2, 0)], SAMPLING)
        monkeypatch.setenv("LARGE_KEY", "s3cret")
        assert closed(server, key_variable="LARGE_KEY").complete([Question("I", 1, 2, 0)], SAMPLING)
        monkeypatch.delenv("LARGE_KEY")
        with pytest.raises(ConfigurationError, match="the environment has no variable LARGE_KEY"):
            closed(server, key_variable="LARGE_KEY")


def test_log_probabilities_are_those_of_the_served_model(server: Server, base: CachedModel) -> None:
    prompt, response = "I really", " liked this movie, it was"
    ids = base.vocabulary.encode_response(response)
    (expected,) = sequence_log_probabilities(base, [prompt], [ids])
    assert closed(server).log_probability(prompt, response) == (pytest.approx(expected, abs=1e-9), len(ids))
    server.complete = lambda body: {"choices": [{"index": 0, "text": "", "logprobs": None}]}
    with pytest.raises(EndpointError, match=r"leave out endpoint\.log_probabilities"):
        closed(server).log_probability(prompt, response)


def test_conversations_are_refused(server: Server) -> None:
    with pytest.raises(ModelError, match="continues text and has no chat template"):
        closed(server).prompt_text([{"role": "user", "content": "Hello"}])


def test_tokens_of_several_choices_are_shared_out() -> None:
    assert share_out(12, ["a", "b", "c"], ["length"] * 3, 4) == [4, 4, 4]
    assert share_out(7, ["aaaa", "b"], ["length", "eos"], 4) == [4, 3]
    assert share_out(13, ["a b c d e", "a b", "abcdef"], ["length", "eos", "eos"], 5) == [5, 3, 5]
    assert share_out(5, ["a", "b"], ["length", "length"], 4) == [2, 3]  # the context was full
    for total in range(30):
        assert sum(share_out(total, ["ab", "c", "", "defg"], ["eos", "length", "eos", "eos"], 3)) == total


def test_prices() -> None:
    config = EndpointConfig(url="http://host/v1", prompt_price=2.0, completion_price=10.0)
    assert (Usage(3, 500, 100) + Usage(1, 500, 100)).price(config) == pytest.approx(0.004)
    assert Usage(3, 500, 100).price(EndpointConfig(url="http://host/v1")) is None
