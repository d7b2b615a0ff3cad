"""The report folder of a run: one self-contained page, the figures and the tables.

The page needs no network and no script, and escapes everything that models or users wrote.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml

from trimtab.config.experiment import Experiment
from trimtab.config.guide import GuideConfig
from trimtab.evaluation.coverage import too_long
from trimtab.evaluation.evaluate import Row
from trimtab.models.served_model import Usage
from trimtab.records import Generation, Score
from trimtab.report import plots
from trimtab.report.columns import GOLD_NOTE, REWARD_COLUMNS, characters
from trimtab.report.decoder_words import explanation
from trimtab.report.examples import examples
from trimtab.report.matrix import matrix
from trimtab.report.missing_values import absences, served
from trimtab.report.overview import brief, lead, prompts_of, table_columns
from trimtab.report.palette import colours, dark_colours
from trimtab.report.search_tree import ending
from trimtab.report.stage_facts import facts, times_by_stage
from trimtab.report.svg import Picture, picture
from trimtab.report.tables import families, write_csv, write_differences, write_markdown
from trimtab.report.verdict import headline
from trimtab.report.wording import duration, number, short_names
from trimtab.search.trace import Node
from trimtab.store.files import write_text

PACKAGES = ("trimtab", "torch", "transformers", "trl", "peft", "datasets", "numpy", "matplotlib")


def write_report(
    folder: Path,
    experiment: Experiment,
    rows: Sequence[Row],
    scores: Mapping[str, Sequence[Score]],
    generations: Mapping[str, Sequence[Generation]],
    stage_seconds: Mapping[str, float],
    details: Mapping[str, Any],
    traces: Mapping[str, Mapping[str, Node]] | None = None,
    usages: Mapping[str, Usage] | None = None,
    preliminary: bool = False,
) -> Path:
    """Fill `folder` with report.html, table.csv, table.md, differences.csv and figures/, and give the page's path.

    Args:
        rows, scores, generations: in the experiment's order; of several generations to a prompt that of lowest index
            is shown.
        stage_seconds: wall time of each stage, in order.
        details: heading -> mapping of names to numbers, strings or lists and mappings of these.
        traces: decoder -> prompt id -> the search, where it was traced.
        usages: decoder -> what the endpoint has counted, where the large model is behind one.
        preliminary: `rows` are those of the decoders that have been measured so far; no figures are drawn.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    columns, total = table_columns(experiment, rows), sum(stage_seconds.values())
    write_csv(rows, folder / "table.csv")
    write_markdown(rows, folder / "table.md", columns)
    write_differences(rows, folder / "differences.csv")
    page = template("page.html.j2").render(
        experiment=experiment,
        lead=lead(experiment),
        headline=headline(experiment, rows),
        brief=brief(experiment, rows, total),
        columns=columns,
        reached=[column for column in columns if column.name in REWARD_COLUMNS],
        texts=[column for column in columns[1:] if column.name not in REWARD_COLUMNS],
        characters=lambda shown: characters([column.head, *map(column.text, rows)] for column in shown),
        against=matrix(experiment.guide, rows),
        rows=rows,
        prompts=prompts_of(rows),
        families=families(rows),
        absences=absences(rows, scores, too_long(generations)),
        served=served(experiment.base, usages or {}),
        explanations={decoder.name: explanation(decoder) for decoder in experiment.guide.decoders},
        models=short_names(row.model for row in rows),
        pictures=[] if preliminary else _pictures(folder / "figures", experiment, rows, scores),
        preliminary=preliminary,
        dark_colours=dark_colours(),
        examples=examples(experiment.evaluate.examples, scores, generations, traces),
        ending=ending,
        gold_note=GOLD_NOTE if any(row.by_gold for row in rows) else "",
        number=number,
        stages=times_by_stage(stage_seconds),
        total=duration(total),
        facts=facts(details),
        versions=[(package, version(package)) for package in PACKAGES],
        configuration=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    write_text(folder / "report.html", [page])
    return folder / "report.html"


def template(name: str) -> jinja2.Template:
    """A template of this package; it escapes its values, and fails where one is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    environment.filters["breakable"] = breakable
    return environment.get_template(name)


def typeset(text: str) -> str:
    """The text with true minus signs, since a hyphen is not read aloud, and no break in an interval or a percentage.

    >>> typeset("bon-16 gains -0.10")
    'bon-16 gains −0.10'
    """
    text = re.sub(r"(?<![\w.-])-(?=\.?\d)", "−", text)
    return re.sub(r"(?<=\d) (?=%)|(?<=,) (?=[−\d.]+\])", "\N{NO-BREAK SPACE}", text)


def breakable(interval: str) -> str:
    """An interval that paper may break behind its comma; on a screen a cell of the table stays on one line anyway."""
    return interval.replace("\N{NO-BREAK SPACE}", " ")


def _pictures(
    folder: Path, experiment: Experiment, rows: Sequence[Row], scores: Mapping[str, Sequence[Score]]
) -> list[Picture]:
    """The figures, each drawn twice, with a description in words."""
    unit, confidence = experiment.reward.entry.unit, experiment.evaluate.confidence
    rewards = {row.decoder: [score.reward for score in scores[row.decoder]] for row in rows}
    means = {row.decoder: f"{row.decoder} {number(row.reward)}" for row in rows}
    pictures = [
        picture(
            folder,
            "reward-distributions",
            f"Smoothed distributions of the gold reward in {unit}, one above the other; means: "
            f"{', '.join(means.values())}.",
            partial(plots.reward_distributions, rewards, unit=unit, zero=bool(experiment.reward.entry.zero)),
        ),
        picture(
            folder,
            "reward-against-cost",
            f"Mean gold reward in {unit} with its interval against the arithmetic for one prompt; the same numbers "
            "stand in the table.",
            partial(plots.reward_against_cost, rows, unit=unit, confidence=confidence),
        ),
    ]
    before = _cheaper(experiment.guide, rows)
    if before:
        pictures.append(
            picture(
                folder,
                "gain-at-equal-flops",
                f"Gain of gold reward over the same model unguided in {unit} with its interval, against the arithmetic "
                "for one prompt; the same numbers stand in the table.",
                partial(plots.gain_against_cost, rows, before, unit=unit, confidence=confidence),
            )
        )
    plain = {decoder.model: decoder.name for decoder in reversed(experiment.guide.decoders) if decoder.plain}
    if "untuned" in plain and "tuned" in plain:
        untuned, tuned = plain["untuned"], plain["tuned"]
        tints = colours(list(rewards))
        compared = ", ".join(text for decoder, text in means.items() if decoder in (untuned, tuned))
        pictures.append(
            picture(
                folder,
                "before-after",
                f"Histograms of the small model's gold reward in {unit} before and after tuning; means: {compared}.",
                partial(
                    plots.before_after,
                    rewards[untuned],
                    rewards[tuned],
                    unit=unit,
                    tints=(tints[untuned], tints[tuned]),
                ),
            )
        )
    return pictures


def _cheaper(guide: GuideConfig, rows: Sequence[Row]) -> dict[str, str]:
    """Decoder -> the one that searches alike with less arithmetic; the unguided one for the first of its kind.

    Decoders that the gold reward helped are left out.
    """
    flops = {row.decoder: row.flops for row in rows if row.flops > 0 and row.gain is not None}
    before: dict[str, str] = {}
    last: dict[tuple[Any, ...], str] = {}
    for decoder in sorted(map(guide.decoder, flops), key=lambda decoder: flops[decoder.name]):
        reference = guide.reference_of(decoder)
        if decoder.best_of is None and not decoder.guided_by_gold and reference is not None:
            kind = (decoder.model, decoder.terms, decoder.chunk is None, decoder.guided, decoder.value)
            before[decoder.name] = last.get(kind, reference.name)
            last[kind] = decoder.name
    return before
