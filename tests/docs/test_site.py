"""The documentation's site is built without a warning, names all that is public, and fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page

import trimtab
from browser import LAPTOP, PHONE, chromium

pytestmark = pytest.mark.xdist_group("browser")  # one browser is enough for a machine
DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, folder / "html", "-d", folder / "read"]
    built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_every_page_is_in_the_table_of_contents(site: Path) -> None:
    """In a list of the front page, from which the table of contents comes."""
    page = (site / "index.html").read_text(encoding="utf-8")
    contents = page[page.index('<div class="sidebar-tree">') : page.index("</aside>")]
    assert set(re.findall(r'href="([\w/-]+)\.html"', contents)) == set(PAGES) - {"index"}
    assert re.findall(r'class="caption-text">([^<]+)<', contents) == ["Tutorial", "How-to", "Reference", "Explanation"]


def test_every_public_name_has_its_docstring(site: Path) -> None:
    page = (site / "python.html").read_text(encoding="utf-8")
    for name in trimtab.__all__:
        assert re.search(rf'id="trimtab\.(?:[\w.]+\.)?{name}"', page), name
    assert "Settings of the search" in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link[^>]+href="([^"]+)"', text)
        assert [one for pair in loaded for one in pair if re.match(r"(?:https?:)?//", one)] == [], file.name


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served: from `file:` a search may not read the pages whose passages it shows."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of the browser that notes errors, and requests that leave the site, in `faults`."""
    page = browser.new_page()
    page.faults = faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else faults.append(request.url)
    )
    yield page
    page.close()


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_no_page_scrolls_sideways(address: str, page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for name in PAGES:
        page.goto(f"{address}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert page.faults == [], name


def test_a_search_finds_a_page(address: str, page: Page) -> None:
    page.goto(f"{address}/search.html?q=headroom")
    page.wait_for_selector("#search-results li a")
    links = page.eval_on_selector_all("#search-results a", "found => found.map(link => link.href)")
    assert any("glossary.html" in link for link in links) and page.faults == []
