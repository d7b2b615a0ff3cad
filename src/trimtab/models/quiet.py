"""Silence of the `datasets` library, which shows a progress bar for each table that it writes or maps."""

import contextlib
from collections.abc import Iterator

import datasets


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """Inside, `datasets` shows no progress bars."""
    enabled = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
