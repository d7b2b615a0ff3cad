"""Errors as OpenAI's protocol words them: a status, a type, a code, and the field that is at fault.

>>> ApiError.unknown_model("gemma:bom-4", "did you mean gemma:bon-4?").body["error"]["code"]
'model_not_found'
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
CONTEXT = "context_length_exceeded"


class ErrorDetail(BaseModel):
    """What is wrong, in one line; `param` is the field at fault, `code` a name that programs can test for."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class ApiError(Exception):
    """An error that a client is told. `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        detail = ErrorDetail(message=str(self), type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump()

    @classmethod
    def unknown_model(cls, name: str, remedy: str) -> "ApiError":
        """There is no such model."""
        return cls(404, f"there is no model {name!r}: {remedy}", param="model", code="model_not_found")

    @classmethod
    def too_long(cls, reason: str, param: str) -> "ApiError":
        """The prompt and the longest answer do not fit a model's context."""
        return cls(400, reason, param=param, code=CONTEXT)

    @classmethod
    def busy(cls, message: str, seconds: int) -> "ApiError":
        """The queue is full; `seconds` is when to try again."""
        return cls(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(seconds)})
