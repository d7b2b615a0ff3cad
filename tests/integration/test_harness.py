"""lm-evaluation-harness itself runs local tasks on a guided model; no network."""

import copy
import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing

import trimtab
from harness_task import local_task
from tiny import language_model, llama, tokenizer
from trimtab.errors import ConfigurationError, ModelError
from trimtab.integrations import lm_eval as harness
from trimtab.integrations.lm_eval import HarnessModel
from trimtab.search.guide import Guide
from trimtab.search.guided_model import GuidedModel

DOCUMENTS = [{"prompt": "I really", "answer": " liked"}, {"prompt": "This was", "answer": " the"}]


@pytest.fixture(scope="module")
def guided() -> GuidedModel:
    guide = Guide(language_model(5), language_model(6))
    search, sampling = trimtab.Search(2, 2, 2, 14), trimtab.SamplingConfig(temperature=1.0, top_k=0)
    return guide.steer(language_model(0, ends=range(40, 50)), search=search, sampling=sampling)


@pytest.fixture(autouse=True)
def local_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def evaluated(model: HarnessModel, folder: Path, *, chat: bool = False, **changes: Any) -> dict[str, Any]:
    """What the harness says of a local task."""
    settings = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
    manager = local_task(folder, "tiny", DOCUMENTS, **{"generation_kwargs": settings, **changes})
    found = lm_eval.simple_evaluate(
        model, tasks=["tiny"], task_manager=manager, bootstrap_iters=0, apply_chat_template=chat
    )
    assert found is not None
    return dict(found)


def answers(found: dict[str, Any]) -> list[str]:
    return [sample["resps"][0][0] for sample in sorted(found["samples"]["tiny"], key=lambda each: each["doc_id"])]


def test_a_task_gets_the_texts_of_generate(guided: GuidedModel, tmp_path: Path) -> None:
    """With the task's stop strings and length; a search among samples goes on drawing where a task says greedy."""
    found = evaluated(HarnessModel(guided), tmp_path)
    asked = dataclasses.replace(guided, stop=("e",)).generate([each["prompt"] for each in DOCUMENTS], 6)
    assert answers(found) == asked and not any("e" in text for text in asked)
    right = sum(text == each["answer"] for text, each in zip(asked, DOCUMENTS, strict=True)) / 2
    assert found["results"]["tiny"]["exact_match,none"] == right


def test_a_task_that_samples_says_how(guided: GuidedModel, tmp_path: Path) -> None:
    drawn = {"until": ["e", ""], "do_sample": True, "temperature": 0.3, "top_p": 0.8}
    found = evaluated(HarnessModel(guided), tmp_path, generation_kwargs=drawn)
    sampling = trimtab.SamplingConfig(temperature=0.3, top_k=0, top_p=0.8)
    asked = dataclasses.replace(guided, stop=("e",), sampling=sampling)
    assert answers(found) == asked.generate([each["prompt"] for each in DOCUMENTS])


def test_one_candidate_is_greedy_where_a_task_says_so(guided: GuidedModel, tmp_path: Path) -> None:
    plain = dataclasses.replace(guided, search=trimtab.Search(max_new_tokens=9), value=None)
    found = evaluated(HarnessModel(plain), tmp_path, generation_kwargs={"until": [], "do_sample": False})
    greedy = dataclasses.replace(plain, sampling=trimtab.SamplingConfig(temperature=0))
    assert answers(found) == greedy.generate([each["prompt"] for each in DOCUMENTS])


def test_conversations_reach_each_models_own_template(guided: GuidedModel, tmp_path: Path) -> None:
    chatty = copy.deepcopy(tokenizer())
    chatty.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}A:"
    talking = Guide(trimtab.load(llama(5), chatty), trimtab.load(llama(6), chatty)).steer(
        trimtab.load(llama(0), chatty), search=guided.search, sampling=guided.sampling
    )
    found = evaluated(HarnessModel(talking), tmp_path, chat=True)
    conversations = [[{"role": "user", "content": each["prompt"]}] for each in DOCUMENTS]
    assert answers(found) == dataclasses.replace(talking, stop=("e",)).generate(conversations, 6)


CHATTY = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}A:"
messages = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text()})


@settings(deadline=None)
@given(st.lists(messages), st.text())
def test_a_request_carries_its_conversation_into_any_process(conversation: list, text: str) -> None:
    """Fault: conversations lived in the memory of the process that had rendered them; a cached request was JSON."""
    first, second = (HarnessModel.__new__(HarnessModel) for _ in range(2))
    carried = first.apply_chat_template(conversation)
    assert harness._prompt(carried) == conversation
    assert second.apply_chat_template(conversation) == carried
    assert harness._prompt(text) == text  # what a user writes stays what it is


def test_a_conversation_that_was_changed_is_one_line() -> None:
    carried = HarnessModel.__new__(HarnessModel).apply_chat_template([{"role": "user", "content": "Hi"}])
    for changed in (carried + " Answer:", carried[:-1], carried.replace("Hi", "Ho")):
        with pytest.raises(ConfigurationError, match="was cut or extended"):
            harness._prompt(changed)


TWICE = """
import sys
from pathlib import Path
import datasets, lm_eval
sys.path.insert(0, sys.argv[1])
import trimtab
from harness_task import local_task
from test_harness import CHATTY, chatting
datasets.config.HF_DATASETS_CACHE = sys.argv[2] + "/datasets"
manager = local_task(Path(sys.argv[2]), "tiny", [{"prompt": "I really", "answer": "x"}],
                     generation_kwargs={"until": [], "max_gen_toks": 5}, **eval(sys.argv[3]))
model = chatting()
out = lm_eval.simple_evaluate(model, tasks=["tiny"], task_manager=manager, bootstrap_iters=0, apply_chat_template=True,
                              cache_requests=True)
print("SHOWN", [model.guided.base.vocabulary.tokenizer.decode(ids) for ids in model.guided.base.shown])
print("GAVE", [sample["resps"] for sample in out["samples"]["tiny"]])
"""


def chatting(search: trimtab.Search | None = None) -> HarnessModel:
    """A model with a chat template that writes down which ids it has been shown."""
    chatty = copy.deepcopy(tokenizer())
    chatty.chat_template = CHATTY
    base = trimtab.load(llama(0), chatty, template="chat")
    base.shown, start = [], base.start_ids  # type: ignore[attr-defined]
    base.start_ids = lambda prompts, room: (base.shown.extend(prompts), start(prompts, room))[1]  # type: ignore
    guide = Guide.by_reward(lambda texts: [0.0] * len(texts))
    return HarnessModel(guide.steer(base, search=search or trimtab.Search()))


@pytest.mark.parametrize("task", [{}, {"gen_prefix": "I think"}], ids=["plain", "gen_prefix"])
def test_cached_requests_are_the_conversation_in_a_second_process(task: dict[str, str], tmp_path: Path) -> None:
    """With the beginning of an answer, too, which the model goes on within its turn."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "LM_HARNESS_CACHE_PATH": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = f"{tests}:{tests / 'integration'}"
    (tmp_path / "cache").mkdir()
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", TWICE, str(tests), str(tmp_path), repr(task)],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        said.append([line for line in done.stdout.splitlines() if line.startswith(("SHOWN", "GAVE"))])
    assert list((tmp_path / "cache").iterdir())
    assert said[0] == said[1] and len(said[0]) == 2
    turn = "assistant: I think" if task else "A:"
    assert f"user: I really\\n{turn}" in said[0][0]


def test_caches_of_other_models_are_kept_apart(guided: GuidedModel) -> None:
    """A request that another model has rendered in its template would be the user's words here."""
    assert HarnessModel(guided).tokenizer_name != HFLM.tokenizer_name.fget(HFLM(llama(0), tokenizer=tokenizer()))  # type: ignore


TEXTS = ["I really liked this movie", "This was the worst", " film", "é 好き", "x", "", "a\n", "  two  ", " ", "plot!"]


@functools.cache
def both(context: int, begun: bool = False) -> tuple[HFLM, HarnessModel]:
    """The harness' own model of some weights, and ours."""
    held = llama(0, dtype=torch.float32)
    held.config.max_position_embeddings = context
    split = copy.deepcopy(tokenizer())
    if begun:
        split.backend_tokenizer.post_processor = TemplateProcessing(
            single="<start> $A", special_tokens=[("<start>", 1)]
        )
    theirs = HFLM(held, tokenizer=split, batch_size=2, max_length=context)
    plain = Guide.by_reward(lambda texts: [0.0] * len(texts))
    return theirs, HarnessModel(plain.steer(trimtab.load(held, split), search=trimtab.Search()))


def requests(kind: str, *arguments: tuple[str, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(TEXTS), max_size=5), st.lists(st.sampled_from(TEXTS), min_size=1)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([256, 12]),
    st.booleans(),
)
def test_likelihoods_are_those_of_the_harness_own_model(pairs: list, context: int, begun: bool) -> None:
    theirs, ours = both(context, begun)
    arguments = []
    for left, right in pairs:
        before, after = "".join(left), "".join(right)
        size = len(theirs._encode_pair(before, after)[1]) if before.strip() else len(theirs.tok_encode(after))
        if 1 < size < 12 and (before == "" or before.strip()):  # the harness asserts as much
            arguments.append((before, after))
    if not arguments:
        return
    expected = theirs.loglikelihood(requests("loglikelihood", *arguments), disable_tqdm=True)
    found = ours.loglikelihood(requests("loglikelihood", *arguments))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_greedy_continuation_is_said_to_be_one() -> None:
    theirs, ours = both(256)
    pairs = []
    for context in ("This was the worst", "I really", "Here is a movie", "x", "the plot", "a great cast", "seen"):
        ids = tokenizer().encode(context)
        with torch.no_grad():
            made = theirs.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=2)[0, len(ids) :].tolist()
        text = tokenizer().decode(made)
        if tokenizer().encode(context + text) == ids + made:  # the text is read as it was written
            pairs += [(context, text), (context, text[:-1] + "q")]
    expected = [greedy for _, greedy in theirs.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)]
    assert {True, False} == set(expected)
    assert [greedy for _, greedy in ours.loglikelihood(requests("loglikelihood", *pairs))] == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(TEXTS), max_size=30), min_size=1, max_size=4), st.sampled_from([256, 17, 12]))
def test_rolling_likelihoods_are_those_of_the_harness_own_model(texts: list[list[str]], context: int) -> None:
    theirs, ours = both(context)
    arguments = [("".join(each),) for each in texts]
    expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", *arguments), disable_tqdm=True)
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", *arguments))
    assert found == pytest.approx(expected, abs=1e-3)


def test_likelihoods_of_a_sum_and_of_a_conversation() -> None:
    base, tuned, untuned = language_model(0), language_model(1), language_model(2)
    guide = Guide(tuned, untuned)
    summed = HarnessModel(guide.steer(base, search=trimtab.Search(), beta=0.5))
    emulated = trimtab.emulate(base, [(tuned, untuned, 0.5)])
    prompt, continuation = "I really", " liked this movie"
    ids = base.vocabulary.encode_prompt(prompt + continuation, "{prompt}")
    count = len(base.vocabulary.encode_prompt(prompt, "{prompt}"))
    state = emulated.start([prompt], 0)
    _, (logs,) = emulated.score(state, [0], [count], [ids[count:]])
    ((value, _),) = summed.loglikelihood(requests("loglikelihood", (prompt, continuation)))
    assert value == pytest.approx(sum(logs), abs=1e-9)
    whole = summed.loglikelihood_rolling(requests("loglikelihood_rolling", (prompt,)))
    assert whole[0] < 0

    talking = chatting()
    conversation = talking.apply_chat_template([{"role": "user", "content": prompt}])
    ((value, _),) = talking.loglikelihood(requests("loglikelihood", (conversation, continuation)))
    model = talking.guided.base
    shown = model.vocabulary.encode_prompt(prompt, "chat")
    _, (logs,) = model.score(
        model.start_ids([shown], 0), [0], [len(shown)], [model.vocabulary.encode_response(continuation)]
    )
    assert value == pytest.approx(sum(logs), abs=1e-9)


def test_a_multiple_choice_task_runs(tmp_path: Path) -> None:
    choices = {"output_type": "multiple_choice", "doc_to_choice": [" a", " b"], "doc_to_target": 0}
    plain = Guide.by_reward(lambda texts: [0.0] * len(texts)).steer(language_model(0), search=trimtab.Search())
    found = evaluated(HarnessModel(plain), tmp_path, **choices, generation_kwargs=None, metric_list=[{"metric": "acc"}])
    pairs = [(each["prompt"], choice) for each in DOCUMENTS for choice in ("  a", "  b")]
    values = [value for value, _ in HarnessModel(plain).loglikelihood(requests("loglikelihood", *pairs))]
    right = [values[0] > values[1], values[2] > values[3]]
    assert found["results"]["tiny"]["acc,none"] == sum(right) / 2


def test_a_continuation_without_tokens_is_one_line() -> None:
    _, ours = both(12)
    for text in ("", "plot! " * 40):
        with pytest.raises(ModelError, match="give one that is not empty, and shorter"):
            ours.loglikelihood(requests("loglikelihood", ("I", text)))


def test_likelihoods_are_refused_in_one_line(guided: GuidedModel, tmp_path: Path) -> None:
    choices = {"output_type": "multiple_choice", "doc_to_choice": [" a", " b"], "doc_to_target": 0}
    with pytest.raises(ModelError, match="texts and no likelihoods: take tasks whose output_type is generate_until"):
        evaluated(HarnessModel(guided), tmp_path, **choices, generation_kwargs=None, metric_list=[{"metric": "acc"}])
    with pytest.raises(ModelError, match="no likelihoods"):
        HarnessModel(guided).loglikelihood_rolling([])


def test_what_the_search_does_not_have_is_one_line(guided: GuidedModel) -> None:
    request = Instance("generate_until", {}, ("I", {"until": [], "num_beams": 4}), 0)
    with pytest.raises(ConfigurationError, match="the search has no num_beams: drop it"):
        HarnessModel(guided).generate_until([request])
    with pytest.raises(ConfigurationError, match="gen_prefix"):
        HarnessModel(guided).apply_chat_template([], add_generation_prompt=False)
