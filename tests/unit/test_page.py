"""The page: everything promised is on it, nothing written by a model runs in it, nothing is fetched from elsewhere."""

import dataclasses
import html.parser
import itertools
import re

import pytest

from tiny_report import DEMO, SCRIPT, quickstart_rows, report
from trimtab.evaluation.scoring import score_decoder
from trimtab.records import Generation, Score
from trimtab.report.examples import examples, fold
from trimtab.report.missing_values import absences
from trimtab.report.page import typeset
from trimtab.report.palette import dark_colours
from trimtab.report.stage_facts import facts, times_by_stage, value_text
from trimtab.report.svg import inline_svg

FIGURES = ("reward-distributions", "reward-against-cost", "gain-at-equal-flops", "before-after")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report(tmp_path_factory.mktemp("report"), count=20).parent


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
    assert all(
        value.startswith("#") or value in ("table.csv", "table.md", "differences.csv", "figures/")
        for value in addresses
    )
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
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert elements.tags.count(tag) == 1, tag
    assert ("html", "lang", "en") in elements.attributes
    levels = [int(tag[1]) for tag in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert elements.tags.index("a") < elements.tags.index("header")  # the link that skips the head comes first


def test_every_table_has_a_caption_and_every_heading_of_it_a_scope(page):
    tables = re.findall(r"<table.*?</table>", page, flags=re.DOTALL)
    assert len(tables) == 4
    for table in tables:
        assert re.match(r"<table[^>]*>\s*<caption>\s*\S", table)
        headings = re.findall(r"<th\b[^>]*>", table)
        assert headings and all(re.search(r'scope="(col|row|rowgroup)"', heading) for heading in headings)
        assert not re.search(r"<td>\s*</td>", table)  # an empty cell is read as nothing at all


def test_every_figure_says_in_words_what_it_shows_and_is_drawn_for_laptop_and_phone(page):
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) == len(FIGURES)
    for figure in figures:
        (words,) = re.findall(r'<div role="img" aria-label="([^"]+)">', figure)
        assert "gold reward" in words and "nats" in words
        assert re.findall(r'<div class="(\w+)"><svg', figure) == ["wide", "narrow"]
        assert figure.count("<svg") == figure.count('aria-hidden="true"') == 2


def test_every_colour_of_a_figure_has_a_counterpart_on_a_dark_page(page):
    drawn = {colour for figure in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) for colour in colours_in(figure)}
    assert len(drawn) > 10
    assert drawn <= set(dark_colours())
    for light, dark in dark_colours().items():
        assert f"--{light[1:]}: {dark};" in page


def colours_in(figure):
    """The colours of a drawing, each as a variable and its value; nothing is drawn in any other way."""
    pairs = re.findall(r"var\(--(\w{6}), #(\w{6})\)", figure)
    assert all(variable == value for variable, value in pairs)
    assert len(pairs) == len(re.findall(r"#[0-9a-f]{6}\b", figure))
    assert not re.search(r"(fill|stroke): (black|white|rgb)", figure)
    return {f"#{value}" for _, value in pairs}


def test_page_tells_the_whole_story(page):
    text = re.sub(r"\s+", " ", "".join(Elements(page).text))
    for words in (
        "A small language model, tiny & small, was tuned", "lifts the gold reward", "What was run", "By how much",
        "How surely", "At what cost", "gemma-3-270m", "seed 0", "The columns", "The decoders", "distinct-2",
        "Wall time by stage", "1 min 46 s", "80.2 %", "1,400", "reward_heldout: 2000", "Versions", "transformers",
    ):  # fmt: skip
        assert words in text, words
    for decoder in DEMO.guide.decoders:
        assert f"{decoder.name} 0" in text and f"{decoder.name} 1" in text
        assert f"{decoder.name} 2!" not in text  # two examples were asked for


def test_a_preliminary_page_says_so_and_shows_the_rows_that_there_are(tmp_path):
    page = report(tmp_path, count=20, preliminary=True).read_text(encoding="utf-8")
    elements = Elements(page)
    text = re.sub(r"\s+", " ", "".join(elements.text))
    assert "Preliminary: 2 of 5 decoders are measured." in text and "lifts the gold reward" in text
    assert elements.open == [] and "figure" not in elements.tags and 'href="#figures"' not in page
    rows = re.findall(r'<th scope="row"><span class="name">([^<]+)</span>', page)
    assert set(rows) == {"base", "bon-2"}


def test_examples_show_each_text_with_its_own_reward(page):
    who = r'<p class="who">(\S+) <span><span class="unseen">reward </span>(\S+)</span></p>'
    cards = re.findall(who + r'\s*<p class="text"[^>]*>(.*?)</p>', page)
    assert len(cards) == 2 * 5
    for decoder, reward, text in cards:
        assert text.startswith(decoder)
        whole = " " + text.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
        assert float(reward) == len(whole) - 20


def test_nothing_is_said_of_missing_prompts_where_none_is_missing(page):
    assert 'role="note"' not in page and "missing" not in page


def test_prompts_that_were_set_aside_are_counted_beside_the_table(tmp_path):
    page = report(tmp_path, set_aside=2).read_text(encoding="utf-8")
    assert "Some prompts are missing: see the note below the table." in page
    assert "on the same 7 prompts" in page
    assert "base: 2 prompts set aside, since a model or a reward gave no finite number for them." in page


def test_missing_prompts_are_named_and_many_are_cut_short():
    rows = [dataclasses.replace(each, set_aside=0, left_out=0) for each in quickstart_rows()[:3]]
    rows[1:] = [dataclasses.replace(rows[1], set_aside=1, left_out=1), dataclasses.replace(rows[2], left_out=20)]
    good = [Score("d", f"p{number}", 1.0, 1.0, -1.0, 4, 4) for number in range(20)]
    bad = dataclasses.replace(good[0], prompt_id="p7", reward=float("nan"))
    without = [bad if score.prompt_id == "p7" else score for score in good if score.prompt_id != "p3"]
    scores = dict(zip([row.decoder for row in rows], [good, without, []], strict=True))
    assert absences(rows, scores) == [
        "bon-16: 1 prompt set aside, since a model or a reward gave no finite number for it; 1 response "
        "without a finite score left out (p3, p7).",
        "gold-bon-16: 20 responses without a finite score left out (p0, p1, p2, p3, p4, p5, p6, p7 and 12 more).",
    ]


def test_a_prompt_that_a_decoder_did_not_answer_shows_so_among_the_examples():
    generations = {
        decoder.name: [Generation(f"p{number}", "I", 0, [0], [1], " saw", "length") for number in (0, 1)]
        for decoder in DEMO.guide.decoders
    }
    scores = {
        name: score_decoder(name, each, Ones(), Ones(), lambda some: ([-4.0] * len(some), [2] * len(some)))
        for name, each in generations.items()
    }
    generations["tuned"], scores["tuned"] = generations["tuned"][1:], scores["tuned"][1:]
    first, second = examples(2, scores, generations)
    assert [answer.reward for answer in first.answers] == ["1.00"] * 4 + [""]
    assert [answer.text for answer in first.answers] == ["saw"] * 4 + [""]
    assert [answer.reward for answer in second.answers] == ["1.00"] * 5


class Ones:
    def score(self, prompts, responses):
        return [1.0] * len(responses)


def test_a_long_text_is_folded_at_a_space_and_loses_nothing():
    for text in ("word " * 400, "x" * 5000, "\n".join("lines" for _ in range(500)), "é" * 100_000):
        shown_text, rest = fold(text, 700)
        assert shown_text + rest == text and 350 <= len(shown_text) <= 700
    assert fold("x" * 840, 700) == ("x" * 840, "")  # a few words are not worth a fold


def test_long_prompts_and_responses_are_folded_on_the_page(tmp_path):
    page = report(tmp_path, text=" more" * 300, prompt="Why " * 200).read_text(encoding="utf-8")
    assert page.count("The rest of the prompt, ") == 2 and page.count("<summary>The rest, ") == 2 * 5
    assert re.search("The rest, 8[0-9][0-9] characters", page)


def test_numbers_have_true_minus_signs_and_names_keep_their_hyphens():
    assert typeset("bon-16 on all-MiniLM-L6-v2 gains -0.10 [-0.30, -0.05], 5 % of it, top-k 50") == (
        "bon-16 on all-MiniLM-L6-v2 gains −0.10 [−0.30,\u00a0−0.05], 5\u00a0% of it, top-k 50"
    )


def test_facts_are_named_in_words_and_unknown_ones_by_their_own_name():
    assert facts({"tune": {"eval_accuracy": 0.75, "my_own": 3}, "device": "cpu"}) == [
        ("Tuning", [("validation pairs ordered rightly", "75.0 %"), ("my own", "3")]),
        ("device", [("device", "cpu")]),
    ]


def test_times_of_a_stage_made_in_parts_are_added_up():
    assert times_by_stage({"data": 9.6, "guide base": 96.4, "guide bon-16": 937.5, "evaluate base": 2.0}) == [
        ("data", "9.6 s", []),
        ("guide", "17 min 14 s", [("base", "96 s"), ("bon-16", "15 min 38 s")]),
        ("evaluate", "2 s", []),
    ]


def test_folder_holds_figures_and_tables(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    assert names == {"report.html", "table.csv", "table.md", "differences.csv"} | figures


def test_the_same_run_gives_the_same_bytes(folder, tmp_path):
    report(tmp_path, count=20)
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
    assert (
        value_text([{"bin": 1, "share": 0.25}, {"bin": 2, "share": 1 / 3}]) == "bin 1, share 0.25; bin 2, share 0.3333"
    )
    assert value_text(None) == "none" and value_text(False) == "no" and value_text("a_b") == "a_b"
