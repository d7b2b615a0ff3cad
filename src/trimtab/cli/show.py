"""The subcommands that show something and run nothing: `check`, `assets`, `guides`, `status` and `trace`.

$ trimtab check quickstart --models
"""

from pathlib import Path
from typing import Annotated

import tyro

from trimtab.cli.options import File, GuidesFile, Overrides, PathMap, experiment_file
from trimtab.config.file import is_study, load_experiment
from trimtab.errors import DataError
from trimtab.study.study_file import load_study


def trace(file: Annotated[Path, tyro.conf.Positional], prompt: str | None = None) -> None:
    """Show how a search came to its answer, as a tree: every candidate, its value, and which went on.

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
        some = ", ".join([*searches][:3])
        raise DataError(f"{file} has no prompt {chosen!r}: give one of its {len(searches)}, such as {some}")
    Console().print(search_tree(searches[chosen]))


def status(directory: Annotated[Path, tyro.conf.Positional], json: bool = False) -> None:
    """Say how far a run is, from another terminal: its stages, rates and time left, and whether its process lives.

    Args:
        directory: A run directory, such as runs/quickstart.
        json: Print one JSON object instead of a table.
    """
    from rich.console import Console

    from trimtab.store.status import print_status

    print_status(directory, Console(), as_json=json)


def assets(path_map: PathMap = None) -> None:
    """List the models and data sets that need no hub: where they lie, their licences and sizes.

    Args:
        path_map: A YAML file of model or data set names and the local folders they stand for.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trimtab.assets.catalog import CATALOG
    from trimtab.assets.resolve import Assets

    found = Assets(path_map=path_map)
    table = Table("name", "kind", "what", "licence", "size", "lies in", title=Text(f"cache: {found.cache}"))
    for entry in CATALOG.values():
        place = str(found.present(entry) or "not downloaded")
        table.add_row(entry.name, entry.kind, entry.what, entry.licence, f"{entry.size / 1e6:.0f} MB", Text(place))
    Console().print(table)


def guides(guides: GuidesFile = None) -> None:
    """List the guides that `guide.pair` may name: pairs of a tuned model and its untuned self.

    Args:
        guides: A YAML file of more pairs.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trimtab.config.guides import SHIPPED, guide_pairs

    table = Table("name", "what", "tuned", "untuned", "from")
    for name, pair in guide_pairs(guides).items():
        tuned = " + ".join(filter(None, (pair.tuned.name, pair.tuned.adapter)))
        source = "trimtab" if pair.source == SHIPPED else str(pair.source)
        table.add_row(*map(Text, (name, pair.what, tuned, pair.untuned.name, source)))
    Console().print(table)


def check(
    file: File,
    overrides: Overrides = (),
    guides: GuidesFile = None,
    models: bool = False,
    path_map: PathMap = None,
) -> None:
    """Check an experiment or study file and say what is wrong with it; runs nothing.

    Args:
        file: An experiment or study file, or the name of one that comes with trimtab.
        overrides: Fields to change, such as tune.beta=0.2.
        guides: A YAML file of pairs that `guide.pair` may name, besides those that `trimtab guides` lists.
        models: Load its models too, and show which way each will be decoded, on which device, in which dtype.
        path_map: A YAML file of model names and the local folders they stand for, for --models.
    """
    path = experiment_file(file)
    if is_study(path):
        planned = load_study(path, overrides, experiment_file)
        experiments = [run.experiment for run in planned.runs]
        print(f"{planned.name}: sound; {len(planned.cells)} cells, {len(planned.runs)} runs")
    else:
        experiments = [load_experiment(path, overrides, guides)]
        names = ", ".join(decoder.name for decoder in experiments[0].guide.decoders)
        print(f"{experiments[0].name}: sound; decoders {names}")
    if models:
        from rich.console import Console

        from trimtab.assets.resolve import Assets
        from trimtab.models.survey import print_survey

        print_survey(experiments, Assets(path_map=path_map), Console(width=max(Console().width, 100)))
