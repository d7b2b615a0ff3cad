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
import sys
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Inside, an exception that came of Ctrl-C or SIGTERM is replaced by the one that the signal raised.

    One that the calling code had before, such as a notebook that goes on after Ctrl-C, does not count.
    """
    earlier = {id(each) for each in chain_of(sys.exception())}
    try:
        yield
    except Exception as error:
        stops = [each for each in chain_of(error) if isinstance(each, KeyboardInterrupt) and id(each) not in earlier]
        if stops:
            raise stops[0] from None
        raise


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An exception and all that led to it, each once: a chain may lead back to itself."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if each is not None and id(each) not in found:
            found[id(each)] = each
            waiting += [each.__cause__, each.__context__]
    return list(found.values())
