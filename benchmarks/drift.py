"""What bfloat16 does to values: how far they move from float32, and how often another candidate wins.

    python benchmarks/drift.py
    python benchmarks/drift.py --json drift.json

CBS 4/4/5 of SmolLM2 guided by a pair of the same size is run in the dtype. What its returned hypotheses are worth is
then computed three times over: as the search did, token by token from its caches; in one pass over the whole text in
the same dtype; and in one pass by float32 copies of the very same weights. A value is the sum of log p_tuned - log
p_untuned, in nats; `mean a token` is the mean difference of two values over the mean length. `spread of values` is the
standard deviation of a prompt's hypotheses, which the differences must stay below for the search to choose rightly;
`other winner` counts the prompts at which another of them is the best.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from search import OPENINGS, SAMPLING, SMOLLM, Workload, load, machine
from trimtab.config.models import Dtype
from trimtab.models.cached_model import CachedModel
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

LAYERS = 30


def worth(
    tuned: CachedModel, untuned: CachedModel, prompts: Sequence[str], found: Sequence[Sequence[Hypothesis]]
) -> list[list[float]]:
    """The log-ratio of every hypothesis, from one pass over each text."""
    texts = [prompt for prompt, group in zip(prompts, found, strict=True) for _ in group]
    ids = [each.token_ids for group in found for each in group]
    high, low = (sequence_log_probabilities(model, texts, ids) for model in (tuned, untuned))
    values = iter([one - other for one, other in zip(high, low, strict=True)])
    return [[next(values) for _ in group] for group in found]


def compare(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]
) -> dict[str, float]:
    """How far two sets of values are apart."""
    apart = np.abs(np.concatenate(one) - np.concatenate(other))
    tokens = np.concatenate(lengths)
    spread = np.concatenate([np.array(group) - np.mean(group) for group in other]).std()
    winners = [int(np.argmax(first)) != int(np.argmax(second)) for first, second in zip(one, other, strict=True)]
    return {
        "mean_a_token": float(apart.sum() / tokens.sum()),
        "mean_a_value": float(apart.mean()),
        "largest_a_value": float(apart.max()),
        "spread_of_values": float(spread),
        "other_winner": float(np.mean(winners)),
    }


def measure(prompts: Sequence[str], tokens: int, dtype: Dtype) -> dict[str, dict[str, float]]:
    """Each comparison by its name."""
    models = load(
        Workload(SMOLLM, Search(4, 4, 5, tokens), LAYERS), pick_dtype(dtype, default_device()), default_device()
    )
    vocabulary = Vocabulary(models.guide_tokenizer)
    wide = [CachedModel(copy.deepcopy(each).float(), vocabulary) for each in (models.tuned, models.untuned)]
    base, tuned, untuned = (CachedModel(m, vocabulary) for m in (models.base, models.tuned, models.untuned))
    proposer = LanguageModelProposer(base, SAMPLING, seed=0, ignore_eos=True)
    records = [Prompt(str(number), prompt) for number, prompt in enumerate(prompts)]
    found = Search(4, 4, 5, tokens).run(records, proposer, ImplicitValue(tuned, untuned, base))
    searched = [[each.value for each in group] for group in found]
    lengths = [[len(each.token_ids) for each in group] for group in found]
    whole = worth(tuned, untuned, prompts, found)
    exact = worth(*wide, prompts, found)
    return {
        "from caches, against one pass": compare(searched, whole, lengths),
        "from caches, against float32": compare(searched, exact, lengths),
        "one pass, against float32": compare(whole, exact, lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--dtype", default="bfloat16", help="auto, float32 or bfloat16")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    prompts = [OPENINGS[number % len(OPENINGS)] for number in range(arguments.prompts)]
    found = measure(prompts, arguments.tokens, arguments.dtype)
    table = Table(
        title=f"{arguments.prompts} prompts, {arguments.tokens} tokens, {arguments.dtype}, {machine(default_device())}"
    )
    columns = ("values", "mean a token", "mean a value", "largest", "spread of values", "other winner")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in found.items():
        figures = [f"{row[key]:.2g}" for key in ("mean_a_token", "mean_a_value", "largest_a_value", "spread_of_values")]
        table.add_row(name, *figures, f"{row['other_winner']:.0%}")
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
