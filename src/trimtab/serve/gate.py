"""What every request passes on its way in: its id, its key, its body's size, and the access log on its way out."""

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.errors import one_line
from trimtab.serve.api_errors import ApiError
from trimtab.serve.metrics import Metrics
from trimtab.serve.page_files import PREFIX

BODY_SECONDS = 30  # how long a client may take to send its body
MAX_DISCARDED_BYTES = 2**26  # of a body that is too large, read before it is refused
OPEN_ROUTES = ("/", "/health", "/openapi.json")
"""Routes that need no key, like the files of the page: they tell nothing about models or requests."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_log = logging.getLogger("trimtab.serve.access")


@dataclass(frozen=True)
class GateSettings:
    """`key`: what clients must send as their bearer token; None: nobody needs one. `log_bodies`: prompts are logged."""

    key: str | None = None
    max_body_bytes: int = 4 * 2**20
    log_bodies: bool = False


class Gate:
    """Wraps an application; answers requests that may not pass, and logs all of them.

    A body is read whole, up to its limit, before the application sees the request.
    """

    def __init__(self, app: ASGIApp, settings: GateSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()
        asked = headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "note": {}}
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check_key(scope["path"], headers)
            body = await self._body(receive)
            if self._settings.log_bodies and body:
                _log.info("%s body %s", request_id, one_line(body.decode(errors="replace")))
            await self._app(scope, _replayed(body, receive), sending)
        except ApiError as error:
            self._metrics.refusals.labels(error.code or "invalid_request").inc()
            scope["state"]["note"]["refused"] = error.code
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, sending)
        except _ClientGone:
            pass
        finally:
            self._note(scope, request_id, status, time.monotonic() - started)

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise ApiError where the request needs a key and brings none, or another."""
        key = self._settings.key
        if key is None or path in OPEN_ROUTES or path.startswith(PREFIX):
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
            raise ApiError(
                401,
                "the API key is missing or wrong: send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            ApiError: it is too large, or takes too long to come.
        """
        limit, body, size, more = self._settings.max_body_bytes, bytearray(), 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and size <= MAX_DISCARDED_BYTES:  # who has not sent all cannot read an answer
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size <= limit:
                        body += part
        except TimeoutError:
            seconds = f"the body did not arrive within {BODY_SECONDS} seconds: send it at once"
            raise ApiError(408, seconds, code="request_timeout") from None
        if size > limit:
            text = f"the body is larger than {limit} bytes: send a shorter prompt"
            raise ApiError(413, text, code="request_too_large")
        return bytes(body)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """The line of the access log, and the metrics. A status of 0: the client hung up before any answer."""
        route = scope.get("route")
        path = "unknown" if route is None else route.path
        self._metrics.requests.labels(path, str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        note = scope["state"]["note"]
        client = (scope.get("client") or ("-",))[0]
        facts = "".join(f" {name}={value}" for name, value in note.items())
        target = json.dumps(scope["path"][:200])[1:-1]
        _log.info("%s %s %s %s %d %.3fs%s", request_id, client, scope["method"], target, status, seconds, facts)


class _ClientGone(Exception):
    """The client hung up while it sent its request."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first gives the body that was read, then what the connection gives."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal first
        if first is not None:
            message, first = first, None
            return message
        return await receive()

    return replayed
