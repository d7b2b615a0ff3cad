"""The machine's Chromium, for tests of pages."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LAPTOP, PHONE, SMALL_PHONE = (1280, 900), (390, 844), (320, 568)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser. Without one the test is skipped, and fails where the variable CI is set."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(path).exists():
            lacking = (
                "no Chromium here, so the page is not opened: `apt install chromium`, `brew install chromium` or "
                "`playwright install chromium` makes this test run"
            )
            pytest.fail(lacking) if os.environ.get("CI") else pytest.skip(lacking)
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
