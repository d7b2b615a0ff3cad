"""The page: everything promised is on it, nothing written by a model runs in it, nothing is fetched from elsewhere."""

import html.parser
import re

import pytest

from trimtab.evaluation.evaluate import Cost, score_decoder, summarise
from trimtab.experiment import Experiment
from trimtab.records import Generation
from trimtab.report.page import inline_svg, shown, write_report

SCRIPT = "<script>alert('x')</script>"
EXPERIMENT = Experiment.model_validate(
    {
        "name": "demo",
        "small": {"name": "tiny & small"},
        "guide": {
            "decoders": [
                {"name": "base"}, {"successors": 2}, {"best_of": "bon-2"},
                {"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"},
            ]
        },
        "evaluate": {"examples": 2, "bootstrap": 100},
    }
)  # fmt: skip
DETAILS = {"reward": {"accuracy": 0.8025, "label": "<b>bold</b>"}, "tuning": {"steps": 1400}, "note": "plain"}


class Lengths:
    def score(self, prompts, responses):
        return [float(len(response)) - 20 for response in responses]


def report(folder, text=SCRIPT, prompt="I <em>saw</em>", seconds=1.5):
    generations = {
        decoder.name: [
            Generation(f"p{number}", prompt, 0, [0], [1, 2], f" {decoder.name} {number}" + "!" * place + text, "length")
            for number in range(5)
        ]
        for place, decoder in enumerate(EXPERIMENT.guide.decoders)
    }
    scores = {
        name: score_decoder(name, each, Lengths(), Lengths(), lambda some: ([-4.0] * len(some), [2] * len(some)))
        for name, each in generations.items()
    }
    costs = {name: Cost(1e12, 2.0) for name in scores}
    rows = summarise(EXPERIMENT, scores, generations, lambda string: list(string.encode()), costs)
    return write_report(folder, EXPERIMENT, rows, scores, generations, {"data": seconds, "tune": 2.0}, DETAILS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report(tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


class Elements(html.parser.HTMLParser):
    """Counts elements and attributes, and checks that what is opened is closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_what_models_write_is_shown_and_never_run(page):
    elements = Elements(page)
    assert "script" not in elements.tags and "em" not in elements.tags and "b" not in elements.tags
    assert "&lt;script&gt;" in page
    text = "".join(elements.text)
    assert SCRIPT in text and "I <em>saw</em>" in text and "<b>bold</b>" in text and "tiny & small" in text


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    elements = Elements(page)
    assert elements.open == []
    addresses = [value for _, name, value in elements.attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert all(value.startswith("#") or value in ("table.csv", "table.md", "figures/") for value in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "link" not in elements.tags


def test_ids_are_unique_and_every_reference_inside_the_page_has_its_target(page):
    elements = Elements(page)
    ids = [value for _, name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    labels = [value for _, name, value in elements.attributes if name == "aria-labelledby"]
    assert references and set(references) | set(labels) <= set(ids)


def test_a_reader_without_eyes_finds_their_way(page):
    elements = Elements(page)
    for tag in ("header", "nav", "main", "footer", "caption", "h1"):
        assert tag in elements.tags
    assert elements.tags.count("h1") == 1
    assert all(
        name == "scope" for tag, name, _ in elements.attributes if tag == "th" and name not in ("title", "colspan")
    )
    assert elements.tags.count("th") == sum(
        1 for tag, name, _ in elements.attributes if tag == "th" and name == "scope"
    )
    pictures = [value for tag, name, value in elements.attributes if tag == "div" and name == "aria-label"]
    assert len([value for value in pictures if "gold reward" in value]) == 3
    assert elements.tags.count("svg") == 3


def test_page_tells_the_whole_story(page):
    text = re.sub(r"\s+", " ", "".join(Elements(page).text))
    for words in (
        "lifts the gold reward", "google/gemma-3-270m", "The seed is 0", "What the columns say", "distinct-2",
        "Wall seconds by stage", "3.5", "0.8025", "1,400", "reward_heldout: 2000", "Versions", "transformers",
    ):  # fmt: skip
        assert words in text, words
    for decoder in EXPERIMENT.guide.decoders:
        assert f"{decoder.name} 0" in text and f"{decoder.name} 1" in text
        assert f"{decoder.name} 2!" not in text  # two examples were asked for


def test_examples_show_each_text_with_its_own_reward(page):
    cards = re.findall(r'<p class="who">(\S+) <span>(\S+)</span></p><p class="text">(.*?)</p>', page)
    assert len(cards) == 2 * 5
    for decoder, reward, text in cards:
        assert text.startswith(decoder)
        whole = " " + text.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
        assert float(reward) == len(whole) - 20


def test_folder_holds_figures_and_tables(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("reward-distributions", "reward-against-cost", "before-after")
        for kind in ("png", "svg")
    }
    assert names == {"report.html", "table.csv", "table.md"} | figures


def test_the_same_run_gives_the_same_bytes(folder, tmp_path):
    report(tmp_path)
    for path in folder.rglob("*.*"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


def test_messages_are_shown_with_their_roles(tmp_path):
    page = report(tmp_path, prompt=[{"role": "user", "content": "Say <hi>"}]).read_text(encoding="utf-8")
    assert "user: Say &lt;hi&gt;" in page


def test_inline_svg_keeps_references_together_and_drops_the_rest():
    text = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="5pt" height="4pt" viewBox="0 0 5 4"><metadata>x</metadata>'
        '<!-- a <b> --><g id="a" clip-path="url(#c)"/><use xlink:href="#a"/></svg>'
    )
    assert inline_svg(text, "fig") == (
        '<svg viewBox="0 0 5 4" aria-hidden="true" focusable="false"><g id="fig-a" clip-path="url(#fig-c)"/>'
        '<use xlink:href="#fig-a"/></svg>'
    )


def test_values_of_details_are_short_text():
    assert shown([{"bin": 1, "share": 0.25}, {"bin": 2, "share": 1 / 3}]) == "bin 1, share 0.25; bin 2, share 0.3333"
    assert shown(None) == "none" and shown(False) == "no" and shown("a_b") == "a_b"
