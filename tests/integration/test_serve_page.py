"""The page of `trimtab serve` in a real browser, over a real server with tiny models."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from browser import LAPTOP, PHONE, SMALL_PHONE, chromium
from serving import RunningServer, serving
from trimtab.rewards.concise import concise
from trimtab.serve.gate import GateSettings
from trimtab.serve.page_files import PAGE
from trimtab.serve.requests import Limits

PROMPT = "I really liked"
HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'> & <b>bold</b>"
SECONDS = 30_000  # milliseconds that an answer may take on a busy machine

pytestmark = pytest.mark.xdist_group("browser")  # one browser is enough for a machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    with serving(models, Limits(rows=64, request_rows=64)) as running:
        yield running


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, server: RunningServer) -> Iterator[Visit]:
    """Open the page of a server in a browser without a past. What went wrong on it, and what it asked of others than
    its server, is gathered in `faults`, which must be empty at the end."""
    contexts, faults = [], []

    def at(
        size: tuple[int, int] = LAPTOP, mode: str = "light", *, fragment: str = "", address: str = server.address,
        refused: bool = False,
    ) -> Page:  # fmt: skip
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=mode)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = context.new_page()
        if not refused:  # Chromium writes refusals to the console
            page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(address) else None)
        page.goto(f"{address}/{fragment}")
        page.wait_for_selector(".panel, #key-form:not([hidden])")
        return page

    yield at
    for context in contexts:
        context.close()
    assert faults == []


def panels(page: Page) -> list[Locator]:
    return page.locator(".panel").all()


def choose(page: Page, index: int, model: str, **settings: float) -> None:
    panel = page.locator(".panel").nth(index)
    panel.get_by_label("Decoder").select_option(model)
    fill(panel, **settings)


def fill(place: Page | Locator, **settings: float) -> None:
    for name, value in settings.items():
        place.locator(f"input[name={name}]").evaluate(
            "(input, value) => { input.closest('details').open = true; input.value = value; "
            "input.dispatchEvent(new Event('input')) }", str(value),
        )  # fmt: skip


def write(page: Page) -> None:
    """Begin, and wait for the end of all answers."""
    page.locator("#write").click()
    ended(page)


def ended(page: Page) -> None:
    page.wait_for_function("""() => {
        const panels = [...document.querySelectorAll('.panel')], done = '.numbers > div, .fault:not([hidden])'
        return panels.length && panels.every(each => !each.matches('.writing') && each.querySelector(done))
    }""")
    expect(page.locator("#write")).to_have_text("Write")


def facts(panel: Locator) -> dict[str, str]:
    return dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))


def text_of(panel: Locator) -> str:
    return panel.locator(".text").text_content() or ""


def objections(page: Page) -> str:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return Axe().run(page).generate_snapshot()


def test_two_decoders_stream_side_by_side(visit: Visit, server: RunningServer) -> None:
    page = visit()
    assert [panel.get_by_label("Decoder").input_value() for panel in panels(page)] == ["tiny", "tiny:cbs-4-4-5"]
    page.evaluate("""() => {
        window.seen = []
        document.querySelectorAll('.panel').forEach((panel, index) => new MutationObserver(() => {
            seen.push([index, panel.querySelector('.text').textContent.length])
        }).observe(panel.querySelector('.text'), { childList: true, characterData: true, subtree: true }))
    }""")
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    fill(page, seed=3, max_tokens=40)
    write(page)
    seen = page.evaluate("seen")
    lengths = [[length for index, length in seen if index == panel] for panel in (0, 1)]
    assert all(len({*each}) > 4 for each in lengths)  # both grew piece by piece
    order = [index for index, _ in seen]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0) and order.index(0) < order.index(1) + len(order) // 2
    for panel, name in zip(panels(page), ("base", "cbs-4-4-5"), strict=True):
        (hypotheses,) = server.guided(name, seed=3, max_new_tokens=40).hypotheses([PROMPT])
        best, shown = hypotheses[0], facts(panel)
        assert text_of(panel) == best.text
        assert shown["Tokens returned"] == str(len(best.token_ids))
        assert shown["Decoder"] == name and shown["Finish"] == {"eos": "stop"}.get(str(best.finish), best.finish)
        assert shown["Reward"] == f"{concise([PROMPT], [best.text])[0]:.2f} points".replace("-", "−")
        assert ("Value" in shown) == (name != "base")
        assert re.fullmatch(r"[\d,]+ ms", shown["Time"]) and re.fullmatch(r"[\d,]+ ms", shown["First text"])
        assert re.fullmatch(r"[\d.]+ [kMG]", shown["FLOPs"]) and int(shown["Tokens drawn"]) >= len(best.token_ids)
    assert facts(panels(page)[1])["Value"] == f"{best.value:.2f}".replace("-", "−")


def test_the_tree_has_every_candidate_and_its_kept_ones_lead_to_the_text(visit: Visit, server: RunningServer) -> None:
    page = visit()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    choose(page, 1, "tiny:cbs-4-4-5", width=2, successors=3, chunk=4)
    fill(page, seed=7, max_tokens=12)
    expect(page.locator("[role=treeitem]")).to_have_count(0)
    write(page)
    asked = {
        "model": "tiny:cbs-2-3-4", "prompt": PROMPT, "seed": 7, "max_tokens": 12, "stream": True,
        "trimtab": {"steps": True},
    }  # fmt: skip
    lines = [line[6:] for line in server.post("/v1/completions", asked).text.splitlines() if line[:6] == "data: "]
    events = [json.loads(line) for line in lines[:-1]]
    steps = [event["trimtab"]["step"] for event in events if not event["choices"]]
    candidates = [each for step in steps for each in step["candidates"] if not each["held"]]
    panel = panels(page)[1]
    items = panel.locator("[role=treeitem]")
    assert items.count() == len(candidates) > 10
    assert panel.locator("summary").last.inner_text() == f"Search: {len(steps)} steps, {len(candidates)} candidates"
    assert panels(page)[0].locator(".search").is_hidden()  # nothing was searched there
    worths = items.locator("> .row > .worth").all_text_contents()
    assert sorted(worths) == sorted(f"{each['value']:.2f}".replace("-", "−") for each in candidates)
    fates = items.locator("> .row > .fate").all_text_contents()
    assert fates.count("dropped: not among the best 2") == sum(each["kept"] is None for each in candidates)
    path = panel.locator(".path > .row")
    followed = "".join(path.locator(".added").all_text_contents()).replace("(no text)", "")
    assert followed == text_of(panel).replace("\n", "↵")
    assert all(fate.startswith("kept") for fate in path.locator(".fate").all_text_contents())
    assert path.last.locator(".fate").inner_text().endswith(", returned")
    assert path.last.is_visible() and path.count() == len(steps)


def test_branches_that_the_search_has_left_fold_up_and_keys_open_them(visit: Visit) -> None:
    page = visit()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    choose(page, 1, "tiny:cbs-4-4-5", width=3, successors=3, chunk=2)
    fill(page, seed=5, max_tokens=16)
    write(page)
    tree = panels(page)[1].get_by_role("tree", name="Candidates")
    folded = tree.locator("[aria-expanded=false]")
    assert folded.count() > 0 and tree.locator("[aria-expanded=false] .path").count() == 0
    assert tree.locator("[tabindex='0']").count() == 1
    tree.locator("[tabindex='0']").focus()
    focused = page.locator("*:focus")
    page.keyboard.press("Home")
    first = focused.text_content()
    expect(focused).to_have_attribute("role", "treeitem")
    page.keyboard.press("End")
    assert focused.text_content() != first
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    assert focused.text_content() == first
    while focused.get_attribute("aria-expanded") is None:
        page.keyboard.press("ArrowDown")
    was = focused.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-expanded", str(not was).lower())
    if was:
        page.keyboard.press(" ")
    opened = focused.text_content()
    page.keyboard.press("ArrowRight")
    assert focused.text_content() != opened  # the first of its children
    page.keyboard.press("ArrowLeft")
    assert focused.text_content() == opened
    page.keyboard.press("ArrowLeft")
    expect(focused).to_have_attribute("aria-expanded", "false")
    focused.locator("> .row").click()
    expect(focused).to_have_attribute("aria-expanded", "true")


def test_a_link_brings_the_same_answers_in_another_browser(visit: Visit) -> None:
    page = visit()
    page.get_by_role("textbox", name="Prompt").fill("Was it good? & #1 = ü")
    page.get_by_label("a message of a chat").check()
    choose(page, 0, "tiny:eft-0.5", beta=0.25)
    choose(page, 1, "tiny:bon-16", successors=5)
    page.get_by_role("button", name="Add a decoder").click()
    choose(page, 2, "tiny:cbs-4-4-5", chunk=3)
    fill(page, seed=11, max_tokens=9, temperature=1.2, top_p=0.9, top_k=0)
    write(page)
    answers = [(text_of(panel), facts(panel)["Decoder"]) for panel in panels(page)]
    assert [decoder for _, decoder in answers] == ["eft-0.25", "bon-5", "cbs-4-4-3"]
    fill(page, seed=12)  # what is typed afterwards is not part of the link
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#status")).to_have_text(re.compile("link"))
    other = visit(PHONE, "dark", fragment=page.evaluate("location.hash"))
    ended(other)
    assert [(text_of(panel), facts(panel)["Decoder"]) for panel in panels(other)] == answers
    assert other.get_by_role("textbox", name="Prompt").input_value() == "Was it good? & #1 = ü"
    assert other.locator("input[name=seed]").input_value() == "11"


def test_a_link_may_name_a_decoder_that_is_not_listed_and_says_which_is_unknown(visit: Visit) -> None:
    fragment = f'#prompt={PROMPT}&max_tokens=4&seed=1&decoder={{"model":"tiny:bon-3"}}&decoder={{"model":"a"}}'
    page = visit(fragment=fragment, refused=True)
    ended(page)
    known, unknown = panels(page)
    assert facts(known)["Decoder"] == "bon-3"
    expect(unknown.locator(".fault")).to_have_text(re.compile("there is no model 'a'"))
    assert panels(visit(fragment="#prompt=x&decoder={broken"))[0].get_by_label("Decoder").input_value() == "tiny"


@pytest.mark.parametrize(
    ("size", "mode"), [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "dark"), (SMALL_PHONE, "light")]
)
def test_axe_objects_to_nothing_and_nothing_is_off_the_side(visit: Visit, size: tuple[int, int], mode: str) -> None:
    page = visit(size, mode, refused=True)
    assert objections(page) == ""
    page.get_by_role("textbox", name="Prompt").fill("endless" * 20)
    choose(page, 0, "tiny:cbs-4-4-5", width=3)
    choose(page, 1, "tiny", width=7)  # refused
    fill(page, seed=2, max_tokens=10)
    write(page)
    expect(panels(page)[1].locator(".fault")).to_have_text(re.compile("width is 7 without a chunk: give chunk"))
    page.get_by_role("tree").locator("[tabindex='0']").focus()
    assert objections(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_what_a_prompt_or_a_model_writes_is_no_markup(visit: Visit) -> None:
    page = visit()
    step = {
        "choice": 0, "number": 0, "candidates": [
            {"text": HOSTILE, "value": 1, "finish": "eos", "parent": 0, "kept": 0, "held": False, "dropped": ""},
            {"text": HOSTILE * 2, "value": 0, "finish": None, "parent": 0, "kept": None, "held": False,
             "dropped": HOSTILE},
        ],
    }  # fmt: skip
    report = {"decoder": HOSTILE, "seed": 1, "values": [1], "rewards": [None], "tokens_drawn": 4, "flops": 1e12}
    usage = {"completion_tokens": 2}
    events: list[dict[str, Any]] = [
        {"choices": [], "trimtab": {"step": step}},
        {"choices": [{"text": HOSTILE, "finish_reason": None}]},
        {"choices": [{"text": "", "finish_reason": "stop"}], "trimtab": report},
        {"choices": [], "usage": usage},
    ]
    body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events) + "data: [DONE]\r\n\r\n"
    page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.get_by_role("textbox", name="Prompt").fill(HOSTILE)
    write(page)
    for panel in panels(page):
        assert text_of(panel) == HOSTILE
        assert panel.locator(".added").all_text_contents() == [HOSTILE, HOSTILE * 2]
        assert panel.locator(".fate").last.text_content() == f"dropped: {HOSTILE}"
        assert panel.locator(".text *, .row *").locator("script, img, b").count() == 0
    page.reload()  # the address holds the prompt
    ended(page)
    assert page.get_by_role("textbox", name="Prompt").input_value() == HOSTILE
    assert page.evaluate("window.hit") is None


def test_no_script_but_the_pages_own_runs_and_none_is_inline(visit: Visit, server: RunningServer) -> None:
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    html = PAGE["index.html"].content.decode()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|https?://", html)
    for name, file in PAGE.items():
        answer = server.get(f"/page/{name}")
        assert (answer.content, answer.headers["content-type"]) == (file.content, file.media_type)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(
            rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3)", file.content
        )
    page = visit(refused=True)  # the browser says that it blocks the script
    page.evaluate("""() => {
        const script = document.createElement('script'), image = document.createElement('div')
        script.textContent = 'window.hit = 1'
        image.innerHTML = '<img src=x onerror="window.hit = 1">'
        document.body.append(script, image)
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None


def test_the_page_and_the_list_of_models_do_not_wait_for_the_engine(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(*_: object) -> None:
        raise AssertionError("the engine was asked")

    for name in ("submit", "context", "counters", "tokenize", "between_steps"):
        monkeypatch.setattr(server.engine, name, untouched)
    for path in ("/", "/page/page.js", "/page/house.css", "/v1/models"):
        assert server.get(path).status_code == 200
    for path in ("/page/nothing.js", "/page/..%2fgate.py", "/page/../gate.py", "/page/"):
        assert server.get(path).status_code == 404, path


def test_a_server_with_a_key_asks_for_it_and_a_full_one_says_when_to_try_again(visit: Visit, models: Path) -> None:
    with serving(models, Limits(queue=0, rows=16), GateSettings(key="secret-key")) as locked:
        assert locked.get("/").status_code == locked.get("/page/page.js").status_code == 200
        assert locked.get("/page/../v1/models").status_code in (401, 404)
        page = visit(address=locked.address, refused=True)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        assert objections(page) == ""
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#fault:not([hidden])")).to_have_text(re.compile("key is missing or wrong"))
        field.fill("secret-key")
        page.keyboard.press("Enter")
        expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
        assert page.locator("#fault").is_hidden() and field.is_hidden()
        page.keyboard.type("x")
        page.keyboard.press("Control+Enter")
        for panel in panels(page):
            expect(panel.locator(".fault")).to_have_text(re.compile(r"requests wait already.* Write again in \d+ s\."))
        assert "secret-key" not in page.url and page.evaluate("localStorage.length") == 0
        page.reload()  # the tab still has the key
        expect(page.get_by_role("textbox", name="Prompt")).to_have_value("x")


def test_keys_suffice_and_the_status_does_not_chatter(visit: Visit) -> None:
    page = visit()
    expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
    page.evaluate("""() => {
        window.spoken = []
        const status = document.getElementById('status')
        new MutationObserver(() => spoken.push(status.textContent)).observe(status, { childList: true })
    }""")
    page.keyboard.type(PROMPT)
    focused = page.locator("*:focus")

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            if focused.evaluate("(element, selector) => element.matches(selector)", selector):
                return
            page.keyboard.press(key)
        raise AssertionError(f"no key leads to {selector}")

    tab_to("#sampling .slider:nth-child(4) input[type=range]")  # max tokens
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.locator("input[name=max_tokens]").input_value() == "6"
    assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    tab_to("#write")
    page.keyboard.press("Enter")
    ended(page)
    expect(page.locator("#write")).to_be_focused()
    assert facts(panels(page)[0])["Tokens returned"] in "123456"
    spoken = page.evaluate("spoken")
    assert spoken[0] == "Writing with 2 decoders" and len(spoken) == 3
    assert any(re.fullmatch(r"tiny:cbs-4-4-5 has ended: \d tokens?, value −?[\d.]+", each) for each in spoken)
    tab_to("[role=treeitem]")
    page.keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("role", "treeitem")
    tab_to("#skip", "Shift+Tab")
    assert focused.evaluate("element => element.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    expect(page.locator("#answers")).to_be_focused()
    assert "prompt=" in page.url


def test_a_stopped_answer_frees_its_rows(visit: Visit, server: RunningServer) -> None:
    def cancelled() -> int:
        found = re.findall(r'trimtab_ended_total\{.*outcome="cancelled"\} (\d+)', server.get("/metrics").text)
        return sum(map(int, found))

    before, page = cancelled(), visit()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    fill(page, max_tokens=230, seed=0)
    choose(page, 0, "tiny:bon-16")
    choose(page, 1, "tiny:cbs-4-4-5", chunk=3)
    page.locator("#write").click()
    expect(panels(page)[1].locator("[role=treeitem]").first).to_be_visible()
    assert server.engine.counters().rows > 0
    waiting = panels(page)[0].get_by_text("16 answers are being written; the best one is shown at their end.")
    expect(waiting).to_be_visible()
    stop = panels(page)[1].get_by_role("button", name="Stop")
    stop.click()
    expect(panels(page)[1].locator(".numbers")).to_contain_text("stopped by you")
    expect(panels(page)[1].get_by_role("button", name="Write")).to_be_focused()
    expect(page.locator("#write")).to_have_text("Stop")  # the other one still writes
    page.locator("#write").click()
    ended(page)
    assert server.idle()
    assert cancelled() == before + 2 and waiting.count() == 0
    assert page.locator("#status").inner_text() == "tiny:bon-16 stopped"


def test_an_answer_that_breaks_off_says_so(visit: Visit) -> None:
    page = visit(refused=True)
    page.get_by_role("button", name="Remove").last.click()
    expect(page.get_by_role("button", name="Add a decoder")).to_be_focused()
    (panel,) = panels(page)
    for body, words in (
        ('data: {"choices": [{"text": "An"}]}\n\n', "the connection ended before the answer did"),
        ('data: {"choices": [{"text": "An"}]}\n\ndata: {"error": {"message": "NaN"}}\n\n', "NaN"),
    ):
        page.route("**/v1/completions", partial(Route.fulfill, body=body))
        page.locator("#write").click()
        expect(panel.locator(".fault")).to_have_text(words)
        assert text_of(panel) == "An"
    page.route("**/v1/completions", lambda route: route.abort())
    page.locator("#write").click()
    expect(panel.locator(".fault")).to_have_text("the server does not answer")


def test_the_caret_stands_still_for_who_wants_no_motion(visit: Visit) -> None:
    page = visit()
    page.locator(".panel").first.evaluate("panel => panel.classList.add('writing')")
    moving = "getComputedStyle(document.querySelector('.panel .text'), '::after').animationName"
    assert page.evaluate(moving) == "blink"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == "none"


def test_a_number_out_of_range_is_shown_where_it_stands(visit: Visit) -> None:
    page = visit(PHONE)
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    fill(page, top_p=3)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    page.locator("#write").click()
    expect(page.locator("input[name=top_p]")).to_be_focused()
    assert page.locator("#write").inner_text() == "Write" and text_of(panels(page)[0]) == ""
