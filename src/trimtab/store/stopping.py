"""Ctrl-C and SIGTERM, which end a run in order, also where a library made an error of its own of them.

Python raises them in the midst of whatever the process does. Some libraries turn any exception into their own: pydantic
where it calls a serializer, Python and transformers where they import. The exception then only names the signal as what
came before it.

>>> try:
...     with stopping():
...         try:
...             raise KeyboardInterrupt
...         except BaseException as interrupt:
...             raise ImportError("cannot import it") from interrupt
... except KeyboardInterrupt:
...     print("stopped")
stopped
"""

import contextlib
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Inside, an exception that came of Ctrl-C or SIGTERM is replaced by the one that the signal raised."""
    try:
        yield
    except Exception as error:
        raise_stop(error)
        raise


def raise_stop(error: BaseException) -> None:
    """Raise the KeyboardInterrupt that led to an exception, if any."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    if seen is not None:
        raise seen from None
