"""lm-evaluation-harness itself runs a local generation task on a guided model; no network."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance

import trimtab
from harness_task import local_task
from tiny import language_model, llama, tokenizer
from trimtab.errors import ConfigurationError, ModelError
from trimtab.harness import HarnessModel
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
