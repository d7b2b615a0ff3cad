"""What a finished run has made, read back for its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.config.experiment import Experiment
from trimtab.evaluation.cost import read_cost, read_usage
from trimtab.evaluation.coverage import SetAside, set_aside, too_long, without
from trimtab.evaluation.divergence import Divergence
from trimtab.evaluation.evaluate import Row, model_names, summarise
from trimtab.models.roles import Roles
from trimtab.models.served_model import Usage
from trimtab.pipeline.traces import trace_file, traced
from trimtab.pipeline.workspace import Job
from trimtab.records import Generation, Score
from trimtab.report.columns import with_columns
from trimtab.report.page import write_report
from trimtab.search.trace import Node
from trimtab.store.artifacts import Artifact, read_seconds


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
    """Read what the inputs of the step `report` hold."""
    decoders, inputs = experiment.guide.decoders, job.inputs
    guided = {decoder.name: inputs[f"guide {decoder.name}"] for decoder in decoders}
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
        experiment.guide, experiment.evaluate, experiment.seed, model_names(experiment.small, experiment.base),
        counted, generations, encode, costs, diverged,
    )  # fmt: skip
    rows = with_columns(rows, experiment.evaluate.columns, generations, counted)
    return Results(
        rows=rows,
        generations=generations,
        scores=counted,
        set_aside=[
            entry for name in guided for entry in set_aside(name, generations[name], scores[name], excluded)
        ],
        usages={decoder.name: read_usage(guided[decoder.name]) for decoder in decoders if decoder.best_of is None},
        traces={
            decoder.name: traced(trace_file(job.run, decoder.name, guided[decoder.name].digest)) for decoder in decoders
        },
        seconds={name: read_seconds(artifact) for name, artifact in inputs.items()},
        details={name: details for name, artifact in inputs.items() if (details := _details(artifact)) is not None},
    )  # fmt: skip


def write_results(job: Job, experiment: Experiment) -> Results:
    """Write tables, figures and the page to the step's folder."""
    results = read_results(job, experiment)
    write_report(
        job.folder, experiment, results.rows, results.scores, results.generations, results.seconds, results.details,
        results.traces, results.usages,
    )  # fmt: skip
    return results


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
