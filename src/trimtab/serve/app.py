"""The HTTP application: OpenAI's routes over an engine, and those that operators need."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from trimtab.config.guide import DecoderConfig
from trimtab.errors import TrimtabError, shown
from trimtab.records import PromptInput
from trimtab.report.decoder_words import description
from trimtab.serve.answer_state import AnswerState
from trimtab.serve.answers import ChatCompletion, Completion, DecoderFacts, Health, ModelCard, ModelList, Tokens
from trimtab.serve.api_errors import ApiError, ErrorBody
from trimtab.serve.body_faults import refusal_of
from trimtab.serve.formats import ChatFormat, CompletionFormat, Format
from trimtab.serve.gate import Gate, GateSettings
from trimtab.serve.metrics import Metrics
from trimtab.serve.page_files import add_page
from trimtab.serve.protocol import ChatRequest, CompletionRequest, TokenizeRequest
from trimtab.serve.requests import GenerationRequest
from trimtab.serve.service import Service, refusal
from trimtab.serve.streams import Clock, fault_of_server, stream, whole_answer

Asked = ChatRequest | CompletionRequest
_REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused; the message says what to change."},
    "5XX": {"model": ErrorBody, "description": "The request has no answer."},
}
_EVENTS = {
    "content": {"text/event-stream": {}},
    "description": "The answer, or its events.",
}


def application(service: Service, settings: GateSettings) -> ASGIApp:
    """The application, with the gate in front of it."""
    AppStatus.disable_automatic_graceful_drain()  # streams that run at shutdown may end
    app = FastAPI(
        title="trimtab",
        version=version("trimtab"),
        description="Guided decoding behind OpenAI's protocol.",
        docs_url=None,  # the pages of FastAPI fetch scripts from elsewhere
        redoc_url=None,
        responses=_REFUSALS,
    )
    _answer_errors(app, service.metrics)
    _add_generation(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    add_page(app)
    return Gate(app, settings, service.metrics)


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: _EVENTS})
    async def chat_completions(body: ChatRequest, request: Request) -> ChatCompletion | EventSourceResponse:
        """The next message of a conversation."""
        clock, requests = _begin(service, request, body, [service.chat_prompt(body.messages)])
        form = ChatFormat(service.heading(body, requests[0], ChatFormat.prefix))
        return await _answered(service, request, body, requests, form, clock)

    @app.post("/v1/completions", response_model=Completion, responses={200: _EVENTS})
    async def completions(body: CompletionRequest, request: Request) -> Completion | EventSourceResponse:
        """Continuations of one or several prompts."""
        clock, requests = _begin(service, request, body, body.prompts)
        form = CompletionFormat(service.heading(body, requests[0], CompletionFormat.prefix))
        return await _answered(service, request, body, requests, form, clock)


def _begin(
    service: Service, request: Request, body: Asked, prompts: Sequence[PromptInput | tuple[int, ...]]
) -> tuple[Clock, list[GenerationRequest]]:
    """The requests of the engine, noted for the access log."""
    request.state.note |= {"model": shown(body.model), "n": body.n, "stream": body.stream}
    requests = service.requests(body, prompts, request.state.request_id)
    return Clock(request, service.metrics, requests[0].decoder.name), requests


async def _answered(
    service: Service, request: Request, body: Asked, requests: list[GenerationRequest], form: Format, clock: Clock
) -> Any:
    """The answer, or its events; FastAPI checks the former against the route's model."""
    scorer = await service.scorer(body, requests)
    handles = await service.submit(requests, "messages" if isinstance(body, ChatRequest) else "prompt")
    state = AnswerState(len(requests), body.n, scorer)
    if body.stream:
        return stream(handles, state, form, clock, body.include_usage)
    return await whole_answer(request, handles, state, form, clock)


def _add_models(app: FastAPI, service: Service) -> None:
    @lru_cache(maxsize=256)  # the engine may be in the middle of a step
    def card(name: str) -> ModelCard:
        decoder = service.names.decoder(name)
        return ModelCard(
            id=name,
            created=service.started,
            description=description(decoder),
            max_model_len=service.engine.context(DecoderConfig(model=decoder.model, emulate=decoder.terms)),
            trimtab=DecoderFacts.model_validate(decoder, from_attributes=True),
        )

    listed = [card(name) for name in service.names.listed()]  # now, while no step keeps the engine

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The models, each a decoder; others go by names such as NAME:cbs-2-4-8."""
        return ModelList(data=listed, trimtab=service.facts)

    @app.get("/v1/models/{model:path}")
    def model(model: str) -> ModelCard:
        """One model, of the list or not."""
        return card(model)

    @app.post("/tokenize")
    def tokenize(body: TokenizeRequest) -> Tokens:
        """The tokens of a text or a conversation, as the model reads it."""
        decoder = service.names.decoder(body.model)
        field = "prompt" if body.messages is None else "messages"
        prompt = body.prompt if body.messages is None else service.chat_prompt(body.messages)
        assert prompt is not None
        try:
            ids = [token.id for token in service.engine.tokenize(prompt, decoder)]
        except TrimtabError as error:
            raise refusal(error, field) from None
        return Tokens(count=len(ids), max_model_len=service.engine.context(decoder), tokens=ids)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Health:
        """Whether the server takes requests: no longer where its engine has stopped."""
        if not service.engine.alive:
            message = "the engine has stopped, and the server with it or for a reason in its log: start it again"
            raise ApiError(503, message, code="engine_stopped")
        return Health()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Have every error answered in OpenAI's form."""

    def answer(request: Request, error: ApiError) -> JSONResponse:
        request.state.note["refused"] = error.code or error.param or "body"
        metrics.refusals.labels(error.code or "invalid_request").inc()
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(TrimtabError)
    async def unsuited(request: Request, error: TrimtabError) -> JSONResponse:
        return answer(request, refusal(error, "model"))  # such as models of unlike vocabularies under EFT

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, refusal_of(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 404:
            return answer(request, ApiError(404, f"there is no route {request.url.path}", code="not_found"))
        return answer(request, ApiError(error.status_code, error.detail, headers=headers))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(request, fault_of_server(request.state.request_id))
