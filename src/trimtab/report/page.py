"""The report folder: one self-contained page, the figures and the tables.

The page needs no network and no script. Everything in it that models or users wrote is escaped. Knows nothing of how
the rows were measured or where runs lie.

    >>> shown(0.80251), shown({"train": 8000}), shown([1, 2.5]), shown(True)
    ('0.8025', 'train 8,000', '1, 2.5', 'yes')
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from trimtab.evaluation.coverage import answers
from trimtab.evaluation.evaluate import Row
from trimtab.experiment import DecoderConfig, Experiment
from trimtab.records import Generation, PromptInput, Score
from trimtab.report import plots
from trimtab.report.columns import COLUMNS, description, number, reward_unit
from trimtab.report.story import what_was_run
from trimtab.report.tables import families, verdict, write_csv, write_markdown
from trimtab.runs import write_text

PACKAGES = ("trimtab", "torch", "transformers", "trl", "peft", "datasets", "numpy", "matplotlib")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its file name, what it shows in words, and its SVG."""

    name: str
    alternative: str
    svg: Markup


@dataclass(frozen=True)
class Answer:
    """What one decoder said to one prompt, and the reward of it as text."""

    decoder: str
    reward: str
    text: str


@dataclass(frozen=True)
class Example:
    """One prompt with every decoder's answer."""

    prompt: str
    answers: list[Answer]


def write_report(
    folder: Path,
    experiment: Experiment,
    rows: Sequence[Row],
    scores: Mapping[str, Sequence[Score]],
    generations: Mapping[str, Sequence[Generation]],
    stage_seconds: Mapping[str, float],
    details: Mapping[str, Any],
) -> Path:
    """Fill `folder` with report.html, table.csv, table.md and figures/, and give the page's path.

    Args:
        rows, scores: the table in the experiment's order, and each decoder's scores, one for each prompt.
        generations: each decoder's generations; of several to a prompt that of lowest index is shown.
        stage_seconds: wall time of each stage, in order.
        details: heading -> mapping of names to numbers, strings or lists and mappings of these.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_csv(rows, folder / "table.csv")
    write_markdown(rows, folder / "table.md")
    pictures = [_picture(folder / "figures", *figure) for figure in _figures(experiment, rows, scores)]
    page = _template().render(
        experiment=experiment,
        verdict=verdict(experiment, rows),
        story=what_was_run(experiment, rows),
        columns=COLUMNS,
        rows=rows,
        families=families(rows),
        settings={decoder.name: description(decoder) for decoder in experiment.guide.decoders},
        pictures=pictures,
        examples=_examples(experiment, scores, generations),
        unit=reward_unit(experiment),
        stages=[(stage, number(seconds, 1)) for stage, seconds in stage_seconds.items()],
        total=number(sum(stage_seconds.values()), 1),
        details=_details(details),
        versions=[(package, version(package)) for package in PACKAGES],
        configuration=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    write_text(folder / "report.html", [page])
    return folder / "report.html"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def shown(value: Any) -> str:
    """A value of `details` as short text; a mapping becomes `name value, name value`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(entry, Mapping) for entry in value) else ", ").join(map(shown, value))
    return str(value)


def _details(details: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with their named values; a section that is no mapping stands as one value under its own name."""
    sections = [(heading, each if isinstance(each, Mapping) else {heading: each}) for heading, each in details.items()]
    return [
        (heading.replace("_", " "), [(name.replace("_", " "), shown(value)) for name, value in values.items()])
        for heading, values in sections
    ]


def _figures(
    experiment: Experiment, rows: Sequence[Row], scores: Mapping[str, Sequence[Score]]
) -> list[tuple[str, str, Figure]]:
    unit = reward_unit(experiment)
    names = [row.decoder for row in rows]
    rewards = {name: [score.reward for score in scores[name]] for name in names}
    means = ", ".join(f"{row.decoder} {number(row.reward)}" for row in rows)
    figures = [
        (
            "reward-distributions",
            f"Smoothed distributions of the gold reward in {unit}, one above the other; means: {means}.",
            plots.reward_distributions(rewards, unit=unit),
        ),
        (
            "reward-against-cost",
            f"Mean gold reward in {unit} with its interval against the model arithmetic for one prompt; the same "
            "numbers stand in the table.",
            plots.reward_against_cost(rows, unit=unit),
        ),
    ]
    untuned, tuned = _plain(experiment, "untuned"), _plain(experiment, "tuned")
    if untuned is not None and tuned is not None:
        tints = plots.colours(names)
        figure = plots.before_after(
            rewards[untuned.name],
            rewards[tuned.name],
            unit=unit,
            tints=(tints[untuned.name], tints[tuned.name]),
        )
        words = f"Histograms of the small model's gold reward in {unit} before and after tuning."
        figures.append(("before-after", words, figure))
    return figures


def _plain(experiment: Experiment, model: str) -> DecoderConfig | None:
    """The decoder that samples from this model without guidance; None where there is none."""
    for decoder in experiment.guide.decoders:
        if decoder.best_of is None and decoder.model == model and not decoder.guided and decoder.beta is None:
            return decoder
    return None


def _picture(folder: Path, name: str, alternative: str, figure: Figure) -> Picture:
    plots.save(figure, folder, name)
    return Picture(name, alternative, inline_svg((folder / f"{name}.svg").read_text(encoding="utf-8"), name))


def inline_svg(text: str, name: str) -> Markup:
    """An SVG file as an element for the page: no prolog or comments, scalable, ids made unique by `name`."""
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r'(?<=\sid=")', f"{name}-", element)
    element = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", element)
    head, body = element.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Markup(f'{head} aria-hidden="true" focusable="false">{body}')


def _examples(
    experiment: Experiment, scores: Mapping[str, Sequence[Score]], generations: Mapping[str, Sequence[Generation]]
) -> list[Example]:
    """The first prompts with every decoder's answer: the first and not the best, so that nothing is picked."""
    names = [decoder.name for decoder in experiment.guide.decoders]
    texts = {name: {answer.prompt_id: answer for answer in answers(generations[name])} for name in names}
    rewards = {name: {score.prompt_id: score.reward for score in scores[name]} for name in names}
    prompts = list(texts[names[0]].values())[: experiment.evaluate.examples]
    return [
        Example(
            _prompt_text(prompt.prompt),
            [
                Answer(name, number(rewards[name][prompt.prompt_id]), texts[name][prompt.prompt_id].text)
                for name in names
            ],
        )
        for prompt in prompts
    ]


def _prompt_text(prompt: PromptInput) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
