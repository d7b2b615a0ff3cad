"""The subcommands that show something and run nothing, from `plan` and `check` to `status` and `trace`.

$ trimtab check quickstart --models
"""

import contextlib
import json as json_format
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import tyro

from trimtab.cli.options import ExperimentOptions, GuidesFile, PathMap, RunName, experiment_file, named_file
from trimtab.config.experiment import Experiment
from trimtab.config.file import is_study
from trimtab.errors import AbsentError, DataError
from trimtab.plugins.load import GROUP, load_plugins
from trimtab.plugins.registry import REGISTRIES, registry
from trimtab.study.study_file import load_study

LAUNCH_CONFIGS = Path(__file__).parent / "accelerate"


def check(
    options: Annotated[ExperimentOptions, tyro.conf.arg(name="")],
    quick: bool = False,
    models: bool = False,
    path_map: PathMap = None,
) -> None:
    """Check an experiment or study, and all that it names: data, models, prompts, rewards, functions. Runs nothing.

    It takes seconds, loads no weights and downloads nothing; a run checks the same before it makes anything.

    Args:
        quick: Check the file alone, and nothing that it names.
        models: Load its models too, and show how each will be decoded, on which device, in which dtype.
    """
    experiments, summary = _read(options)
    lines = [] if quick else _checked(experiments, path_map)
    print("\n".join([summary, *lines]))
    if any(experiment.plugins for experiment in experiments) or entry_points(group=GROUP):
        for noun in REGISTRIES:
            for entry in registry(noun).values():
                if not entry.own:
                    print(f"plug-in: {noun} {entry.name}, {entry.origin}")
    if models:
        from rich.console import Console

        from trimtab.assets.resolve import Assets
        from trimtab.pipeline.survey import print_survey

        print_survey(experiments, Assets(path_map=path_map), Console())


def _checked(experiments: Sequence[Experiment], path_map: Path | None) -> list[str]:
    """Lines about what experiments name, and about the memory of the first of them."""
    from trimtab.assets.resolve import Assets
    from trimtab.pipeline.checks import check_lines
    from trimtab.pipeline.experiment_steps import steps
    from trimtab.pipeline.memory import memory_lines

    assets = Assets(path_map=path_map, download=False)
    lines = [(steps(experiment), experiment) for experiment in experiments]
    found = check_lines(lines, assets)
    with contextlib.suppress(AbsentError):  # whose size is not known yet
        found += memory_lines(*lines[0], assets)
    return found


def _read(options: ExperimentOptions) -> tuple[list[Experiment], str]:
    """The experiment, or those of a study, and a line about it."""
    if is_study(options.path):
        study = load_study(options.path, options.overrides, experiment_file)
        sizes = f"{len(study.cells)} cells, {len(study.runs)} runs"
        return [run.experiment for run in study.runs], f"{study.name}: sound; {sizes}"
    experiment = options.load()
    names = ", ".join(decoder.name for decoder in experiment.guide.decoders)
    return [experiment], f"{experiment.name}: sound; decoders {names}"


def plan(
    options: Annotated[ExperimentOptions, tyro.conf.arg(name="")], runs: str = "runs", path_map: PathMap = None
) -> None:
    """List the steps of an experiment: which were made, what each needs, and what it will cost. Makes nothing.

    Args:
        runs: The folder that holds run directories, or its URL.
    """
    from rich.console import Console

    from trimtab.assets.resolve import Assets
    from trimtab.pipeline.show_plan import print_plan

    print_plan(options.load(), runs, Assets(path_map=path_map), Console())


def entries(file: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[EXPERIMENT]")] = None) -> None:
    """List what an experiment can choose from by name: losses, pair strategies, reward kinds, values, report columns.

    Args:
        file: An experiment or study file, whose plug-ins are listed, too.
    """
    if file is None:
        load_plugins()
    else:
        _read(ExperimentOptions(file))
    rows = [
        (entry.name, noun, entry.words, entry.paper, entry.limits, "trimtab" if entry.own else entry.origin)
        for noun in REGISTRIES
        for entry in registry(noun).values()
    ]
    _print_table(["name", "kind", "what", "paper", "limits", "from"], rows)


def assets(json: bool = False, path_map: PathMap = None) -> None:
    """List the models and data sets that need no hub: where they lie, their licences and sizes.

    Args:
        json: Print one JSON object instead of a table; sizes are in bytes.
    """
    from trimtab.assets.catalog import CATALOG
    from trimtab.assets.resolve import Assets

    assets = Assets(path_map=path_map)
    folders = {entry.name: assets.present(entry) for entry in CATALOG.values()}
    if json:
        listed = [
            {
                "name": entry.name,
                "aliases": entry.aliases,
                "kind": entry.kind,
                "what": entry.what,
                "licence": entry.licence,
                "size": entry.size,
                "folder": None if folders[entry.name] is None else str(folders[entry.name]),
            }
            for entry in CATALOG.values()
        ]
        print(json_format.dumps({"cache": str(assets.cache), "assets": listed}, indent=2))
        return
    rows = [
        (entry.name, entry.kind, entry.what, entry.licence, f"{entry.size / 1e6:.0f}\N{NO-BREAK SPACE}MB",
         str(folders[entry.name] or "not downloaded"))
        for entry in CATALOG.values()
    ]  # fmt: skip
    print(f"cache: {assets.cache}")
    _print_table(["name", "kind", "what", "licence", "size", "lies in"], rows)


def guides(json: bool = False, guides: GuidesFile = None) -> None:
    """List the guides that `guide.pair` may name: pairs of a tuned model and its untuned self.

    Args:
        json: Print one JSON object instead of a table: the settings of both models of each pair, by its name.
    """
    from trimtab.config.guides import SHIPPED, guide_pairs

    if json:
        pairs = {
            name: {**pair.model_dump(mode="json", exclude_unset=True), "source": str(pair.source)}
            for name, pair in guide_pairs(guides).items()
        }
        print(json_format.dumps(pairs, indent=2, ensure_ascii=False))
        return
    rows = []
    for name, pair in guide_pairs(guides).items():
        tuned = " + ".join(filter(None, (pair.tuned.name, pair.tuned.adapter)))
        source = "trimtab" if pair.source == SHIPPED else str(pair.source)
        rows.append((name, pair.what, tuned, pair.untuned.name, source))
    _print_table(["name", "what", "tuned", "untuned", "from"], rows)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    from trimtab.store.text_table import print_rows

    print_rows(Console(), columns, rows)


def launch_config(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Print the path of a configuration for `accelerate launch --config_file`.

    Args:
        name: ddp, fsdp or zero2.
    """
    print(named_file(name, LAUNCH_CONFIGS, "a configuration of accelerate"))


def status(run: RunName, json: bool = False) -> None:
    """Show how far a run is, from another terminal: its stages, rates and time left, and whether its process lives.

    Args:
        json: Print one JSON object instead of a table.
    """
    from rich.console import Console

    from trimtab.store.remote import local_run
    from trimtab.store.status import print_status

    print_status(local_run(run), Console(), as_json=json)


def trace(file: Annotated[Path, tyro.conf.Positional], prompt: str | None = None) -> None:
    """Show how a search came to its answer, as a tree: every candidate, its value, and which were kept.

    Args:
        file: A trace, such as runs/quickstart/traces/cbs-4-4-5-0123456789ab.jsonl.
        prompt: The id of the prompt to show; without it the file's first.
    """
    from rich.console import Console

    from trimtab.report.search_tree import search_tree
    from trimtab.search.trace import read_traces

    searches = read_traces(file)
    if not searches:
        raise DataError(f"{file} holds no step: write it anew with --trace")
    chosen = next(iter(searches)) if prompt is None else prompt
    if chosen not in searches:
        examples = ", ".join([*searches][:3])
        raise DataError(f"{file} has no prompt {chosen!r}: give one of its {len(searches)}, such as {examples}")
    Console().print(search_tree(searches[chosen]))
