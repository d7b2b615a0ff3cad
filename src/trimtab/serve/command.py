"""`trimtab serve`: loads models, says how to call them, and serves until it is told to stop.

$ trimtab serve runs/quickstart --port 8000
"""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator

from trimtab.errors import ConfigurationError
from trimtab.executors.collector import importing
from trimtab.serve.options import ServeOptions

LIBRARIES = ("fastapi", "uvicorn", "sse_starlette", "prometheus_client")


def run_command(options: ServeOptions) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigurationError: a library, the key or the port is missing, or options do not go together.
        TrimtabError: the models cannot be loaded.
    """
    check_libraries()
    options.check()
    key = read_key(options.api_key_variable)
    with contextlib.closing(bound_socket(options.host, options.port)) as listener, _logging():
        with importing():
            from trimtab.models.load import quiet_libraries
            from trimtab.serve.server import serve

        with quiet_libraries():
            serve(options, key, listener, print)


def check_libraries() -> None:
    """Raise ConfigurationError where the libraries of the extra `serve` are not installed."""
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise ConfigurationError('the server\'s libraries are not installed: pip install "trimtab[serve]"')


def read_key(variable: str | None) -> str | None:
    """The key that clients must send; None where no variable is named.

    Raises:
        ConfigurationError: the variable is not set, or empty.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigurationError(f"the environment has no {variable}: set it to the key, or leave out the option")
    return key


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at the address, which nobody can connect to before it listens.

    Raises:
        ConfigurationError: the address is taken or not this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"{host}:{port} cannot be listened on ({reason}): give another --host or --port"
        ) from None
    return listener


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Inside, trimtab's log, the access log and uvicorn's warnings go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"))
    levels = {"trimtab": logging.INFO, "uvicorn": logging.WARNING, "sse_starlette": logging.WARNING}
    for name, level in levels.items():
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name in levels:
            logging.getLogger(name).removeHandler(handler)
