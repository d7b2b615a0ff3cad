"""A JSON service behind HTTP: requests with a timeout, repeated with growing pauses, and one-line errors.

>>> Endpoint("http://127.0.0.1:8000/score").post({"prompts": [], "responses": []})  # doctest: +SKIP
{'rewards': []}
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from trimtab.errors import ConfigurationError, DataError, EndpointError, TooLongError

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that say: not now."""
REFUSALS = frozenset({400, 413, 422})
TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|maximum (model|input|sequence) length|`inputs`", re.IGNORECASE
)
"""What servers (OpenAI, vLLM, SGLang, llama.cpp, text-generation-inference) say of a text beyond their context."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; each pause is twice the one before
_log = logging.getLogger(__name__)


class Endpoint:
    """A service that answers JSON with JSON.

    Args:
        url: where requests are posted to.
        timeout: seconds to wait for an answer, each time.
        attempts: how often a request is made before it is given up: with pauses of 1, 2, 4, ... up to 60 seconds, or
            of as many as the service asks for by `Retry-After`.
        key_variable: the environment variable that holds the key, sent as a bearer token; none is sent without.
        pause: what waits.

    Raises:
        ConfigurationError: there is no such environment variable.
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
        """The JSON object that is answered. May be called from several threads.

        Raises:
            TooLongError: the service says that a text is longer than its model's context.
            EndpointError: no answer after all attempts, a refusal, or an answer that is no JSON object.
            DataError: a text holds half of a character, which cannot be sent.
        """
        for attempt in range(1, self._attempts + 1):
            answer: httpx2.Response | None = None
            try:
                answer = self._client.post(self.url, json=dict(body))
                reason = f"{answer.status_code} {answer.reason_phrase}"
            except UnicodeEncodeError as error:
                half = error.object[max(0, error.start - 30) : error.end]
                raise DataError(
                    f"what {self.url} is to be asked holds half of a character (a lone surrogate) at the end of "
                    f"{half!r}: mend the text"
                ) from None
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise EndpointError(f"{self.url} is no address ({error}): give http://host:port/path") from None
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
            if answer is not None and answer.status_code not in AGAIN:
                return self._object(answer)
            if attempt < self._attempts:
                seconds = _pause_of(answer, attempt)
                _log.warning("%s: %s; attempt %d of %d in %g s", self.url, reason, attempt + 1, self._attempts, seconds)
                self._pause(seconds)
        raise EndpointError(
            f"{self.url} does not answer ({reason}, {self._attempts} attempts): start it, and the same command goes on"
        )

    def _object(self, answer: httpx2.Response) -> dict[str, Any]:
        shown = " ".join(answer.text.split())[:120]
        if answer.status_code in REFUSALS and TOO_LONG.search(answer.text):
            raise TooLongError(f"{self.url} refuses a text as too long ({shown}): shorten the prompt")
        if not answer.is_success:
            raise EndpointError(f"{self.url} refuses the request ({answer.status_code}: {shown}): mend either")
        try:
            values = answer.json()
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise EndpointError(f"{self.url} answers {shown!r}, which is no JSON object: mend the service")
        return values


def _pause_of(answer: httpx2.Response | None, attempt: int) -> float:
    """Seconds until the next attempt."""
    asked = "" if answer is None else answer.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdecimal() else FIRST_PAUSE * 2.0 ** (attempt - 1)
    return min(seconds, LONGEST_PAUSE)
