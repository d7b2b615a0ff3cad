"""lm-evaluation-harness' clients of servers, and trimtab's own, get from `trimtab serve` what they get in process."""

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lm_eval
import pytest

from harness_task import local_task
from serving import SAMPLING, RunningServer, serving
from trimtab.integrations.lm_eval import HarnessModel
from trimtab.models.sampling import prompt_key, uniforms
from trimtab.models.served_model import CompletionsModel
from trimtab.search.chunk_beam import Search
from trimtab.search.guide import Guide

DOCUMENTS = [
    {"prompt": "I really", "answer": " liked"}, {"prompt": "This was", "answer": " the worst film"},
    {"prompt": "A story", "answer": "."}, {"prompt": "très bien", "answer": " 好き"},
]  # fmt: skip
SEED = 1234  # what the harness sends
LIKELIHOOD = {"output_type": "loglikelihood", "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}]}
harness_clients = pytest.mark.skipif(
    find_spec("tenacity") is None and "CI" not in os.environ, reason="lm-eval[api] needs tenacity"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.fixture(autouse=True)
def local_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def responses(model: Any, folder: Path, *, chat: bool = False, **changes: Any) -> list[Any]:
    """What a model answers to the documents, in their order."""
    manager = local_task(folder, "tiny", DOCUMENTS, **changes)
    found = lm_eval.simple_evaluate(
        model, tasks=["tiny"], task_manager=manager, bootstrap_iters=0, apply_chat_template=chat
    )
    assert found is not None
    samples = sorted(found["samples"]["tiny"], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


def client(kind: str, server: RunningServer, model: str, **more: Any) -> Any:
    """A client of the harness, which is told nothing but the address, the model's name and its tokenizer."""
    route = "chat/completions" if kind == "local-chat-completions" else "completions"
    tokenizer = {} if kind == "local-chat-completions" else {"tokenizer": server.served.models["large"].name}
    return lm_eval.api.registry.get_model(kind)(
        base_url=f"{server.url}/{route}", model=model, max_retries=1, max_length=200, **tokenizer, **more
    )


@harness_clients
@pytest.mark.parametrize("name", ["base", "tuned", "eft-0.5"])
def test_local_completions_measures_the_likelihoods_of_the_model_in_process(
    name: str, server: RunningServer, tmp_path: Path
) -> None:
    ours = responses(HarnessModel(server.guided(name)), tmp_path, **LIKELIHOOD)
    theirs = responses(client("local-completions", server, f"tiny:{name}"), tmp_path, **LIKELIHOOD)
    for (log, greedy), (served_log, served_greedy) in zip(ours, theirs, strict=True):
        assert served_log == pytest.approx(log, abs=1e-9)
        assert served_greedy == greedy
    if name == "base":
        at_once = client("local-completions", server, f"tiny:{name}", batch_size=3, num_concurrent=2)
        assert responses(at_once, tmp_path, **LIKELIHOOD) == [pytest.approx(each, abs=1e-9) for each in theirs]


@harness_clients
@pytest.mark.parametrize("name", ["base", "eft-0.5", "cbs-2-3-4"])
def test_local_completions_generates_what_the_model_in_process_does(
    name: str, server: RunningServer, tmp_path: Path
) -> None:
    drawn = {"until": ["e"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.8, "top_k": 30}
    ours = responses(HarnessModel(server.guided(name, seed=SEED)), tmp_path, generation_kwargs=drawn)
    theirs = client("local-completions", server, f"tiny:{name}", tokenized_requests=False)
    if name == "cbs-2-3-4":  # in process a search keeps its own sampling unless the task samples
        assert len({*ours}) > 1
    assert responses(theirs, tmp_path, generation_kwargs=drawn) == ours
    by_ids = responses(client("local-completions", server, f"tiny:{name}"), tmp_path, generation_kwargs=drawn)
    assert len(by_ids) == len(ours) and not any("e" in text for text in by_ids)


@harness_clients
def test_local_completions_by_ids_is_greedy_where_the_task_is(server: RunningServer, tmp_path: Path) -> None:
    greedy = {"until": ["\n"], "max_gen_toks": 9, "do_sample": False}
    ours = responses(HarnessModel(server.guided("eft-0.5")), tmp_path, generation_kwargs=greedy)
    assert responses(client("local-completions", server, "tiny:eft-0.5"), tmp_path, generation_kwargs=greedy) == ours


@harness_clients
def test_local_chat_completions_holds_the_conversation(server: RunningServer, tmp_path: Path) -> None:
    drawn = {"until": ["e"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.8}
    ours = HarnessModel(server.guided("bon-3", seed=SEED))
    theirs = client("local-chat-completions", server, "tiny:bon-3", eos_string="<end>")
    found = responses(theirs, tmp_path, chat=True, generation_kwargs=drawn)
    assert found == responses(ours, tmp_path, chat=True, generation_kwargs=drawn)


def test_best_of_n_over_a_served_eft_model_is_that_in_process(server: RunningServer) -> None:
    """`CompletionsModel` asks for N choices at once, by a seed of its own: choice i is answer i of that seed."""
    prompt, count = "I really", 5
    guide = Guide.by_reward(lambda texts: [float(len(text)) + text.count("e") / 7 for text in texts])
    served = CompletionsModel(server.url, "tiny:eft-0.5")
    search = Search(successors=count, max_new_tokens=12, keep=count)
    (remote,) = guide.steer(served, search=search, sampling=SAMPLING, seed=9).hypotheses([prompt])
    asked = int(uniforms(9, [prompt_key(remote[0].prompt.id)], [0], [0])[0] * 2**31)
    groups = server.guided("eft-0.5", seed=asked, max_new_tokens=12).hypotheses([prompt] * count)
    local = [group[0] for group in groups]
    # a tiny model writes bytes that are no character: at the end of a text that was cut, a client expects the rest
    seen = [replace(each, text=each.text.rstrip("\ufffd")) if each.finish == "length" else each for each in local]
    _, scores = guide.value(None).advance(None, [0] * count, seen)
    ranked = sorted(zip(scores, seen, strict=True), key=lambda pair: -pair[0])
    assert [(each.value, each.text, each.finish) for each in remote] == [
        (score, each.text, each.finish) for score, each in ranked
    ]
    assert served.usage.completion_tokens == sum(len(each.token_ids) for each in local)


def test_trimtabs_own_client_measures_fluency_by_echo(server: RunningServer) -> None:
    served = CompletionsModel(server.url, "tiny:tuned")
    log, tokens = served.log_probability("I really", " liked this movie")
    guided = server.guided("tuned")
    ((ours, _),) = HarnessModel(guided).loglikelihood([_request("I really", " liked this movie")], disable_tqdm=True)
    assert log == pytest.approx(ours, abs=1e-9)
    assert tokens == len(server.served.roles["tuned"].vocabulary.encode_response(" liked this movie"))


def _request(*arguments: str) -> Any:
    return lm_eval.api.instance.Instance("loglikelihood", {}, arguments, 0)
