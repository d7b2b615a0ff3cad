"""The report page in a real browser: nothing that axe objects to, nothing off the side, nothing fetched, keys suffice.

The page shown is a hard one: a model that writes markup, words without end, right-to-left text and long answers.
"""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator

from browser import LAPTOP, PHONE, SMALL_PHONE, chromium
from tiny_report import LONG, SCRIPT, WIDE, report
from tiny_study_report import study_report

PAPER, LETTER = (688, 971), (710, 950)  # A4 and Letter less margins of 14 mm, in CSS pixels
HARD = f" {SCRIPT}<img src=x onerror=alert(1)> שלום 🙂 {'endless' * 200} " + "and so on " * 300

pytestmark = pytest.mark.xdist_group("browser")  # one browser is enough for a machine


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return report(folder, text=HARD, prompt="Why " * 500 + SCRIPT, set_aside=1)


@pytest.fixture
def visit(browser, file):
    """Open the page at a size and in a mode; what it fetched and what went wrong is gathered in `page.faults`."""
    contexts = []

    def at(size, mode="light", file=file):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=mode)
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("dialog", lambda dialog: (page.faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.faults.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield at
    for context in contexts:
        context.close()


def objections(page):
    """What axe objects to, as `rule (impact): number of elements`; inside folded texts too."""
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return Axe().run(page).generate_snapshot()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_axe_objects_to_nothing(visit, size, mode):
    page = visit(size, mode)
    assert objections(page) == ""
    assert page.faults == []


def test_axe_sees_planted_faults(visit):
    page = visit(LAPTOP)
    page.evaluate(
        "document.querySelector('.brief').style.color = document.querySelector('.brief dd').style.color = '#cccccc';"
        "document.querySelector('figure div').removeAttribute('aria-label')"
    )
    found = objections(page)
    assert "color-contrast (serious)" in found and "role-img-alt (serious)" in found


@pytest.mark.parametrize("size", [LAPTOP, PHONE, SMALL_PHONE], ids=["laptop", "phone", "small phone"])
def test_the_page_never_scrolls_sideways(visit, size):
    page = visit(size)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("size, drawing", [(LAPTOP, "wide"), (PHONE, "narrow")], ids=["laptop", "phone"])
def test_all_sections_and_figures_are_to_be_seen_at_a_legible_size(visit, size, drawing):
    page = visit(size)
    assert [heading.inner_text() for heading in page.locator("h2").all()] == [
        "Results", "Figures", "Examples", "The run", "Configuration"
    ]  # fmt: skip
    assert page.locator("figure svg:visible").count() == page.locator(f"figure .{drawing} svg:visible").count() == 4
    for figure in page.locator("figure svg:visible").all():
        points = float(figure.get_attribute("viewBox").split()[2])
        assert figure.bounding_box()["width"] / points > 1.2  # so that text of 9 points is at least 11 pixels high


def test_figures_turn_dark_with_the_page(visit):
    def brightness(mode):
        path = "document.querySelector('figure svg path')"
        colour = visit(LAPTOP, mode).evaluate(f"getComputedStyle({path}).fill")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert brightness("light") > 600 and brightness("dark") < 150


def test_keys_suffice(visit):
    page = visit(PHONE)
    focus = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focus}.textContent") == "Skip to the results"
    assert page.evaluate(f"{focus}.getBoundingClientRect().left") >= 0  # hidden until it has the focus
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focus}.getAttribute('aria-label')") == "Table of results"
    assert page.evaluate(f"getComputedStyle({focus}).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
    while page.evaluate(f"{focus}.tagName") != "SUMMARY":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focus}.parentElement.open")


def test_paper_is_white_shows_wide_figures_and_cuts_nothing(visit, tmp_path):
    page = visit(PAPER, "dark", report(tmp_path))
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.querySelector('figure svg path')).fill") == "rgb(255, 255, 255)"
    assert page.locator("figure .wide svg:visible").count() == 4
    for table in map(Locator.bounding_box, page.locator("table.results").all()):
        assert table["x"] >= 0 and table["x"] + table["width"] <= PAPER[0]
    assert page.pdf(format="A4").startswith(b"%PDF")


FONTS = {
    "its own": "",
    "DejaVu Sans": "* { font-family: 'DejaVu Sans', Verdana, sans-serif !important }",
    "Liberation Serif": "* { font-family: 'Liberation Serif', 'Times New Roman', serif !important }",
    "wide and large": "* { font-family: monospace !important } html { font-size: 110% }",
}
SIZES = {"laptop": LAPTOP, "phone": PHONE, "small phone": SMALL_PHONE, "A4": PAPER, "Letter": LETTER}
STICKS_OUT = """() => {
    // texts beyond the box that they stand in, and boxes beyond the page; what scrolls by itself may be wider inside
    document.querySelectorAll('details').forEach(each => each.open = true)
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) {
        const node = walker.currentNode
        if (!node.textContent.trim() || node.parentElement.closest('.unseen, .skip')) continue
        let box = node.parentElement
        while (getComputedStyle(box).display === 'inline') box = box.parentElement
        if (getComputedStyle(box).display === 'none' || !box.checkVisibility()) continue
        const range = document.createRange(), outer = box.getBoundingClientRect()
        const scroller = box.closest('.scroll, pre'), style = getComputedStyle(box)
        const scrolls = scroller && getComputedStyle(scroller).overflowX === 'auto'
        if (scroller === box && scrolls) continue
        const slack = style.whiteSpace === 'pre-wrap' ? 0.7 * parseFloat(style.fontSize) : 1  // a space at a line's end
        range.selectNodeContents(node)
        for (const text of range.getClientRects()) {
            const cut = text.left < outer.left - 1 || text.right > outer.right + slack ||
                (!scrolls && text.right > innerWidth + slack)
            if (cut) found.push(`${node.textContent.trim().slice(0, 60)}: ${text.left}-${text.right} of ` +
                `${outer.left}-${outer.right}`)
        }
    }
    return found
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind; the long ones with names of 80 characters, models of 96, and every column."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("report", "long report", "preliminary", "study", "long study"):
        (folder / name).mkdir()
    return {
        "report": report(folder / "report"),
        "long report": report(folder / "long report", text=HARD, experiment=LONG, set_aside=1, **WIDE),
        "preliminary": report(folder / "preliminary", count=20, preliminary=True),
        "study": study_report(folder / "study"),
        "long study": study_report(folder / "long study", long=True),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["report", "long report", "study", "long study"])
def test_nothing_is_cut_or_overlaps(visit, pages, kind, size):
    """In whatever font a reader has, and with the longest names that there may be."""
    page = visit(SIZES[size], file=pages[kind])
    if size in ("A4", "Letter"):
        page.emulate_media(media="print")
    page.evaluate("document.head.append(document.createElement('style'))")
    for font, style in FONTS.items():
        page.evaluate("style => { document.head.lastElementChild.textContent = style }", style)
        assert page.evaluate(STICKS_OUT) == [], font
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], font


@pytest.mark.parametrize("kind", ["report", "long report"])
def test_a_laptop_shows_every_table_whole(visit, pages, kind):
    """The last column was once cut at 1,280 and at 1,600 pixels, where its box had to be scrolled."""
    for size in (LAPTOP, (1600, 1000)):
        page = visit(size, file=pages[kind])
        page.add_style_tag(content=FONTS["DejaVu Sans"])  # wider than most
        assert page.locator(".scroll").count() == 3
        boxes = page.evaluate(
            "[...document.querySelectorAll('.scroll')].map(each => [each.scrollWidth, each.clientWidth])"
        )
        assert all(inside <= outside for inside, outside in boxes), boxes


def test_what_sticks_out_is_found(visit, pages):
    page = visit(PAPER, file=pages["long report"])
    page.emulate_media(media="print")
    page.add_style_tag(content=".results th, .results td { white-space: nowrap !important; font-size: 14pt }")
    assert page.evaluate(STICKS_OUT)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("kind", ["long report", "preliminary", "study", "long study"])
def test_axe_objects_to_no_page(visit, pages, kind, mode):
    page = visit(LAPTOP, mode, pages[kind])
    assert objections(page) == ""
    assert page.faults == []


@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("kind", ["report", "long report", "study", "long study"])
def test_pages_print(visit, pages, kind, paper):
    assert visit(LAPTOP, file=pages[kind]).pdf(format=paper).startswith(b"%PDF")
