"""A real server of `trimtab serve` on the loopback address, over tiny models in float64.

    with serving(tmp_path) as server:
        openai.OpenAI(base_url=server.url, api_key="none")

Its models are called `tiny`; `server.guided(...)` is what answers are compared with: the same decoder in Python.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tiny import llama, tokenizer
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.search import SamplingConfig
from trimtab.search.chunk_beam import Search
from trimtab.search.decoders import search_settings
from trimtab.search.guided_model import GuidedModel
from trimtab.serve.app import application
from trimtab.serve.command import bound_socket
from trimtab.serve.engine import Engine
from trimtab.serve.engine_parts import RoleParts
from trimtab.serve.gate import GateSettings
from trimtab.serve.loading import Served, Source
from trimtab.serve.requests import Limits
from trimtab.serve.server import Server, service_of

CHAT = (
    "{% for message in messages %}<start>{{ message['role'] }}: {{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant: {% endif %}"
)
SAMPLING = SamplingConfig(temperature=0.9, top_k=40)


def save_models(folder: Path) -> dict[str, Path]:
    """Three tiny models with one chat template, in folders of transformers."""
    folders = {}
    for role, seed in (("large", 4), ("tuned", 5), ("untuned", 3)):
        folders[role] = folder / "tiny" if role == "large" else folder / role
        llama(seed).float().save_pretrained(folders[role])
        written = tokenizer()
        written.chat_template = CHAT
        try:
            written.save_pretrained(folders[role])
        finally:
            written.chat_template = None  # the tokenizer is shared by all tests
    return folders


def source_of(folders: Mapping[str, Path], **guide: Any) -> Source:
    """What is served: the three models in float64; `guide` are more settings of the guide."""
    models = {role: {"name": str(folder), "dtype": "float64"} for role, folder in folders.items()}
    values = {
        "name": "tiny", "large": models["large"], "small": models["untuned"],
        "reward": {"by": "trimtab.rewards.concise:concise"},
        "guide": {"tuned": models["tuned"], "max_new_tokens": 16, "sampling": SAMPLING.model_dump(), **guide},
    }  # fmt: skip
    return Source(Experiment.model_validate(values))


class RunningServer:
    """A server in a thread of this process. `engine` can be looked into."""

    def __init__(self, served: Served, limits: Limits, settings: GateSettings) -> None:
        self.served = served
        self.engine = Engine(RoleParts(served.roles, served.gold), limits)
        self.service = service_of(served, self.engine, None)
        self._listener = bound_socket("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.address}/v1"
        ready = threading.Event()
        self._server = Server(application(self.service, settings), 5.0, ready.set)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        assert ready.wait(60), "the server does not start"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self.engine.close()
        self._listener.close()
        assert not self._thread.is_alive(), "the server does not stop"

    def guided(self, name: str = "base", *, seed: int = 0, stop: tuple[str, ...] = (), **settings: Any) -> GuidedModel:
        """The decoder of this name in Python; `settings` are of `SamplingConfig`, or `max_new_tokens`."""
        decoder = self.service.names.decoder(f"tiny:{name}")
        return self.guided_by(decoder, seed=seed, stop=stop, **settings)

    def guided_by(
        self, decoder: DecoderConfig, *, seed: int = 0, stop: tuple[str, ...] = (), max_new_tokens: int = 16,
        **sampling: Any,
    ) -> GuidedModel:  # fmt: skip
        parts = RoleParts(self.served.roles, self.served.gold)(decoder)
        search = Search(**search_settings(decoder), max_new_tokens=max_new_tokens)
        return GuidedModel(parts.model, parts.value, search, SAMPLING.model_copy(update=sampling), stop, seed)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", timeout=60, **more)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.address}{path}", json=body, timeout=60, **more)

    def idle(self, seconds: float = 20) -> bool:
        """Whether the engine has nothing to do any more, at the latest after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.engine.counters()
            if not (now.running or now.queued or now.rows):
                return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def serving(
    folder: Path, limits: Limits | None = None, settings: GateSettings | None = None, **guide: Any
) -> Iterator[RunningServer]:
    """A server over models in `folder`, which are made where they are missing."""
    folders = {role: folder / name for role, name in (("large", "tiny"), ("tuned", "tuned"), ("untuned", "untuned"))}
    if not folders["large"].exists():
        save_models(folder)
    served = Served(source_of(folders, **guide), Assets(), "tiny")
    server = RunningServer(served, limits or Limits(rows=64), settings or GateSettings())
    try:
        yield server
    finally:
        server.stop()
