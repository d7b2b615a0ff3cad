"""Which way a model is decoded is a matter of its code, not of the bits that it computes in; and why is said."""

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from tiny import full_log_probabilities, llama, tokenizer
from trimtab.errors import ModelError
from trimtab.models.cache_check import alike
from trimtab.models.cached_model import CachedModel
from trimtab.models.families import CausalModel, language_model_of
from trimtab.models.lm_head import find_head, head_of
from trimtab.models.open_model import load
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary
from zoo import CACHED, REREAD

FAMILIES = {**CACHED, **REREAD}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PROMPTS = [[1, 40, 41, 42, 43, 44, 45, 46, 47, 48], [1], [1, 50, 51]]
APART = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""What the distributions of tiny models through a cache may be apart from those of whole passes, in norm."""
STATE = "its layers keep a running state of the text, which cannot be forked and cut back"
REASONS = {
    "mamba": STATE,
    "rwkv": STATE,
    "jamba": STATE,
    "gpt-neo": "its layers mask by where a token stands in a cache, not by its position",
}


def as_language_model(model: PreTrainedModel) -> CausalModel:
    return language_model_of(model, Vocabulary(tokenizer()))


def random_gpt2(*sizes: int) -> PreTrainedModel:
    vocabulary, width, layers, heads = sizes
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, **ends)).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_decoded_in_one_way_in_every_element_type(name: str, dtype: torch.dtype) -> None:
    """No family has to be read anew in 16 bits that is not in float32; and the reason is the family's own."""
    model = FAMILIES[name](0).to(dtype)
    whole = copy.deepcopy(model)
    language = as_language_model(model)
    assert isinstance(language, UncachedModel if name in REREAD else CachedModel)
    if isinstance(language, UncachedModel):
        assert language.reason == REASONS[name]
    state, _ = language.score(language.start_ids(PROMPTS, room=8), [0, 1, 2, 0], [10, 1, 3, 10], [[60], [70], [], [80]])
    state.append([90, 91, 92, 93])
    found = language.next_logits(state).double()
    for ids, row in zip(state.ids, found, strict=True):
        with torch.no_grad():
            expected = whole(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        found_logs, logs = row.log_softmax(-1), expected.log_softmax(-1)
        assert (found_logs - logs).norm() <= APART[dtype] * (logs - logs.mean()).norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_familys_head_is_found_to_be_rounded_and_no_more(dtype: torch.dtype) -> None:
    """A bias is added to a rounded product here, to a wider one there: in Phi half of all bfloat16 logits differ."""
    for name, make in FAMILIES.items():
        found = find_head(make(0).to(dtype))
        assert found.head is not None, (name, found.reason)


def changed(model: PreTrainedModel, change: Callable[[torch.Tensor], torch.Tensor]) -> PreTrainedModel:
    """The model with something done to its logits behind the head."""
    plain = model.forward

    def forward(*args: object, **kwargs: object) -> object:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    return model


def _at(tokens: slice, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def some(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., tokens] = change(logits[..., tokens])
        return logits

    return some


ONE, FEW = slice(7, 8), slice(20, 25)
CHANGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "a temperature of 2": (lambda logits: logits / 2, "in norm"),
    "a temperature of 1.02": (lambda logits: logits / 1.02, "in norm"),
    "a temperature of 1.01": (lambda logits: logits / 1.01, "norm|times those of"),
    "another sign": (lambda logits: -logits, "in norm"),
    "a cap at half of the largest": (lambda logits: _capped(logits, 0.5), "in norm"),
    "a cap at three times the largest": (lambda logits: _capped(logits, 3), "norm|times"),
    "clamped at 0.9 of the largest": (lambda logits: _clamped(logits, 0.9), "logits differ|norm|times"),
    "a constant added to one token": (_at(ONE, lambda logits: logits + 5), "1 of its 320 logits differ|norm"),
    "a constant of a tenth of the spread added to one token": (
        lambda logits: _at(ONE, lambda one: one + 0.1 * float(logits.float().std()))(logits),
        "1 of its 320 logits differ|norm",
    ),
    "a constant taken from a few tokens": (_at(FEW, lambda logits: logits - 3), "5 of its 320 logits differ|norm"),
    "a token suppressed by infinity": (_at(ONE, lambda one: one - torch.inf), "1 of its 320 logits are finite where"),
    "tokens suppressed by the least number": (
        _at(FEW, lambda few: torch.full_like(few, torch.finfo(few.dtype).min)),
        "norm",
    ),
    "a constant added to all": (lambda logits: logits + logits.float().std().to(logits.dtype), "norm"),
    "log-probabilities": (lambda logits: logits.log_softmax(-1), "norm"),
}


def _capped(logits: torch.Tensor, share: float) -> torch.Tensor:
    cap = share * logits.abs().max()
    return cap * (logits / cap).tanh()


def _clamped(logits: torch.Tensor, share: float) -> torch.Tensor:
    return logits.clamp(max=share * logits.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi", "gemma2", "cohere"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_logits_behind_the_head_is_found_out(name: str, change: str, dtype: torch.dtype) -> None:
    made, said = CHANGES[change]
    found = find_head(changed(CACHED[name](0).to(dtype), made))
    assert found.head is None
    if name in ("gpt2", "llama", "phi"):  # heads that neither scale nor cap, which are compared most closely
        assert any(part in found.reason for part in said.split("|")), found.reason


HEADS: dict[str, Callable[[torch.nn.Linear], None]] = {
    "its bias dropped": lambda head: _multiplies(head, lambda hidden: functional.linear(hidden, head.weight)),
    "its bias doubled": lambda head: _multiplies(
        head, lambda hidden: functional.linear(hidden, head.weight, 2 * head.bias)
    ),
    "one bias changed": lambda head: _multiplies(
        head,
        lambda hidden: functional.linear(hidden, head.weight, _at(ONE, lambda one: one + 1)(head.bias)),
    ),
    "its weight scaled by 1.01": lambda head: _multiplies(
        head, lambda hidden: functional.linear(hidden, 1.01 * head.weight, head.bias)
    ),
    "a weight that is slightly different": lambda head: _multiplies(
        head,
        lambda hidden: functional.linear(hidden, head.weight + 0.02 * head.weight.roll(1, 0), head.bias),
    ),
    "one row of its weight changed": lambda head: _multiplies(
        head,
        lambda hidden: functional.linear(
            hidden, torch.cat([head.weight[:9], 0.9 * head.weight[9:10], head.weight[10:]]), head.bias
        ),
    ),
    "its input normalised once more": lambda head: _multiplies(
        head, lambda hidden: functional.linear(functional.layer_norm(hidden, hidden.shape[-1:]), head.weight, head.bias)
    ),
}


def _multiplies(head: torch.nn.Linear, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    head.forward = forward


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("difference", HEADS)
def test_a_head_that_is_another_is_found_out(difference: str, dtype: torch.dtype) -> None:
    model = CACHED["phi"](0).to(dtype)  # its head has a bias
    assert head_of(model) is not None
    HEADS[difference](model.lm_head)
    language = as_language_model(model)
    assert isinstance(language, UncachedModel) and "output embedding" in language.reason


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-100.0, 0.0, 60.0])
def test_logits_that_lie_far_from_zero_are_compared_in_their_own_units(shift: float, dtype: torch.dtype) -> None:
    """Those of GPT-2 lie about -100, where numbers of bfloat16 are 0.5 apart."""
    model = CACHED["phi"](0)
    with torch.no_grad():
        model.lm_head.bias.add_(shift)
    assert head_of(model.to(dtype)) is not None
    assert head_of(changed(model, _at(ONE, lambda one: one + 5))) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["given in float32", "multiplied in float32", "with a head in float32"])
def test_logits_may_be_wider_than_the_weights(way: str, dtype: torch.dtype) -> None:
    model = CACHED["llama"](0).to(dtype)
    whole = copy.deepcopy(model)
    head = model.lm_head
    if way == "given in float32":
        model._original_forward = model.forward  # as accelerate does
        changed(model, lambda logits: logits.float())
    elif way == "multiplied in float32":
        head.forward = lambda hidden: functional.linear(hidden.float(), head.weight.float())
    else:
        model.lm_head = copy.deepcopy(head).float()
        model.lm_head.forward = lambda hidden: functional.linear(hidden.float(), model.lm_head.weight)
    language = as_language_model(model)
    assert isinstance(language, CachedModel)
    _, logs = language.score(language.start_ids(PROMPTS, room=4), [0, 2], [10, 3], [[60, 61], [70]])
    with torch.no_grad():
        for prompt, response, found in zip([PROMPTS[0], PROMPTS[2]], [[60, 61], [70]], logs, strict=True):
            logits = whole(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].float()
            rows = logits.log_softmax(-1)[len(prompt) - 1 :]
            assert found == pytest.approx([float(rows[at, token]) for at, token in enumerate(response)], abs=0.5)


def test_weights_of_a_head_that_are_codes_are_not_multiplied_with() -> None:
    model = CACHED["llama"](0).float()
    weight = model.lm_head.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(10, 1, dtype=torch.uint8), requires_grad=False)
    model.lm_head.forward = lambda hidden: functional.linear(hidden, weight)
    assert find_head(model).reason == "the weights of its output embedding are stored as uint8"


def test_a_model_that_is_read_anew_says_why_with_the_numbers() -> None:
    found = as_language_model(changed(CACHED["gpt2"](0).float(), lambda logits: 1.1 * logits))
    assert isinstance(found, UncachedModel)
    assert found.reason == (
        "its logits differ from its output embedding's by 9.09 % in norm (0.005 % allowed in float32)"
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_that_changes_what_is_read_says_how_much(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = CachedModel.start_ids

    def shifted(self: CachedModel, prompts: list[list[int]], room: int) -> object:
        return sound(self, [[*ids[:-1], 9] for ids in prompts], room)

    monkeypatch.setattr(CachedModel, "start_ids", shifted)
    language = as_language_model(CACHED["llama"](0).to(dtype))
    assert isinstance(language, UncachedModel)
    assert language.reason.startswith("reading it through a cache gives logits ")
    assert " % apart from those of one pass (" in language.reason
    assert language.reason.endswith(f"allowed in {str(dtype).removeprefix('torch.')})")


def test_a_model_that_takes_no_such_cache_says_what_it_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CachedModel, *args: object) -> None:
        raise TypeError("unexpected argument\nmore")

    monkeypatch.setattr(CachedModel, "score", fail)
    language = as_language_model(CACHED["llama"](0))
    assert isinstance(language, UncachedModel)
    assert language.reason == "it cannot be read through a cache (TypeError: unexpected argument)"


def test_each_model_gives_its_own_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning for each family blamed all its models for what the first one did."""
    mamba, other, llama = REREAD["mamba"](0), REREAD["mamba"](1), changed(CACHED["llama"](0), lambda logits: -logits)
    with caplog.at_level(logging.WARNING):
        for model, name in ((mamba, "small"), (other, "large"), (llama, "tuned"), (mamba, "small")):
            language_model_of(model, Vocabulary(tokenizer()), name=name)
    ours = [record for record in caplog.records if record.name.startswith("trimtab.")]  # transformers has its own, once
    warnings = [record.getMessage() for record in ours]
    assert len(warnings) == 3 and all("is decoded without a cache" in each for each in warnings)
    assert warnings[0].startswith("small, a mamba model,") and warnings[1].startswith("large, a mamba model,")
    assert STATE in warnings[0] and warnings[2].startswith("tuned, a llama model,") and "in norm" in warnings[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_that_are_no_numbers_are_still_refused(dtype: torch.dtype) -> None:
    model = CACHED["gpt2"](0).to(dtype)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="logits are not numbers"):
        as_language_model(model)


def test_loading_takes_no_more_passes_than_it_needs() -> None:
    """One without a cache, whose body's output is taken on the way, and six through the cache."""
    model = CACHED["gpt2"](0)
    passes: list[bool] = []
    model.base_model.register_forward_hook(lambda body, _, output: passes.append(output.past_key_values is not None))
    language = as_language_model(model)
    assert passes.count(False) == 1 and len(passes) == 7
    assert language.tokens_read == 0 and language.flops == 0


PROGRAM = """
import torch
from test_way_of_decoding import as_language_model, random_gpt2
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    print(dtype, type(as_language_model(random_gpt2(50_257, 768, 1, 12).to(dtype))).__name__)
"""


@pytest.mark.parametrize("processor", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}])
def test_gpt2s_shape_is_decoded_through_the_cache_with_bfloat16_units_and_without(processor: dict[str, str]) -> None:
    """Without them, and on CUDA, one bfloat16 logit of 10,000 is rounded to its neighbour where rows are multiplied
    token by token. Element by element to 0.1 % that was another head, and every token had the whole text read anew."""
    tests = Path(__file__).parent
    environment = {**os.environ, **processor, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("CachedModel") == 3, run.stdout + run.stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0.0, -100.0, 1e4])
def test_readings_are_told_apart_by_their_distributions(shift: float, dtype: torch.dtype) -> None:
    """Relative to logits about -100, as GPT-2's are, other predictions differed by 1 % and passed for rounding."""
    model = CACHED["llama"](0).to(dtype)
    generator = torch.Generator().manual_seed(0)
    expected, other = (0.8 * torch.randn(8, 320, dtype=torch.float64, generator=generator) + shift for _ in range(2))
    assert not alike(other, expected, model)
    assert alike(expected + 7, expected, model)
    assert not alike(expected[:, :-1], expected, model)


class _Ruled(LlamaForCausalLM):
    """Its logits follow a rule that shows in texts with token 99 alone."""

    def forward(self, input_ids: torch.Tensor, **given: object) -> object:
        output = super().forward(input_ids=input_ids, **given)
        output.logits = torch.where((input_ids == 99).any(-1)[:, None, None], output.logits / 2, output.logits)
        return output


def _rule(_: torch.nn.Module, args: object, given: dict[str, torch.Tensor], output: CausalLMOutputWithPast) -> None:
    output.logits = torch.where((given["input_ids"] == 99).any(-1)[:, None, None], output.logits / 2, output.logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["class", "hook", "forward"])
def test_what_someone_does_to_the_logits_of_rare_texts_counts(way: str, dtype: torch.dtype) -> None:
    """A few tokens do not show it: such models were read through the cache, without their rule."""
    model = _Ruled(llama(1).config).to(dtype).eval() if way == "class" else llama(1, dtype=dtype)
    if way == "hook":
        model.register_forward_hook(_rule, with_kwargs=True)
    elif way == "forward":
        plain = model.forward

        def forward(input_ids: torch.Tensor, **given: object) -> CausalLMOutputWithPast:
            output = plain(input_ids=input_ids, **given)
            _rule(model, (), {"input_ids": input_ids}, output)
            return output

        model.forward = forward
    language = as_language_model(model)
    texts = [[1, 40, 99, 41, 42], [1, 50], [1, 99, 60]]
    found = language.next_logits(language.start_ids(texts, room=2)).double()
    for ids, row in zip(texts, found, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        assert (row - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("fields", [{"return_dict": False}, {"output_hidden_states": True}, {"use_cache": False}])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_what_a_configuration_asks_to_be_given_changes_nothing(name: str, fields: dict[str, bool]) -> None:
    model = FAMILIES[name](0).double()
    expected = as_language_model(copy.deepcopy(model))
    for field, value in fields.items():
        setattr(model.config, field, value)
    found = as_language_model(model)
    assert type(found) is type(expected)
    ours, theirs = (each.next_logits(each.start_ids(PROMPTS, room=2)) for each in (found, expected))
    assert torch.equal(ours, theirs)


class _Strict(LlamaForCausalLM):
    def forward(self, input_ids: torch.Tensor) -> object:  # type: ignore[override]
        return super().forward(input_ids=input_ids)


class _Last(LlamaForCausalLM):
    def forward(self, input_ids: torch.Tensor, **given: object) -> object:
        return super().forward(input_ids=input_ids, **{"logits_to_keep": 1, **given})


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: _Strict(llama(1).config), "unexpected keyword argument"),
        (lambda: _Last(llama(1).config), r"logits of 1 of 8 tokens.*logits_to_keep=0"),
        (lambda: LlamaModel(llama(1).config), "a LlamaModel is no causal language model"),
        (lambda: LlamaForSequenceClassification(llama(1).config), "a LlamaForSequenceClassification is no causal"),
        (lambda: llama(1).to("meta"), "cannot be run as a causal language model"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_decoded_is_one_line(make: Callable[[], PreTrainedModel], line: str) -> None:
    with pytest.raises(ModelError, match=line):
        load(make().eval(), tokenizer())


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_a_row_that_was_asked_for_its_next_token_can_be_asked_again_and_continued(name: str) -> None:
    """`score` right after `next_logits`, and a second `next_logits`, ended in an IndexError."""
    language = as_language_model(FAMILIES[name](0).double())
    fresh = language.start_ids(PROMPTS, room=4)
    _, expected = language.score(fresh, [0, 1, 2, 0], [10, 1, 3, 10], [[60, 61], [70], [], [80]])
    state = language.start_ids(PROMPTS, room=4)
    first = language.next_logits(state).clone()
    assert torch.allclose(language.next_logits(state), first)
    children, found = language.score(state, [0, 1, 2, 0], [10, 1, 3, 10], [[60, 61], [70], [], [80]])
    for row, own in zip(found, expected, strict=True):
        assert row == pytest.approx(own, abs=1e-9)
    language.next_logits(children)
    children.append([90, None, 91, None])
    _, (one, other) = language.score(children, [0, 1], [13, 2], [[50], [51]])
    whole = full_log_probabilities(language.model, [*PROMPTS[0], 60, 61, 90], [50])
    assert one == pytest.approx(whole, abs=1e-6)
    assert other == pytest.approx(full_log_probabilities(language.model, [*PROMPTS[1], 70], [51]), abs=1e-6)
