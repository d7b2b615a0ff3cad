"""A client for JSON services over HTTP: requests with a timeout, retries with growing pauses, and one-line errors."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from trimtab.errors import ConfigurationError, DataError, EndpointError, TooLongError

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TOO_LONG_STATUS = frozenset({400, 413, 422})
TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|maximum (model|input|sequence) length|`inputs`", re.IGNORECASE
)
"""How servers (OpenAI, vLLM, SGLang, llama.cpp, text-generation-inference) name a text beyond their context."""
MAX_PAUSE = 60.0  # seconds
_log = logging.getLogger(__name__)


class Endpoint:
    """An HTTP service that takes and returns JSON. Requests are repeated here: httpx2 itself repeats only connections.

    Args:
        url: the address that requests are posted to.
        timeout: seconds to wait for each answer.
        attempts: how often a request is sent before it fails: with pauses of 1, 2, 4, ... up to 60 seconds, or as long
            as the service's `Retry-After` asks for.
        key_variable: the environment variable that holds the key, which is sent as a bearer token; None sends none.
        pause: waits for a number of seconds.

    Raises:
        ConfigurationError: the environment has no variable `key_variable`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        attempts: int = 6,
        key_variable: str | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self._attempts = attempts
        self._pause = pause
        headers = {}
        if key_variable is not None:
            if key_variable not in os.environ:
                raise ConfigurationError(f"the environment has no variable {key_variable}: put the key of {url} in it")
            headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
        self._client = httpx2.Client(timeout=timeout, headers=headers)

    def post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that the service answers. Several threads may call it at once.

        Raises:
            TooLongError: the service says that a text is longer than its model's context.
            EndpointError: all attempts failed, the request was refused, or the answer is not a JSON object.
            DataError: a text holds half of a character, which cannot be sent.
        """
        for attempt in range(1, self._attempts + 1):
            seconds = 2.0 ** (attempt - 1)
            try:
                answer = self._client.post(self.url, json=dict(body))
            except UnicodeEncodeError as error:
                half = error.object[max(0, error.start - 30) : error.end]
                raise DataError(
                    f"a request to {self.url} holds half of a character (a lone surrogate) at the end of {half!r}: "
                    "mend the text"
                ) from None
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise EndpointError(f"{self.url} is no address ({error}): give http://host:port/path") from None
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
            else:
                if answer.status_code not in RETRY_STATUS:
                    return self._json_object(answer)
                reason = f"{answer.status_code} {answer.reason_phrase}"
                asked = answer.headers.get("Retry-After", "")
                seconds = float(asked) if asked.isdecimal() else seconds
            if attempt < self._attempts:
                seconds = min(seconds, MAX_PAUSE)
                _log.warning("%s: %s; attempt %d of %d in %g s", self.url, reason, attempt + 1, self._attempts, seconds)
                self._pause(seconds)
        raise EndpointError(
            f"{self.url} does not answer ({reason}, {self._attempts} attempts): start it, and the same command goes on"
        )

    def _json_object(self, answer: httpx2.Response) -> dict[str, Any]:
        beginning = " ".join(answer.text.split())[:120]
        if answer.status_code in TOO_LONG_STATUS and TOO_LONG.search(answer.text):
            raise TooLongError(f"{self.url} refuses a text as too long ({beginning}): shorten the prompt")
        if not answer.is_success:
            raise EndpointError(
                f"{self.url} refuses the request ({answer.status_code}: {beginning}): mend the request or the service"
            )
        try:
            values = answer.json()
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise EndpointError(f"{self.url} answers {beginning!r}, which is no JSON object: mend the service")
        return values
