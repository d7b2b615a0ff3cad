"""A small real server of OpenAI's completions protocol on the loopback address, over a language model of trimtab.

It behaves as vLLM does: it splits the text it is given into tokens, draws each choice by the request's seed and the
choice's index, counts prompt tokens once and completion tokens of all choices together, shows an unfinished character
as U+FFFD, and says in `stop_reason` which string stopped it. `faults` are answers to give before it serves again, and
a request for more tokens than `context` is refused in vLLM's words.

    with serving(model) as server:
        CompletionsModel(server.url, "tiny")
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trimtab.config.search import SamplingConfig
from trimtab.models.language_model import LanguageModel
from trimtab.records import Prompt
from trimtab.search.proposer import Fork, LanguageModelProposer


class Server:
    """`requests` are the bodies it was sent; with `dead` it hangs up; `vllm` False hides what OpenAI does not say."""

    def __init__(self, model: LanguageModel, *, vllm: bool = True, key: str | None = None) -> None:
        self.model, self.vllm, self.key = model, vllm, key
        self.requests: list[dict[str, Any]] = []
        self.faults: list[tuple[int, dict[str, str], bytes]] = []
        self.dead_after: int | None = None
        self.most_choices = 64
        self.context: int | None = None
        self.busy = self.busiest = 0
        self._one, self._working = threading.Lock(), threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.reply(self, json.loads(body))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()

    def reply(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._one:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            status, headers, text = self._answer(handler, body)
        finally:
            with self._one:
                self.busy -= 1
        if status == 0:
            handler.close_connection = True
            handler.connection.close()
            return
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        with self._one:
            self.requests.append(body)
            if self.dead_after is not None and len(self.requests) > self.dead_after:
                return 0, {}, b""
            if self.faults:
                return self.faults.pop(0)
        if self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}":
            return 401, {}, b'{"error": {"message": "Incorrect API key"}}'
        if handler.path != "/v1/completions":
            return 404, {}, b'{"error": {"message": "no such path"}}'
        wanted = len(self.model.vocabulary.encode_prompt(body["prompt"], "{prompt}")) + body["max_tokens"]
        if self.context is not None and wanted > self.context:
            said = f"This model's maximum context length is {self.context} tokens. However, you requested {wanted}."
            return 400, {}, json.dumps({"error": {"message": said, "type": "BadRequestError", "code": 400}}).encode()
        return 200, {"Content-Type": "application/json"}, json.dumps(self.complete(body)).encode()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a sound request; the model works on one at a time."""
        with self._working:
            return self._completed(body)

    def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        vocabulary = self.model.vocabulary
        prompt_ids = vocabulary.encode_prompt(body["prompt"], "{prompt}")
        count = min(body.get("n", 1), self.most_choices)
        sampling = SamplingConfig(
            temperature=body.get("temperature", 1.0), top_k=body.get("top_k", 0), top_p=body.get("top_p", 1.0)
        )
        stop = tuple(body.get("stop") or ())
        proposer = LanguageModelProposer(self.model, sampling, body.get("seed", 0), stop=stop)
        state = proposer.start([Prompt("any", body["prompt"])], body["max_tokens"])
        _, grown = proposer.propose(state, [Fork(0, slot, []) for slot in range(count)], body["max_tokens"])
        choices = []
        for index, each in enumerate(grown):
            before = vocabulary.tokenizer.decode(prompt_ids, skip_special_tokens=True)
            whole = vocabulary.tokenizer.decode([*prompt_ids, *each.token_ids], skip_special_tokens=True)
            text, reason = whole[len(before) :], None
            for string in stop:
                if string in text:
                    text, reason = text[: text.index(string)], string
            choice = {"index": index, "text": text, "finish_reason": "length" if each.finish is None else "stop"}
            choices.append({**choice, "stop_reason": reason} if self.vllm else choice)
        if body.get("echo"):
            choices[0]["logprobs"] = self._logprobs(prompt_ids, body["prompt"])
        read, written = len(prompt_ids), sum(len(each.token_ids) for each in grown)
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {"object": "text_completion", "model": body["model"], "choices": choices[::-1], "usage": usage}

    def _logprobs(self, ids: list[int], text: str) -> dict[str, Any]:
        """Of each token of the prompt but the first, with the place in the text where it begins."""
        tokenizer = self.model.vocabulary.tokenizer
        state = self.model.start([text], room=0).select([0])
        first = type(self.model).start_ids(self.model, [ids[:1]], len(ids))
        _, (logs,) = self.model.score(first, [0], [1], [ids[1:]])
        offsets = [len(tokenizer.decode(ids[:place], skip_special_tokens=True)) for place in range(len(ids))]
        assert state.ids == [ids]
        return {"text_offset": offsets, "token_logprobs": [None, *logs], "tokens": ids}


@contextlib.contextmanager
def serving(model: LanguageModel, **settings: Any) -> Iterator[Server]:
    server = Server(model, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
