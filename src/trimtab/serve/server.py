"""The server as a process: models, engine, application and uvicorn, put together and taken down in order."""

import contextlib
import json
import logging
import math
import shlex
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from trimtab.assets.resolve import Assets
from trimtab.executors.collector import set_apart
from trimtab.models.own_thread import in_own_thread
from trimtab.serve.app import application
from trimtab.serve.engine import Engine
from trimtab.serve.engine_parts import RoleParts
from trimtab.serve.gate import GateSettings
from trimtab.serve.loading import Served, Source, of_file, of_models, of_run
from trimtab.serve.metrics import Metrics
from trimtab.serve.options import ServeOptions
from trimtab.serve.requests import Limits
from trimtab.serve.service import Defaults, Service

KEEP_ALIVE_SECONDS = 15  # how long a connection may wait for its next request
GOODBYE_SECONDS = 5  # after the drain, in which the engine ends its step and clients get what is left
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_log = logging.getLogger("trimtab.serve")


def serve(options: ServeOptions, key: str | None, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Load the models, say how to call them, and serve until SIGTERM or Ctrl-C."""
    service = load_service(options)
    try:
        host, port = listener.getsockname()[:2]
        if options.host not in LOOPBACK and key is None:
            _log.warning("anybody who reaches %s:%d can send requests: set a key with --api-key-variable", host, port)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        text = announcement(address, service.names.listed(), options.api_key_variable)
        app = application(service, GateSettings(key, options.max_body, options.log_prompts))
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has stopped
            server = Server(app, options.drain_seconds, lambda: say(text), service.drain)
            server.run(sockets=[listener])
    finally:
        service.engine.close()


def replica(options: ServeOptions, key: str | None = None) -> ASGIApp:
    """The application with its models loaded, for other servers of ASGI such as Ray Serve's replicas."""
    return application(load_service(options), GateSettings(key, options.max_body, options.log_prompts))


def load_service(options: ServeOptions) -> Service:
    """What the routes answer with: the models loaded, and an engine over them.

    Raises:
        ConfigurationError: an option is out of range.
        TrimtabError: the models cannot be loaded.
    """
    options.check()
    assets = Assets(path_map=options.path_map)
    served = in_own_thread(lambda: Served(_source(options, assets), assets, options.name))
    set_apart()  # models and libraries: a collection among answers would hold all of them up
    rows = served.rows(options.rows)
    limits = Limits(rows=rows, queue=options.queue, request_rows=options.request_rows, context=options.context)
    return service_of(served, Engine(RoleParts(served.roles, served.gold), limits), options.max_tokens)


def service_of(served: Served, engine: Engine, max_tokens: int | None) -> Service:
    """What the routes answer with."""
    guide = served.experiment.guide
    metrics = Metrics()
    metrics.watch(engine)
    return Service(
        engine,
        served.names,
        metrics,
        Defaults(guide.sampling, guide.stop, guide.max_new_tokens if max_tokens is None else max_tokens),
        served.conversations,
        served.gold,
        served.experiment.reward.entry.unit,
    )


class Server(uvicorn.Server):
    """Serves an application; `ready` is called once connections are taken.

    After a signal no connection is taken any more, and requests that run may go on for `drain_seconds`. `drain` is
    called with this number then, in a thread of its own, and has the rest refused when the time is over. Their clients
    get this answer within `GOODBYE_SECONDS`, after which their connections are cut.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain_seconds: float,
        ready: Callable[[], None] = lambda: None,
        drain: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(drain_seconds) + GOODBYE_SECONDS,
        )
        super().__init__(config)
        self._ready, self._drain, self._drain_seconds = ready, drain, drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain = threading.Thread(target=self._drain, args=(self._drain_seconds,), name="trimtab-drain", daemon=True)
        drain.start()
        await super().shutdown(sockets)


def _source(options: ServeOptions, assets: Assets) -> Source:
    if options.large is not None:
        return of_models(options.large, options.tuned, options.untuned, options.template)
    assert options.source is not None
    if options.source.is_dir():
        return of_run(options.source)
    return of_file(options.source, options.runs, assets)


def announcement(address: str, names: list[str], key_variable: str | None) -> str:
    """What the terminal says once the server answers: where, what, and a line that calls it."""
    body = json.dumps({"model": names[-1], "prompt": "I really", "max_tokens": 40, "seed": 0})
    key = f' -H "Authorization: Bearer ${key_variable}"' if key_variable else ""
    return "\n".join(
        [
            f"trimtab serves {address}/v1",
            f"models: {', '.join(names)}",
            f"try: curl {address}/v1/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            f"or open {address}/ in a browser",
        ]
    )
