"""What a run has made, read back for its report, or for what can be shown of it before it ends."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.config.evaluate import EvaluateConfig
from trimtab.config.experiment import Experiment
from trimtab.config.guide import GuideConfig
from trimtab.errors import RunError, TrimtabError
from trimtab.evaluation.cost import read_cost, read_usage
from trimtab.evaluation.coverage import SetAside, set_aside, too_long, without
from trimtab.evaluation.divergence import Divergence
from trimtab.evaluation.evaluate import Row, model_names, summarise
from trimtab.models.roles import Roles
from trimtab.models.served_model import Usage
from trimtab.pipeline.reports import preliminary_folder
from trimtab.pipeline.traces import trace_file, traced
from trimtab.pipeline.workspace import Job
from trimtab.records import Generation, Score
from trimtab.report.columns import with_columns
from trimtab.report.page import write_report
from trimtab.report.preliminary import preliminary_line, preliminary_table
from trimtab.search.trace import Node
from trimtab.store.artifacts import Artifact, read_seconds
from trimtab.store.progress import Watch


@dataclass(frozen=True)
class Results:
    """The table's rows, and what each decoder wrote and scored, by its name; `set_aside` are prompts that do not count.

    `seconds` are wall times of steps over all sessions that worked on them, `details` what steps report of themselves.
    """

    rows: list[Row]
    generations: Mapping[str, list[Generation]]
    scores: Mapping[str, list[Score]]
    set_aside: list[SetAside]
    usages: Mapping[str, Usage]
    traces: Mapping[str, Mapping[str, Node]]
    seconds: Mapping[str, float]
    details: Mapping[str, Any]


def read_results(job: Job, experiment: Experiment) -> Results:
    """Read what the inputs of the step `report` hold; before the end of a run, of the decoders that have been measured.

    Raises:
        RunError: none has been.
    """
    inputs = {name: artifact for name, artifact in job.inputs.items() if artifact.whole}
    guide, evaluate = _measured(experiment, inputs)
    guided = {decoder.name: inputs[f"guide {decoder.name}"] for decoder in guide.decoders}
    generations = {name: artifact.records(Generation) for name, artifact in guided.items()}
    scores = {name: inputs[f"evaluate {name}"].records(Score) for name in guided}
    diverged = {
        name: Divergence(**inputs[f"evaluate {name} (KL)"].summary())
        for name in guided
        if f"evaluate {name} (KL)" in inputs
    }
    excluded = too_long(generations)
    counted = without(excluded, scores)
    costs = {name: read_cost(artifact) for name, artifact in guided.items()}
    encode = _encoder(experiment, job.roles(experiment.small, experiment.large))
    rows = summarise(
        guide, evaluate, experiment.seed, model_names(experiment.small, experiment.base), counted, generations, encode,
        costs, diverged,
    )  # fmt: skip
    rows = with_columns(rows, evaluate.columns, generations, counted)
    return Results(
        rows=rows,
        generations=generations,
        scores=counted,
        set_aside=[
            entry for name in guided for entry in set_aside(name, generations[name], scores[name], excluded)
        ],
        usages={each.name: read_usage(guided[each.name]) for each in guide.decoders if each.best_of is None},
        traces={name: traced(trace_file(job.run, name, artifact.digest)) for name, artifact in guided.items()},
        seconds={name: read_seconds(artifact) for name, artifact in inputs.items()},
        details={name: details for name, artifact in inputs.items() if (details := _details(artifact)) is not None},
    )  # fmt: skip


def _measured(experiment: Experiment, made: Mapping[str, Artifact]) -> tuple[GuideConfig, EvaluateConfig]:
    """The parts of the experiment that what is made suffices for: all of them at the end of a run."""
    guide, evaluate = experiment.guide, experiment.evaluate
    names = {each.name for each in guide.decoders if {f"guide {each.name}", f"evaluate {each.name}"} <= made.keys()}
    decoders = tuple(
        each for each in guide.decoders if each.name in names and (each.best_of is None or each.best_of in names)
    )
    if not decoders:
        raise RunError(f"no decoder of {experiment.name} has been measured: run `trimtab evaluate`")
    relative = evaluate.threshold is not None and evaluate.threshold.value is None
    if relative and not any(each.plain and each.model == "untuned" for each in decoders):
        evaluate = evaluate.model_copy(update={"threshold": None})
    return guide.model_copy(update={"decoders": decoders}), evaluate


def show_preliminary(job: Job, experiment: Experiment, watch: Watch, decoder: str) -> None:
    """Show the rows that there are, of which `decoder` is new, and write the page of these rows.

    `job` is that of the step `report`. What cannot be shown yet is not shown; the report says what is wrong with it.
    """
    with contextlib.suppress(TrimtabError):
        results = read_results(job, experiment)
        if decoder not in {row.decoder for row in results.rows}:
            return
        watch.show(preliminary_table(experiment, results.rows), preliminary_line(experiment, results.rows, decoder))
        with preliminary_folder(job.run, experiment) as folder:
            _write(folder, experiment, results, preliminary=True)


def write_results(job: Job, experiment: Experiment) -> Results:
    """Write tables, figures and the page to the step's folder."""
    results = read_results(job, experiment)
    _write(job.folder, experiment, results)
    return results


def _write(folder: Path, experiment: Experiment, results: Results, preliminary: bool = False) -> None:
    write_report(
        folder, experiment, results.rows, results.scores, results.generations, results.seconds, results.details,
        results.traces, results.usages, preliminary=preliminary,
    )  # fmt: skip


def _encoder(experiment: Experiment, roles: Roles) -> Any:
    """The tokenizer that diversity is counted with: the base's, where it runs here."""
    here = experiment.large is not None and experiment.large.endpoint is None
    return lambda text: roles.encode_response("large" if here else "untuned", text)


def _details(artifact: Artifact) -> dict[str, Any] | None:
    """The numbers that a step reports for the page; None where it reports none."""
    if artifact.stage == "divergence":
        return None  # shown in the table
    name = next((name for name in ("report", "summary") if (artifact.folder / f"{name}.json").is_file()), None)
    return None if name is None else artifact.summary(name)
