"""The subcommands for what runs have made: `merge`, `save`, `push`, `export` and `compare`.

$ trimtab compare runs/chat:cbs-2-4-8 runs/chat:base
"""

import json as json_format
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trimtab.cli.options import RunName
from trimtab.errors import ConfigurationError

Decoder = Annotated[str, Positional, arg(metavar="RUN:DECODER")]
GUIDE_STAGES = ("tune", "pairs", "synthesize", "sft", "reward", "data")
"""The stages whose artifacts a tuned guide and its model card are read from."""
Adapter = Annotated[bool, arg(help="The LoRA adapter alone, for PEFT, and not the whole model.")]


def export(
    run: RunName,
    decoder: str | None = None,
    csv: Path | None = None,
    jsonl: Path | None = None,
    dataset: Path | None = None,
    format: Literal["alpaca_eval"] = "alpaca_eval",
    output: Path = Path("model_outputs.json"),
    generator: str | None = None,
) -> None:
    """Write generations as a table, a row for each; or a decoder's answers as AlpacaEval's model_outputs.json.

    Args:
        decoder: The name of a decoder of that run, such as cbs-2-4-8; a table without it has those of all.
        csv: The CSV file of a table with prompt, text, reward, judge and fluency of each generation.
        jsonl: The same as JSON, an object a line.
        dataset: The same as a new folder that datasets.load_dataset reads.
        format: Without these three: the tool that the file is for.
        output: Without these three: the file to write.
        generator: What AlpacaEval calls the model; by default RUN:DECODER.
    """
    from trimtab.integrations.alpaca_eval import alpaca_eval
    from trimtab.integrations.generation_table import check_new, rows_of, write_csv, write_dataset, write_jsonl
    from trimtab.pipeline.decoded import decoders_of, read_decoded
    from trimtab.store.files import write_text
    from trimtab.store.remote import local_run

    writers = ((csv, write_csv), (jsonl, write_jsonl), (dataset, write_dataset))
    tables = [(path, write) for path, write in writers if path is not None]
    for path in [path for path, _ in tables] or [output]:
        check_new(path)
    if tables:
        names = decoders_of(local_run(run)) if decoder is None else [decoder]
        rows = [row for name in names for row in rows_of(read_decoded(f"{run}:{name}"))]
        for path, write in tables:
            write(rows, path)
            print(f"{len(rows)} generations of {', '.join(names)}, in {path}")
        return
    if decoder is None:
        raise ConfigurationError(
            "nothing says what to write: give --csv FILE, --jsonl FILE or --dataset FOLDER for a table of all "
            "generations, or --decoder NAME for AlpacaEval"
        )
    decoded = read_decoded(f"{run}:{decoder}")
    answers = alpaca_eval(decoded, generator or decoded.name)
    write_text(output, [json_format.dumps(answers, indent=2, ensure_ascii=False) + "\n"])
    print(f"{len(answers)} answers of {decoded.name}, in {output}")


def compare(first: Decoder, second: Decoder, json: bool = False, resamples: int = 2000, seed: int = 0) -> None:
    """Compare two decoders by the gold reward, of one run or of two: win rate, and length-controlled win rate.

    Args:
        first: A decoder of a run, such as runs/chat:cbs-2-4-8, whose win rates are given.
        second: The decoder that it is compared with.
        json: Print one JSON object instead of a table.
        resamples: Bootstrap resamples of the prompts, for the intervals.
        seed: The seed of the resamples.
    """
    if resamples < 100:
        raise ConfigurationError(f"resamples is {resamples}: give at least 100")
    from rich.console import Console

    from trimtab.evaluation.comparison import compare as compare_answers
    from trimtab.pipeline.decoded import read_decoded
    from trimtab.report.tables import comparison_table, comparison_values

    ours, theirs = read_decoded(first), read_decoded(second)
    if ours.reward != theirs.reward:
        raise ConfigurationError(
            f"{ours.name} and {theirs.name} were scored by different rewards (reward-{ours.reward} and "
            f"reward-{theirs.reward}): score both by one"
        )
    compared = compare_answers(ours.judged(), theirs.judged(), resamples=resamples, confidence=0.95, seed=seed)
    if json:
        print(json_format.dumps(comparison_values(first, second, ours.reward, compared), indent=2))
    else:
        Console().print(comparison_table(first, second, compared))


def merge(
    directories: Annotated[tuple[Path, ...], Positional, arg(metavar="DIR [DIR ...]")], into: Path | None = None
) -> None:
    """Put the shards of a run together: every shard exactly once, all of one configuration.

    Args:
        directories: Run directories that hold shards, such as runs/a/quickstart runs/b/quickstart.
        into: The run directory to put them together in; with a single directory, that one.
    """
    from trimtab.pipeline.merge import merge_shards

    for line in merge_shards(directories, into):
        print(line)


def save(run: RunName, folder: Annotated[Path, Positional], adapter: Adapter = False) -> None:
    """Save a run's tuned guide as a folder of transformers or PEFT, with a model card.

    Args:
        folder: The new folder.
    """
    from trimtab.integrations.hub import save_guide
    from trimtab.store.remote import local_run

    print(save_guide(local_run(run, *GUIDE_STAGES), folder, adapter=adapter))


def push(run: RunName, name: Annotated[str, Positional], adapter: Adapter = False, public: bool = False) -> None:
    """Upload a run's tuned guide to the model hub, with a model card; private unless told otherwise.

    Args:
        name: Its name there, such as someone/my-guide.
        public: Let everybody see it, where it is new.
    """
    from trimtab.integrations.hub import push_guide
    from trimtab.store.remote import local_run

    print(push_guide(local_run(run, *GUIDE_STAGES), name, adapter=adapter, public=public))
