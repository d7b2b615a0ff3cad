"""What the public API refuses: every wrong argument is one line that names it, from the call that was given it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import trimtab
from tiny import language_model, llama, tokenizer
from tiny_hub import save_causal_lm, tiny_hub
from trimtab.config.pairs import PairsConfig
from trimtab.errors import ConfigurationError, DataError, ModelError, TrimtabError

Call = Callable[[], Any]


@pytest.fixture(scope="module")
def guided() -> trimtab.GuidedModel:
    return trimtab.Guide(language_model(1), language_model(2)).steer(
        language_model(3), search=trimtab.Search(2, 2, 3, 6)
    )


SETTINGS: list[tuple[Call, str]] = [
    (lambda: trimtab.Search(width=0), "width is 0: give a whole number of at least 1"),
    (lambda: trimtab.Search(width="4"), "width is '4': give a whole number of at least 1"),
    (lambda: trimtab.Search(width=2.0, chunk=3), "width is 2.0: give a whole number of at least 1"),
    (lambda: trimtab.Search(successors=None), "successors is None: give a whole number of at least 1"),
    (lambda: trimtab.Search(max_new_tokens=True), "max_new_tokens is True: give a whole number of at least 1"),
    (lambda: trimtab.Search(duplicates="none"), "duplicates is 'none': give keep or drop"),
    (lambda: trimtab.Search(successors=4, reject=0.5),
     'reject is 0.5: give its share and lengths, such as {"share": 0.5, "at": [8]}'),
    (lambda: trimtab.Search(successors=4, reject={"share": 2, "at": [8]}), "EarlyRejection: share is 2: input should"),
    (lambda: trimtab.Search(vote=3), "vote is 3: give a regular expression as a text"),
    (lambda: trimtab.SamplingConfig(temperature=-1, topk=5),
     "SamplingConfig: temperature is -1: input should be greater than or equal to 0; topk is unknown: did you mean"),
    (lambda: trimtab.ModelConfig(), "ModelConfig: name: it is missing: give it"),
    (lambda: trimtab.ModelConfig(name="a", template="Review:"), "ModelConfig: template: the template 'Review:' must"),
    (lambda: trimtab.Experiment(name="a", small=3), "Experiment: small: 3 is no name: YAML takes it for a number"),
    (lambda: trimtab.Assets(cache=3), "cache is 3: give a path"),
    (lambda: trimtab.CompletionsModel("ftp://here", "m"), "EndpointConfig: url is 'ftp://here': string should match"),
    (lambda: trimtab.CompletionsModel("http://here/v1", 3), "name is 3: give the model's name on the server"),
    (lambda: trimtab.CompletionsModel("http://here/v1", "m", settings={"timout": 3}),
     "EndpointConfig: timout is unknown: did you mean timeout?"),
    (lambda: trimtab.load_experiment(3), "path is 3: give the path of an experiment file"),
    (lambda: trimtab.load_experiment("a.yaml", "seed=3"), "overrides is 'seed=3': give a list of texts"),
    (lambda: trimtab.make_pairs("abc", PairsConfig(), 0), "generations is 'a': give records of the type Generation"),
    (lambda: trimtab.make_pairs([], {"strategy": "margin"}, 0), "config is {'strategy': 'margin'}: give a"),
    (lambda: trimtab.make_pairs([], PairsConfig(), -1), "seed is -1: give a whole number of at least 0"),
    (lambda: trimtab.tune([3], [], llama(1), tokenizer(), None, None), "train is 3: give pairs, as trimtab.make_pairs"),
    (lambda: trimtab.tune([], [], "gpt2", tokenizer(), None, None), "model is 'gpt2': give a model of transformers"),
    (lambda: trimtab.tune([], [], llama(1), tokenizer(), {"beta": 1}, None), "config is {'beta': 1}: give a"),
    (lambda: trimtab.emulate(language_model(1), [language_model(2)]), "give (tuned, untuned, weight)"),
    (lambda: trimtab.emulate(language_model(1), [(language_model(2), language_model(3), "1")]), "a weight is '1'"),
    (lambda: trimtab.emulate("gpt2", []), "a model is 'gpt2': give one as trimtab.load gives it"),
]  # fmt: skip
LOADING: list[tuple[Call, str]] = [
    (lambda: trimtab.load(3), "an int is no causal language model of transformers: give the model first"),
    (lambda: trimtab.load(tokenizer()), "is no causal language model of transformers: give the model first, then its"),
    (lambda: trimtab.load(torch.nn.Linear(2, 2)), "a Linear is no causal language model of transformers"),
    (lambda: trimtab.load(llama(1), "gpt2"), "tokenizer is 'gpt2': give a tokenizer of transformers"),
    (lambda: trimtab.load("somewhere", tokenizer()), "tokenizer is that of a loaded model: leave it out"),
    (lambda: trimtab.load(llama(1), tokenizer(), template="Review:"), "the template 'Review:' must hold {prompt}"),
    (lambda: trimtab.load(llama(1), tokenizer(), template=3), "the template 3 must hold {prompt}"),
    (lambda: trimtab.load("somewhere", dtype="f32"), "dtype is 'f32': give auto, float32, bfloat16, float16, float64"),
    (lambda: trimtab.load("somewhere", dtype=torch.int8), "dtype is torch.int8: give auto, float32"),
    (lambda: trimtab.load("somewhere", device="gpu"), "device is 'gpu', which is not here: give one of cpu"),
    (lambda: trimtab.load("somewhere", device="cuda:77"), "device is 'cuda:77', which is not here: give one of cpu"),
    (lambda: trimtab.load(llama(1), tokenizer(), dtype="float32"), "a loaded model keeps its dtype and device"),
    (lambda: trimtab.load("somewhere", assets="here"), "assets is 'here': give a trimtab.Assets"),
    (lambda: trimtab.load(trimtab.ModelConfig(name="a", template="chat"), template="{prompt}"),
     "template is '{prompt}', and the ModelConfig of a says 'chat': give one"),
    (lambda: trimtab.load(trimtab.CompletionsModel("http://here/v1", "m")), "m is behind an endpoint and gives texts"),
    (lambda: trimtab.Guide(language_model(1), 3), "an int is no causal language model of transformers"),
    (lambda: trimtab.Guide(language_model(1), language_model(1), template="a"), "the template 'a' must hold {prompt}"),
]  # fmt: skip
REWARDS: list[tuple[Call, str]] = [
    (lambda: trimtab.Guide.by_reward(3), "the reward function int cannot be called: give a function of texts"),
    (lambda: trimtab.Guide.by_reward("cheerful"), "RewardConfig: by: 'cheerful' is no reward: give a function as"),
    (lambda: trimtab.Guide.by_reward("nowhere.py:score"), "there is no file nowhere.py: give the path"),
    (lambda: trimtab.Guide.by_reward({"modle": "a"}), "RewardConfig: modle is unknown: did you mean model?"),
    (lambda: trimtab.Guide.by_reward(lambda: []), "has the arguments (): it must take texts"),
    (lambda: trimtab.FunctionReward(None), "the reward function NoneType cannot be called: give a function of texts"),
    (lambda: trimtab.load_reward(3), "reward is 3: give a function as file.py:function, or a reward's fields"),
    (lambda: trimtab.load_reward("math:isfinite", assets="here"), "assets is 'here': give a trimtab.Assets"),
    (lambda: trimtab.Guide.mean(3), "parts is 3: give a list of guides, each with its weight"),
    (lambda: trimtab.Guide.mean([]), "a mean needs guides, each with a weight above 0: give at least one"),
    (lambda: trimtab.Guide.mean([trimtab.Guide.by_reward(len)]), "give a guide and its weight, such as (guide, 1.0)"),
    (lambda: trimtab.Guide.mean([(trimtab.Guide.by_reward(len), "2")]), "a weight is '2': give a number"),
    (lambda: trimtab.Guide.mean([(trimtab.Guide.by_reward(len), -1)]), "a weight is -1: a mean needs"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "line"), [*SETTINGS, *LOADING, *REWARDS])
def test_a_wrong_argument_is_one_line(call: Call, line: str) -> None:
    with pytest.raises(TrimtabError) as caught:
        call()
    assert line in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert isinstance(caught.value, ConfigurationError | ModelError)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"search": 4}, "search is 4: give a trimtab.Search, such as Search(width=4, successors=4, chunk=5)"),
        ({"sampling": 0.7}, "sampling is 0.7: give a trimtab.SamplingConfig"),
        ({"sampling": {"temperatur": 0.7}}, "SamplingConfig: temperatur is unknown: did you mean temperature?"),
        ({"beta": "1"}, "beta is '1': give a number"),
        ({"beta": float("nan")}, "beta is nan: give a number"),
        ({"stop": 3}, "stop is 3: give a text, or a list of texts"),
        ({"stop": [""]}, "stop holds an empty text, at which every response ends: leave it out"),
        ({"seed": -1}, "seed is -1: give a whole number of at least 0"),
        ({"seed": 1.5}, "seed is 1.5: give a whole number of at least 0"),
    ],
)
def test_what_steer_is_given_is_checked(more: dict[str, Any], line: str) -> None:
    guide = trimtab.Guide(language_model(1), language_model(2))
    with pytest.raises(ConfigurationError) as caught:
        guide.steer(language_model(3), **more)
    assert line in str(caught.value)
    with pytest.raises(ModelError, match="a GuidedModel is no causal language model"):
        guide.steer(guide.steer(language_model(3)))


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        (None, "prompt 1 is empty and must be a text or a list of messages"),
        (3, "prompt 1 is 3 and must be a text or a list of messages"),
        (b"I really", "prompt 1 is b'I really' and must be a text or a list of messages"),
        (frozenset({"I"}), ": give a list of texts, or of lists of messages"),
        (pd.DataFrame({"prompt": ["I"]}), ": give a list of texts, or of lists of messages"),
        ([3], "prompt 1 is 3 and must be a text"),
        (["I", None], "prompt 2 is empty and must be a text or a list of messages"),
        (np.array([1.0, 2.0]), "prompt 1 is np.float64(1.0) and must be a text"),
        ([[{"role": "user"}]], "prompt 1, message 1: content is empty and must be a text"),
        (
            {"role": "user", "content": "Hi"},
            "prompt 1 is {'role': 'user', 'content': 'Hi'} and must be a text or a list",
        ),
    ],
    ids=str,
)
def test_prompts_of_another_type_are_one_line(guided: trimtab.GuidedModel, prompts: Any, line: str) -> None:
    with pytest.raises(DataError) as caught:
        guided.generate(prompts)
    assert line in str(caught.value)


def test_prompts_in_any_order_of_texts_are_read(guided: trimtab.GuidedModel) -> None:
    """A column whose rows have names, an array, a tuple and an iterator were tracebacks."""
    texts = ["I really", "This film"]
    answers = guided.generate(texts)
    for several in (tuple(texts), np.array(texts), pd.Series(texts, index=["a", "b"]), iter(texts)):
        assert guided.generate(several) == answers
    assert guided.generate([]) == []
    with pytest.raises(DataError, match="the prompts are None: give a list of texts"):
        guided.hypotheses(None)
    with pytest.raises(DataError, match="the prompts are 'I really': give a list of texts"):
        guided.hypotheses("I really")  # each letter was a prompt
    with pytest.raises(ConfigurationError, match="max_new_tokens is '5': give a whole number"):
        guided.generate("I", max_new_tokens="5")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (1.0, "<lambda> gave 1.0 for 4 texts: it must give a list of numbers, one for each text"),
        (None, "<lambda> gave None for 4 texts: it must give a list of numbers"),
        ([1.0], "<lambda> gave 1 rewards for 4 texts: it must give one for each text"),
        ([[1.0, 2.0]] * 4, "gave [1.0, 2.0] for"),
        (["high"] * 4, "gave 'high' for"),
    ],
)
def test_a_reward_that_gives_something_else_is_named(values: Any, line: str) -> None:
    search = trimtab.Search(successors=4, max_new_tokens=4)
    guided = trimtab.Guide.by_reward(lambda texts: values).steer(language_model(3), search=search)
    with pytest.raises(ModelError) as caught:
        guided.generate("I really")
    assert line in str(caught.value)


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, torch.tensor, iter])
def test_a_reward_may_give_numbers_in_any_form(kind: Callable[[list[float]], Any]) -> None:
    search = trimtab.Search(successors=4, max_new_tokens=4)
    answers = [
        trimtab.Guide.by_reward(lambda texts, form=form: form([float(len(text)) for text in texts]))
        .steer(language_model(3), search=search)
        .generate("I really")
        for form in (list, kind)
    ]
    assert answers[0] == answers[1]


def test_a_reward_by_name_guides_as_the_function_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an experiment file names it, by path or in the working directory."""
    (tmp_path / "mine.py").write_text("def score(texts):\n    return [-float(len(text)) for text in texts]\n")
    monkeypatch.chdir(tmp_path)
    search = trimtab.Search(successors=4, max_new_tokens=6)

    def answer(reward: Any) -> str:
        return trimtab.Guide.by_reward(reward).steer(language_model(3), search=search).generate("I really")

    expected = answer(lambda texts: [-float(len(text)) for text in texts])
    for named in ("mine.py:score", f"{tmp_path}/mine.py:score", {"by": "mine.py:score"}):
        assert answer(named) == answer(trimtab.load_reward(named)) == expected
    assert answer(trimtab.FunctionReward("mine.py:score")) == expected


@pytest.mark.parametrize("value", [float("nan"), None, float("inf")])
def test_a_reward_without_a_number_is_blamed_and_named(value: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """The models are sound: no message speaks of their logits."""

    def cheerful(texts: list[str]) -> list[float | None]:
        return [value] * len(texts)

    search = trimtab.Search(successors=4, max_new_tokens=4)
    guided = trimtab.Guide.by_reward(cheerful).steer(language_model(3), search=search)
    assert guided.generate("I really") == ""
    first, second = caplog.messages
    assert first.startswith("the reward function ") and "cheerful gave " in first and "its prompt is set aside" in first
    assert second == "a prompt has no response: the reward that guides gave a response to it no finite number"
    assert guided.hypotheses(["I really"])[0][0].finish == "unrewarded"


def test_a_model_is_loaded_in_the_dtype_and_on_the_device_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    folder = save_causal_lm(tmp_path / "model", llama(1))
    for dtype in ("bfloat16", torch.bfloat16, "float64"):
        model = trimtab.load(folder, dtype=dtype, device="cpu")
        assert str(model.model.dtype) == f"torch.{str(dtype).removeprefix('torch.')}"
        assert {weight.device for weight in model.model.parameters()} == {torch.device("cpu")}
    assert trimtab.load(trimtab.ModelConfig(name=str(folder)), dtype="float64").model.dtype == torch.float64
    with pytest.raises(ConfigurationError, match=r"dtype is 'float64', and the ModelConfig of .* says 'float32'"):
        trimtab.load(trimtab.ModelConfig(name=str(folder), dtype="float32"), dtype="float64")


def test_the_untuned_model_is_read_as_the_tuned_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    tuned, untuned = trimtab.Guide(trimtab.load(name, template="Q: {prompt}"), name).pair
    assert tuned.template == untuned.template == "Q: {prompt}" and not caplog.messages
    trimtab.Guide(trimtab.load(name, template="Q: {prompt}"), trimtab.load(name))
    assert "reads prompts in another template than" in caplog.text


def test_everything_says_what_it_is(guided: trimtab.GuidedModel, tmp_path: Path) -> None:
    model = trimtab.load(llama(1, dtype=torch.float32), tokenizer())
    assert repr(model).endswith(": llama, float32 on cpu, template '{prompt}'>") and repr(model).startswith(
        "<CachedModel"
    )
    assert repr(trimtab.Search(4, 4, chunk=5)) == "Search(width=4, successors=4, chunk=5)"
    assert repr(trimtab.SamplingConfig(temperature=1)) == "SamplingConfig(temperature=1.0)"
    assert repr(trimtab.ModelConfig(name="a")) == "ModelConfig(name='a')"
    assert repr(trimtab.FunctionReward(len)) == "FunctionReward(len)"
    assert (
        repr(trimtab.Guide.mean([(trimtab.Guide.by_reward(len), 2)]))
        == "Guide.mean([(Guide.by_reward(FunctionReward(len)), 2)])"
    )
    assert repr(guided).startswith("<GuidedModel <CachedModel") and "Search(width=2, successors=2, chunk=3" in repr(
        guided
    )
    assert "ImplicitValue(" in repr(guided)
    closed = trimtab.CompletionsModel("http://here/v1", "large")
    assert repr(closed) == "<CompletionsModel large at http://here/v1, template '{prompt}'>"
    assert repr(trimtab.Assets(cache=tmp_path)) == f"Assets(cache='{tmp_path}')"
    assert (
        trimtab.emulate(model, [(model, trimtab.load(llama(2), tokenizer()), 0.5)])
        .__repr__()
        .startswith("<EmulatedModel")
    )
    for named in (trimtab.Guide(model, model), guided, trimtab.Experiment(name="a")):
        assert "object at 0x" not in repr(named)


def test_the_default_search_is_the_one_that_is_said(guided: trimtab.GuidedModel) -> None:
    steered = trimtab.Guide(language_model(1), language_model(2)).steer(language_model(3))
    said = "Search(width=4, successors=4, chunk=5)"
    assert repr(steered.search) == said and said in (trimtab.Guide.steer.__doc__ or "") and said in repr(steered)


def test_the_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import version

    from trimtab import cli

    assert trimtab.__version__ == version("trimtab")
    monkeypatch.setattr("sys.argv", ["trimtab", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"trimtab {trimtab.__version__}\n"


def test_experiments_are_read_from_texts_as_from_paths(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"name": "mine"}))
    assert trimtab.load_experiment(str(file), ["seed=3"]) == trimtab.load_experiment(file, ["seed=3"])
