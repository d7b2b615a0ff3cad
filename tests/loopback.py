"""A small real HTTP server on the loopback address, whose answers a test writes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]
"""Status, body (an object, or bytes as they are) and headers."""


class Asked:
    """What a server was asked: the bodies and headers of its requests, in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []


@contextmanager
def serving(answer: Callable[[Any], Answer]) -> Iterator[Asked]:
    """A server that answers each posted JSON object by `answer`, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.bodies.append(body)
            asked.headers.append(dict(self.headers))
            status, given, headers = answer(body)
            content = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked = Asked(f"http://127.0.0.1:{server.server_port}/score")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rewards(score: Callable[[Any, str], float | None]) -> Callable[[Any], Answer]:
    """A judge: what `score` gives each prompt and response."""

    def answer(body: Any) -> Answer:
        pairs = zip(body["prompts"], body["responses"], strict=True)
        return 200, {"rewards": [score(prompt, response) for prompt, response in pairs]}, {}

    return answer
