"""The options of `trimtab serve`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trimtab.errors import ConfigurationError


@dataclass(frozen=True)
class ServeOptions:
    """What is served, where, and how much the server takes on.

    Args:
        source: The directory of a finished run, or an experiment file whose models are there.
        large: In place of a run or file, the model that is decoded: a folder, or a name of the catalogue or the hub.
        tuned: The tuned model of the guide.
        untuned: The untuned one that it was made from.
        template: What these models read a text in, with `{prompt}` in it, or `chat`.
        name: What clients call the model; by default the end of its own name.
        host: The address to listen on; 0.0.0.0 is all of the machine's.
        port: The port; 0 is any free one.
        api_key_variable: The environment variable that holds the key which clients must send.
        rows: How many candidates are decoded together.
        queue: How many requests may wait; more are answered 429.
        request_rows: The largest width x successors x n of one request.
        context: The most tokens of prompt and answer together, where the models could read more.
        max_tokens: The longest answer where a request does not say; by default what the run decoded.
        max_body: The largest body of a request, in bytes.
        drain_seconds: How long requests may go on after SIGTERM or Ctrl-C.
        log_prompts: Write the bodies of requests to the log.
        runs: The folder that holds run directories, where an experiment file tunes a model.
        path_map: A YAML file of model or data set names and the local folders they stand for.
    """

    source: Annotated[Path | None, Positional, arg(metavar="[RUN|FILE]")] = None
    large: str | None = None
    tuned: str | None = None
    untuned: str | None = None
    template: str = "{prompt}"
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key_variable: str | None = None
    rows: int | Literal["auto"] = "auto"
    queue: int = 256
    request_rows: int = 256
    context: int | None = None
    max_tokens: int | None = None
    max_body: int = 4 * 2**20
    drain_seconds: float = 30.0
    log_prompts: bool = False
    runs: Path = Path("runs")
    path_map: Path | None = None

    def check(self) -> None:
        """Raise ConfigurationError for options that do not go together, or are out of range."""
        if (self.source is None) == (self.large is None):
            raise ConfigurationError(
                "give a run directory or an experiment file to serve, or --large with a model's name"
            )
        if self.source is not None and (self.tuned or self.untuned):
            raise ConfigurationError(f"{self.source} names its own models: leave out --tuned and --untuned")
        least = {"rows": 1, "queue": 1, "request_rows": 1, "context": 2, "max_tokens": 1, "max_body": 1, "port": 0}
        for name, number in vars(self).items():
            if name in least and isinstance(number, int) and number < least[name]:
                raise ConfigurationError(f"--{name.replace('_', '-')} is {number}: give at least {least[name]}")
        if not 0 <= self.drain_seconds < math.inf:
            raise ConfigurationError(f"--drain-seconds is {self.drain_seconds}: give a number of seconds, 0 or more")
