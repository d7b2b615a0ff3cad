"""Words what pydantic finds wrong with a request's body: which field, what it is, and what to do."""

from collections.abc import Sequence
from typing import Any

from trimtab.errors import meant, shown
from trimtab.serve.api_errors import ApiError
from trimtab.serve.protocol import UNSUPPORTED, ChatRequest, CompletionRequest, TokenizeRequest

_FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *TokenizeRequest.model_fields})


def refusal_of(faults: Sequence[Any]) -> ApiError:
    """The refusal of a body by what pydantic found wrong with it, all on one line."""
    located = [(_path(fault), fault) for fault in faults]
    # where one kind of value of several is refused for what is inside it, the other kinds' faults say nothing
    paths = [path for path, _ in located]
    told = [(path, fault) for path, fault in located if not any(_is_inside(other, path) for other in paths)]
    messages = dict.fromkeys(f"{_name(path)} {_words(fault, path)}" for path, fault in told)
    return ApiError(400, "; ".join(messages), param=".".join(map(str, told[0][0])) or None)


def _path(fault: Any) -> list[Any]:
    """A fault's path in the body, without the branches of unions, which pydantic names by their types."""
    *outer, last = fault["loc"][1:] or [""]
    unknown = fault["type"] == "extra_forbidden"  # a field that a client has named, however that looks
    return [step for step in [*outer, last] if step != "" and (not _is_branch(step) or (unknown and step is last))]


def _is_branch(step: Any) -> bool:
    return isinstance(step, str) and (step in ("str", "int") or not step.isidentifier())


def _is_inside(path: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(path) > len(outer) and [*path[: len(outer)]] == [*outer]


def _name(path: Sequence[Any]) -> str:
    return ".".join(map(str, path)) or "the body"


def _words(fault: Any, path: Sequence[Any]) -> str:
    kind, message = fault["type"], str(fault["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        name = str(path[-1])
        if name in UNSUPPORTED:
            return "is not supported: leave it out"
        return f"is unknown: {meant(name, _FIELDS, 0.6) or 'leave it out'}"
    if kind == "missing":
        return "is missing: give it"
    if kind == "json_invalid" or (not path and kind == "model_attributes_type"):
        return "is no JSON object: send one, with `Content-Type: application/json`"
    return f"is wrong: {message}" if kind == "value_error" else f"is {shown(fault['input'])}: {message}"
