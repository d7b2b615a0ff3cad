"""The embedded models: the search's identities in float32, and the quickstart's line at a few prompts."""

import copy
import csv
from pathlib import Path

import pytest
import torch

from finished import run
from tiny import full_log_probabilities
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.config.models import ModelConfig
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.models.load_options import quantization_of
from trimtab.models.roles import load_language_model
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from trimtab.store.progress import watching

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]

PROMPTS = [Prompt("a", "This film"), Prompt("b", "I was surprised that the second half of it"), Prompt("c", "Très")]
SAMPLING = SamplingConfig(temperature=0.7, top_k=50)
FLOAT32 = 5e-6  # nats a token


@pytest.fixture(scope="module")
def smol() -> CachedModel:
    return load_language_model(ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct", dtype="float32"), Assets())


@pytest.fixture(scope="module")
def gemma() -> CachedModel:
    template = "Here is a movie review from imdb: {prompt}"
    return load_language_model(ModelConfig(name="google/gemma-3-270m", template=template, dtype="float32"), Assets())


@pytest.fixture(scope="module")
def tuned(smol: CachedModel) -> CachedModel:
    """SmolLM2 with its upper 12 layers nudged, as tuning them would."""
    model = copy.deepcopy(smol.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers[-12:]:
            for weight in layer.parameters():
                weight.add_(torch.randn_like(weight) * weight.std(), alpha=0.05)
    return CachedModel(model, smol.vocabulary, smol.template)


@pytest.mark.parametrize("cross", [False, True])
def test_values_are_those_of_whole_passes(
    smol: CachedModel, tuned: CachedModel, gemma: CachedModel, cross: bool
) -> None:
    """Over the same tokenizer and across tokenizers, batched, cached and incremental: 5e-6 nats a token and model."""
    base = gemma if cross else smol
    search = Search(width=2, successors=2, chunk=4, max_new_tokens=12)
    found = search.run(PROMPTS, LanguageModelProposer(base, SAMPLING, 0), ImplicitValue(tuned, smol, base))
    for prompt, group in zip(PROMPTS, found, strict=True):
        ids = smol.vocabulary.encode_prompt(prompt.text, "{prompt}")
        for each in group:
            response = each.token_ids
            if cross:
                end = [smol.vocabulary.end_id] if each.finish == "eos" else []
                response = smol.vocabulary.encode_response(each.text) + end
            logs = [sum(full_log_probabilities(model.model, ids, response)) for model in (tuned, smol)]
            assert each.value == pytest.approx(logs[0] - logs[1], abs=2 * FLOAT32 * (len(response) + 1))


def test_a_batch_decodes_as_each_prompt_alone(smol: CachedModel) -> None:
    proposer = LanguageModelProposer(smol, SAMPLING, 1)
    together = Search(max_new_tokens=10).run(PROMPTS, proposer, None)
    alone = [Search(max_new_tokens=10).run([prompt], proposer, None)[0] for prompt in PROMPTS]
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]


def test_gemma_continues_a_review_in_english(gemma: CachedModel) -> None:
    """The conversion from GGUF is sound: the text is likely, and begins where the prompt ended."""
    ids = gemma.vocabulary.encode_prompt("This film", gemma.template)
    response = gemma.vocabulary.encode_response(" is one of the best movies I have ever seen.")
    logs = full_log_probabilities(gemma.model, ids, response)
    assert sum(logs) / len(logs) > -2.5
    (group,) = Search(max_new_tokens=8).run(
        [PROMPTS[0]], LanguageModelProposer(gemma, SamplingConfig(temperature=0), 0), None
    )
    assert group[0].text.startswith(" ") and group[0].text.isascii()


def test_the_quickstart_runs_on_a_few_prompts(tmp_path: Path) -> None:
    decoders = "[{model: large}, {model: large, successors: 4}, {best_of: bon-4}, {model: untuned}, {model: tuned}]"
    small = [
        "data.reward_reviews=64", "data.reward_heldout=32", "data.judge_reviews=200", "data.tuning_prompts=6",
        "data.validation_prompts=2", "data.test_prompts=3", "synthesize.samples=3", "synthesize.max_new_tokens=8",
        "pairs.per_prompt=1", "tune.batch_size=4", "guide.max_new_tokens=8", "evaluate.bootstrap=200",
        f"guide.decoders={decoders}",
    ]  # fmt: skip
    threads = torch.get_num_threads()
    with watching(quiet=True) as watch:
        run(load_experiment(cli.SHIPPED / "quickstart.yaml", small), tmp_path, Assets(), watch)
    assert torch.get_num_threads() == threads
    with (tmp_path / "quickstart/report/table.csv").open(encoding="utf-8") as file:
        rows = {row["decoder"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["base", "bon-4", "gold-bon-4", "untuned", "tuned"]
    assert float(rows["gold-bon-4"]["gain"]) >= float(rows["bon-4"]["gain"])
    assert -6 < float(rows["base"]["fluency"]) < 0


def test_four_bits_say_nearly_what_all_bits_say(smol: CachedModel) -> None:
    """On the CPU: weights of a third of the size, and log-probabilities within half a nat a token on the mean."""
    pytest.importorskip("bitsandbytes")
    config = ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct", dtype="float32", quantization="4bit")
    small = load_language_model(config, Assets())
    assert quantization_of(small.model) == "4bit" and quantization_of(smol.model) is None
    layers = [sum(part.nbytes for part in each.model.model.layers.parameters()) for each in (small, smol)]
    assert layers[0] < 0.2 * layers[1]
    texts = [" was one of the best that I have seen this year.", " was a waste of time and money."]
    responses = [smol.vocabulary.encode_response(text) for text in texts]
    prompts = ["This film", "I thought that the second half of the movie"]
    found, expected = (sequence_log_probabilities(each, prompts, responses) for each in (small, smol))
    for one, other, response in zip(found, expected, responses, strict=True):
        assert 0 < abs(one - other) < 0.5 * len(response)
