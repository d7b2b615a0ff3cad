"""What the engine computes, path by path, wherever its models lie: on every device the numbers of the processor.

`check(there)` runs all paths with models that `there` puts somewhere, and compares them with the processor's.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel, PreTrainedModel

from identities import PROMPTS, SAMPLING, SEED
from tiny import gpt2, llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.families import CausalModel, language_model_of
from trimtab.models.hardware import default_device
from trimtab.models.language_model import joined, sequence_log_probabilities
from trimtab.models.load import load_classifier
from trimtab.models.roles import Weights, load_language_model
from trimtab.models.sampling import draw
from trimtab.models.vocabulary import Vocabulary
from trimtab.rewards.classifier import classifier_reward
from trimtab.rewards.load import load_reward
from trimtab.rewards.model_reward import ModelReward, ValueHead
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.sequence_logits import reading
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from trimtab.training.pair_forward import PairForward
from zoo import CACHED, REREAD

There = Callable[[PreTrainedModel], PreTrainedModel]
"""Puts a model somewhere."""
ROWS = [[1, 40, 41, 42], [1, 50], [1, 60, 61]]
SEARCHES = [Search(successors=3, max_new_tokens=5, keep=3), Search(4, 2, 2, 5, groups=2, duplicates="drop")]


def here(model: PreTrainedModel) -> PreTrainedModel:
    return model


def on(device: torch.device) -> There:
    """The whole model on one device."""
    return lambda model: model.to(device)


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """The lower half of a Llama with the embedding on the first device, the upper half with the head on the second;
    any other model on the second one."""
    if not isinstance(model, LlamaForCausalLM):
        return model.to("cuda:1")
    layers = len(model.model.layers)
    places = {f"model.layers.{number}": int(number >= layers // 2) for number in range(layers)}
    tops = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
    return dispatch_model(model, {**places, **tops})


def _as_model(model: PreTrainedModel) -> CausalModel:
    return language_model_of(model, Vocabulary(tokenizer(), range(40, 52)))


def _ways(*models: CausalModel) -> list[float]:
    """Whether each model is read through the cache, and records its steps or has none: the slower ways are quiet."""
    cached = [model for model in models if isinstance(model, CachedModel)]
    return [len(cached), sum(model._static is not None and model._static._budget == 0 for model in cached)]


def _models(there: There) -> list[CausalModel]:
    """A base, and a tuned and an untuned model whose lower layers are equal."""
    untuned, tuned = llama(2), llama(2)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.mul_(1.3)
    return [_as_model(there(model)) for model in (llama(0), tuned, untuned)]


def _searched(there: There) -> list[float]:
    found: list[float] = []
    base, tuned, untuned = _models(there)
    value = ImplicitValue(tuned, untuned, base)
    for search in SEARCHES:
        for group in search.run(PROMPTS[:2], LanguageModelProposer(base, SAMPLING, SEED), value):
            found += [number for each in group for number in (*each.token_ids, each.value)]
    return found + _ways(base, tuned, untuned)


def _emulated(there: There) -> list[float]:
    base, tuned, untuned = _models(there)
    model = emulate(base, [(tuned, untuned, 0.5)])
    state = model.start(["I really", "x"], room=6)
    _, logs = model.score(state, [0, 1, 1], [len(ids) for ids in (state.ids[0], state.ids[1], state.ids[1])],
                          [[60, 61], [70], [80, 81, 82]])  # fmt: skip
    found = Search(max_new_tokens=3).run(PROMPTS[:2], LanguageModelProposer(model, SAMPLING, SEED), None)
    tokens = [token for group in found for token in group[0].token_ids]
    both = joined([model.start([text], room=6) for text in ("I really", "x")])
    beside = model.next_logits(both)[:, :5].flatten().tolist()
    return [*(log for row in logs for log in row), *tokens, *beside, *_ways(base, tuned, untuned)]


def _read_anew(there: There) -> list[float]:
    model = _as_model(there(REREAD["gpt-neo"](0)))
    state = model.start_ids(ROWS, room=4)
    _, logs = model.score(state, [0, 2], [4, 3], [[60, 61], [70]])
    return [*(log for row in logs for log in row), *_ways(model)]


def _read(there: There) -> list[float]:
    """Log-probabilities of rows that are forked, cut back, continued and put beside others, by cached, biased, capped
    and other heads."""
    found: list[float] = []
    makers = [llama, gpt2, CACHED["gemma2"], REREAD["gpt-neo"]]
    for make in makers:
        model = _as_model(there(make(0)))
        found += sequence_log_probabilities(model, ["I really", "x"], [[60, 61, 62], [70]])
        state = model.start_ids(ROWS, room=4)
        children, logs = model.score(state, [0, 2, 0], [4, 3, 4], [[60, 61, 62], [], [70]])
        cut, more = model.score(children, [0, 1], [5, 3], [[80], [81, 82, 83, 84, 85, 86, 87, 88, 89, 90]])
        found += [log for row in (*logs, *more) for log in row]
        found += model.next_logits(children)[:, :5].flatten().tolist()
        found += model.next_logits(cut.select([1, 0, 1]))[:, :5].flatten().tolist() + _ways(model)
        both = joined([model.start_ids(ROWS[:2], room=4), model.start_ids(ROWS[2:], room=4)])
        found += model.next_logits(both)[:, :5].flatten().tolist()
    return found


def _drawn(there: There) -> list[float]:
    logits = 3 * torch.randn(4, 9000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    holder = torch.nn.Linear(1, 1)
    holder.weight.data = logits
    moved = there(holder).weight.detach()  # type: ignore[arg-type]
    numbers, seen = np.random.default_rng(3).random(8), [[1, 2], [3], [4, 5, 6], [7]]
    return [
        float(token)
        for settings in (
            {"top_k": 5}, {"top_k": 0}, {"top_k": 0, "top_p": 0.9}, {"top_k": 0, "top_p": 0.9999, "temperature": 2.0},
            {"top_k": 0, "min_p": 0.05, "repetition_penalty": 1.3}, {"temperature": 0.0},
        )
        for token in draw(moved, [0, 1, 2, 3, 3, 2, 1, 0], numbers, SamplingConfig.model_validate(settings), seen)
    ]  # fmt: skip


def _rewarded(there: There) -> list[float]:
    config = llama(0).config
    torch.manual_seed(0)
    config.num_labels = 2
    two = there(LlamaForSequenceClassification(config).eval())
    texts = ["a film", "a much longer film than the first"], ["x", "y"]
    classifier = classifier_reward(
        two, tokenizer(), definition="margin", positive_label=1, max_length=64, batch_size=2
    )  # fmt: skip
    found = classifier.score(*texts)
    torch.manual_seed(1)
    config.num_labels, config.pad_token_id = 1, 2
    scalar = there(LlamaForSequenceClassification(config).eval())
    body = there(LlamaModel(config).eval())
    limit, logits = reading(scalar, tokenizer(), 64)
    for head in (lambda rows: logits(rows)[:, 0], ValueHead(body, torch.ones(1, 32))):
        reward = ModelReward(
            head, lambda *given: tokenizer()(judged_texts(*given)).input_ids, limit, parameters=1, batch_size=2
        )
        found += reward.score(*texts)
    return found


def _trained(there: There) -> list[float]:
    """The loss and gradients of the pairs' forward pass, with and without frozen layers, twice each."""
    found: list[float] = []
    for make, frozen in ((lambda: llama(1, layers=3), 0), (lambda: llama(1, layers=3), 2), (lambda: gpt2(1), 0)):
        model = there(make())
        model.requires_grad_(True)
        if frozen:
            for part in (model.get_input_embeddings(), *model.model.layers[:frozen]):
                part.requires_grad_(False)
        PairForward(model, frozen, scale=0.5, cap=4.0).install()
        ids = torch.tensor([[1, 40, 41, 42, 43], [1, 50, 51, 52, 53]], device=model.device)
        labels = ids.masked_fill(torch.arange(5, device=ids.device) < 2, -100)
        for _ in range(2):
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
            output = model(**given, fused_lm_head=True)
            output.loss.backward()
            found += [output.loss.item(), *output.log_probs.flatten().tolist(), *output.entropy.flatten().tolist()]
        found += [part.grad.norm().item() for part in model.parameters() if part.grad is not None]
    return found


PATHS: dict[str, Callable[[There], list[float]]] = {
    "sampling": _drawn,
    "rewards": _rewarded,
    "training": _trained,
    "emulated": _emulated,
    "anew": _read_anew,
    "reading": _read,
    "search": _searched,
}


@cache
def expected(path: str) -> list[float]:
    """What the processor computes, apart from the device that stands in."""
    return PATHS[path](here)


def check(path: str, there: There) -> None:
    assert PATHS[path](there) == pytest.approx(expected(path), abs=1e-5, rel=1e-6)


@contextlib.contextmanager
def saved() -> Iterator[tuple[Path, Assets]]:
    """The folder of a tiny model, and a place for what is written beside it."""
    with TemporaryDirectory() as place:
        folder = save_causal_lm(Path(place) / "llama", llama(1, layers=3))
        yield folder, Assets(cache=Path(place) / "cache")


def check_loaded(folder: Path, assets: Assets) -> None:
    """Models come to the default device by themselves."""
    config = ModelConfig(name=str(folder), dtype="float32")
    model = load_language_model(config, Weights(assets)).model
    there = {torch.zeros(0, device=default_device()).device}
    assert {part.device for part in model.parameters()} == there
    classifier, _ = load_classifier(str(folder), assets, allow_pickle=False, num_labels=2)
    assert {part.device for part in classifier.parameters()} == there
    body = LlamaModel(llama(0).config)
    published = folder.parent / "published"
    body.config.save_pretrained(published)
    tokenizer().save_pretrained(published)
    weights = {f"model.{name}": value for name, value in body.state_dict().items()}
    save_file({**weights, "regression_head.weight": torch.ones(1, 32)}, published / "model.safetensors")
    config = RewardConfig.model_validate({"model": str(published), "definition": "ultrarm"})
    head = load_reward(config, assets, None)._head
    assert {part.device for part in head._body.parameters()} == there
