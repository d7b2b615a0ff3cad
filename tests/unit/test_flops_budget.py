"""What a search costs is what its models count, and a budget buys the largest search that it pays for."""

import pytest

from identities import SAMPLING, SEED
from tiny import language_model
from trimtab.errors import ConfigurationError
from trimtab.models.cached_model import CachedModel
from trimtab.models.sizes import ModelSize
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.flops_budget import Workload, search_flops, within_budget
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

PROMPT = Prompt("a", "This was the worst film")


def models() -> tuple[CachedModel, CachedModel, CachedModel]:
    return language_model(0), language_model(1), language_model(2)


@pytest.mark.parametrize("shape", [(4, 4, 5), (1, 6, 12), (2, 3, 1), (3, 2, 7)])
def test_the_cost_is_what_the_models_count(shape: tuple[int, int, int]) -> None:
    base, tuned, untuned = models()
    length = 12
    proposer = LanguageModelProposer(base, SAMPLING, SEED, ignore_eos=True)
    Search(*shape, length).run([PROMPT], proposer, ImplicitValue(tuned, untuned, base))
    prompt = len(base.vocabulary.encode_prompt(PROMPT.text, "{prompt}"))
    work = Workload((base.size, tuned.size, untuned.size), prompt, length)
    assert search_flops(work, *shape) == base.flops + tuned.flops + untuned.flops


WORK = Workload((ModelSize(1e8, 3e7), ModelSize(1e7, 3e6), ModelSize(1e7, 3e6)), prompt=20, response=40)


@pytest.mark.parametrize("given", [{}, {"width": 1}, {"successors": 4, "chunk": 10}])
@pytest.mark.parametrize("flops", [6e10, 3e11, 2e12])
def test_a_budget_buys_the_largest_search_that_it_pays_for(given: dict[str, int], flops: float) -> None:
    width, successors, chunk = within_budget(flops, WORK, **given)
    assert search_flops(WORK, width, successors, chunk) <= flops
    assert given.items() <= {"width": width, "successors": successors, "chunk": chunk}.items()
    larger = (width, successors + 1) if "successors" not in given else (width + 1, successors)
    if successors > width and not given:
        larger = (successors, successors)
    assert search_flops(WORK, *larger, chunk) > flops


def test_too_small_a_budget_says_what_the_smallest_search_costs() -> None:
    with pytest.raises(ConfigurationError, match=r"budget 1e\+06 pays for no search: 1 x 2 candidates cost"):
        within_budget(1e6, WORK)
