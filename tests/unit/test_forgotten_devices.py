"""No tensor is left on another device than those that it meets, on one device that is not the processor, on two, and
with layers that wait; a forgotten device is found, wherever it is planted."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import device_paths
from device_paths import PATHS, check, on, saved, spread
from stand_in import accelerators, place
from tiny import full_log_probabilities, llama
from trimtab.config.models import ModelConfig
from trimtab.models.roles import Weights, load_language_model

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture(scope="module", autouse=True)
def on_the_processor() -> None:
    """What is expected is computed before any device stands in."""
    for path in PATHS:
        device_paths.expected(path)


def test_a_stand_in_is_told_apart_from_the_processor() -> None:
    with accelerators(2):
        one, other, number = torch.zeros(2, device="cuda"), torch.zeros(2), torch.tensor(2.0)
        assert (one.device, (one + 1)[1:].device, other.to(one).device) == (FIRST, FIRST, FIRST)
        assert (one * number).device == FIRST and other.device == torch.device("cpu")
        assert other.numpy().tolist() == one.tolist() and place(one.to(1)) == SECOND
        for mix in (
            lambda: one + other,
            lambda: one + one.to(SECOND),
            lambda: torch.zeros(4)[one.long()],
            lambda: torch.nn.functional.embedding(torch.tensor([0]), torch.zeros(3, 3, device="cuda")),
            lambda: torch.cat([one, other]),
        ):
            with pytest.raises(RuntimeError, match="tensors on"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            one.numpy()


@pytest.mark.parametrize("path", PATHS)
def test_all_on_one_device(path: str) -> None:
    with accelerators(1):
        check(path, on(FIRST))


@pytest.mark.parametrize("path", ["reading", "search", "emulated"])
def test_each_model_spread_over_two_devices(path: str) -> None:
    with accelerators(2):
        check(path, spread)


@pytest.mark.parametrize("path", ["search", "emulated"])
@pytest.mark.parametrize("apart", ["by turns", "one spread", "one on the processor"])
def test_models_on_unlike_devices(path: str, apart: str) -> None:
    with accelerators(2):
        turns = {
            "by turns": [on(SECOND), on(FIRST), on(SECOND)],
            "one spread": [on(FIRST), spread, on(FIRST)],
            "one on the processor": [on(FIRST), on(FIRST), device_paths.here],
        }[apart] * 4
        check(path, lambda model: turns.pop(0)(model))


def test_models_are_loaded_onto_the_device() -> None:
    with accelerators(1), saved() as (folder, assets):
        device_paths.check_loaded(folder, assets)


@pytest.mark.parametrize("gpus", [0, 1, 2])
@pytest.mark.parametrize("device_map", [None, "cpu", "disk", "auto"])
def test_a_model_and_its_adapter_wherever_the_layers_wait(gpus: int, device_map: str | None, tmp_path: Path) -> None:
    """An adapter over weights on a disk was once refused, with and without a GPU."""
    ids, response = [1, 40, 41, 42], [60, 61, 62]
    plain = llama(1, layers=3, dtype=torch.float32)
    lora = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(llama(1, layers=3, dtype=torch.float32), lora)
    adapted.save_pretrained(tmp_path / "adapter")
    wanted = [full_log_probabilities(model, ids, response) for model in (plain, adapted)]
    assert max(abs(one - other) for one, other in zip(*wanted, strict=True)) > 0.01

    def compared() -> None:
        with saved() as (folder, assets):
            settings = {"name": str(folder), "dtype": "float32", "device_map": device_map}
            weights = Weights(assets)
            for further, expected in zip(({}, {"adapter": str(tmp_path / "adapter")}), wanted, strict=True):
                model = load_language_model(ModelConfig.model_validate({**settings, **further}), weights)
                _, (found,) = model.score(model.start_ids([ids], room=4), [0], [4], [response])
                assert found == pytest.approx(expected, abs=1e-4)

    if not gpus:
        compared()
        return
    with accelerators(gpus):
        compared()


# Each device that the engine names is forgotten, one at a time: a `device=`, a `.to(device)`, an `on_device`.

BY_PATH = {
    "trimtab.models.sampling": "sampling", "trimtab.rewards.model_reward": "rewards",
    "trimtab.rewards.sequence_logits": "rewards", "trimtab.training.pair_forward": "training",
}  # fmt: skip
"""Modules that one short path comes by whole."""
MODULES = (
    "trimtab.models.attention", "trimtab.models.kv_cache", "trimtab.models.device", "trimtab.models.emulated",
    "trimtab.models.families", "trimtab.models.uncached_model", *BY_PATH,
)  # fmt: skip
"""Where devices are forgotten."""
SOUND = {
    # an index on the processor: torch takes it along, and waits
    "models.attention.row_mask: torch.arange(len(starts), device=device)",
    "models.sampling.draw: on_device(rows, logits.device)",
    "models.sampling.penalized: on_device(rows[in_vocabulary], logits.device)",
    "models.sampling.penalized: on_device(tokens[in_vocabulary], logits.device)",
    "models.sampling._draw_of_few: on_device(rows[few], device)",
    "models.sampling._draw_of_few: on_device(np.flatnonzero(few), device)",
    "models.sampling._draw_of_few: on_device(where, device)",
    "models.sampling._draw_of_few: on_device(np.flatnonzero(~few), device)",
    "models.sampling._draw_of_few: on_device(rest, device)",
    "rewards.model_reward.ValueHead.__call__: torch.arange(len(ids), device=device)",
    "rewards.model_reward.ValueHead.__call__: mask.sum(dim=1).to(device)",
    "rewards.sequence_logits.SequenceLogits.__call__: order.argsort().to(parts[0].device)",
    # indices of index_copy_ and index_select, which the stand-in takes from any device
    "models.kv_cache.SlotLayer.put: places.to(mine.device)",
    "models.kv_cache.SlotLayer.put: rows.to(theirs.device)",
    # transformers takes masks to the device of the texts
    "rewards.model_reward.ValueHead.__call__: mask.to(device)",
    "rewards.sequence_logits.SequenceLogits._read: mask.to(model.device)",
    # counts where a head lies apart from the layers below it, as no path here has it
    "models.uncached_model.UncachedModel._read: flat.to(self._head.weight.device, self._head.weight.dtype)",
    "models.device.on_device: torch.arange(values.start, values.stop, values.step, device=device)",
}
"""Calls that may as well forget their device: `module.function: call`."""


def _without_device(node: ast.Call) -> ast.expr | None:
    """The call with its device left out; None where it names none."""
    keywords = [each for each in node.keywords if each.arg != "device"]
    if len(keywords) < len(node.keywords) and not any(each.arg is None for each in node.keywords):
        return ast.copy_location(ast.Call(node.func, node.args, keywords), node)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
        arguments = [each for each in node.args if "device" not in ast.unparse(each)]
        if len(arguments) < len(node.args):
            value = node.func.value
            return value if not arguments else ast.copy_location(ast.Call(node.func, arguments, node.keywords), node)
    if isinstance(node.func, ast.Name) and node.func.id == "on_device":
        nowhere = ast.parse("__import__('torch').device('cpu')", mode="eval").body
        return ast.copy_location(ast.Call(node.func, [node.args[0], nowhere], []), node)
    return None


Span = tuple[int, int, int | None, int | None]


def _span(node: ast.expr) -> Span:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


class _Replace(ast.NodeTransformer):
    """Puts another expression in the place of the call at a span."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return _without_device(node) or node if _span(node) == self._span else self.generic_visit(node)


def _planted() -> Iterator[Any]:
    """Every call that names a device, in every function of the engine."""
    for name in MODULES:
        source = Path(importlib.import_module(name).__file__ or "").read_text(encoding="utf-8")
        for owner, scope in _functions(ast.parse(source)):
            for node in ast.walk(scope):
                if isinstance(node, ast.Call) and _without_device(node) is not None:
                    call = f"{name.removeprefix('trimtab.')}.{owner}: {ast.unparse(node)}"
                    yield pytest.param(name, owner, _span(node), call, id=call)


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions of a module and of its classes, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


def _code(code: CodeType, name: str) -> CodeType | None:
    """The code of a function by its qualified name, within the code of its module."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == name:
                return constant
            if (found := _code(constant, name)) is not None:
                return found
    return None


def _live(module: Any, owner: str) -> FunctionType:
    """A function as it runs, below its decorators."""
    found = module
    for name in owner.split("."):
        found = inspect.getattr_static(found, name)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    return inspect.unwrap(found)


def _everything(module: str) -> None:
    """Short paths on one device, then on two; of some modules the one that is theirs."""
    if module in BY_PATH:
        with accelerators(1):
            check(BY_PATH[module], on(FIRST))
        return
    with accelerators(1):
        for path in ("rewards", "emulated", "anew"):
            check(path, on(FIRST))
    with accelerators(2):
        turns = [spread, on(FIRST), on(FIRST)]
        check("emulated", lambda model: turns.pop(0)(model))


@pytest.mark.parametrize(("name", "owner", "span", "call"), list(_planted()))
def test_a_forgotten_device_is_found(name: str, owner: str, span: Span, call: str) -> None:
    module = importlib.import_module(name)
    file = module.__file__ or ""
    tree = _Replace(span).visit(ast.parse(Path(file).read_text(encoding="utf-8")))
    planted = _code(compile(ast.fix_missing_locations(tree), file, "exec"), owner)
    function = _live(module, owner)
    sound = function.__code__
    assert planted is not None
    function.__code__ = planted
    try:
        _everything(name)
    except Exception:  # noqa: BLE001 (by whatever error, it is found)
        assert call not in SOUND, "this call has to name its device: take it from the list"
    else:
        assert call in SOUND, "a forgotten device is not found: give `device_paths` a path that comes by"
    finally:
        function.__code__ = sound
