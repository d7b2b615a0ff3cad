"""A stand-in of the model hub on the loopback address: it makes repositories and takes commits of small files.

with hub() as server:
    os.environ["HF_ENDPOINT"] = server.url
"""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """`repositories` holds each one's visibility and files; requests with another token are refused.

    A request whose path ends in `breaks` gets no answer, or `status` if that is not 0.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str] = {}
        self.url = ""
        self.breaks: str | None = None
        self.status = 0

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        if self.breaks is not None and path.endswith(self.breaks):
            return self.status, {"error": "the hub has a bad day"}
        if path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'me'}/{values['name']}"
            if name in self.repositories:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.repositories[name], self.visibility[name] = {}, values["visibility"]
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":  # of a model card
            return 200, {"errors": [], "warnings": []}
        _, _, _, owner, repository, *rest = path.split("/")
        files = self.repositories[f"{owner}/{repository}"]
        if method == "GET":
            return 200, {"id": f"{owner}/{repository}", "sha": "1" * 40, "siblings": []}
        if rest[0] == "preupload":
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if rest[0] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            place = f"{self.url}/{owner}/{repository}/commit/1"
            return 200, {"commitUrl": place, "commitOid": "1" * 40, "success": True}
        return 404, {"error": path}


@contextlib.contextmanager
def hub(token: str = "t0ken") -> Iterator[Hub]:
    made = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            path = self.path.partition("?")[0]
            status, values = made.answer(self.command, path, self.headers["Authorization"], body)
            if not status:
                self.close_connection = True
                return
            text = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
