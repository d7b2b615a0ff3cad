"""Supervised fine-tuning on tiny random models: what is trained on, what is learned, that stops change nothing."""

import json
from pathlib import Path

import pytest
import torch
from test_training_resume import Killed, stops_after
from transformers import AutoModelForCausalLM

from tiny import full_log_probabilities, gpt2, llama, tokenizer
from trimtab.config.search import SamplingConfig
from trimtab.config.training import SftConfig
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.models.cached_model import CachedModel
from trimtab.models.roles import vocabulary_of
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.training.checkpoints import Saving
from trimtab.training.job import TrainingJob
from trimtab.training.sft import fine_tune
from trimtab.training.tokens import encode_texts

START, END = 1, 0
WORDS = ["good", "great", "awful", "bad", "wonderful", "terrible"]
TRAIN = [f"This film is {word}{' and I would see it again' * (number % 3)}." for number, word in enumerate(WORDS * 4)]
HELDOUT = [f"The story is {word}." for word in WORDS]


def settings(**changes: object) -> SftConfig:
    plain = {"lora": {"rank": 4, "alpha": 8}, "batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "warmup": 0.0}
    return SftConfig.model_validate({**plain, **changes})


def run(folder: Path, config: SftConfig, train=TRAIN, heldout=HELDOUT, model=None, **more):
    model = llama(0, dtype=torch.float32) if model is None else model
    return fine_tune(train, heldout, model, tokenizer(), config, TrainingJob(folder), **more)


def loss_by_hand(texts: list[str], max_length: int = 512) -> float:
    """Nats a token over all tokens but each text's first, from one plain pass over each text alone in float64."""
    rows = [row.input_ids for row in encode_texts(texts, Vocabulary(tokenizer()), max_length)]
    logs = [log for ids in rows for log in full_log_probabilities(llama(0), ids[:1], ids[1:])]
    return -sum(logs) / len(logs)


def test_texts_begin_with_the_start_token_and_end_only_where_they_ended():
    encode = tokenizer().encode
    text = "This film is wonderful."
    whole, cut = (encode_texts([text], Vocabulary(tokenizer()), length)[0].input_ids for length in (64, 6))
    assert whole == [START, *encode(text), END]
    assert cut == [START, *encode(text)][:6] and cut[-1] != END
    exact = len(encode(text)) + 2
    assert encode_texts([text], Vocabulary(tokenizer()), exact)[0].input_ids[-1] == END
    other = Vocabulary(tokenizer(), start_token="<end>")
    assert encode_texts([text], other, 64)[0].input_ids[0] == END


@pytest.mark.parametrize(
    "changes", [{}, {"lora": None}, {"packing": True, "max_length": 40}, {"max_length": 10}], ids=str
)
def test_the_loss_is_the_likelihood_of_every_token_behind_the_first(tmp_path, changes):
    """At a learning rate too small to move a weight. Packed texts do not see one another, and lose no token."""
    summary = run(tmp_path, settings(learning_rate=1e-40, batch_size=6, evaluations=1, **changes), TRAIN[:6])
    expected = loss_by_hand(HELDOUT, changes.get("max_length", 512))
    assert summary["eval_loss"] == pytest.approx(expected, abs=2e-5)
    lengths = [len(tokenizer().encode(text)) + 2 for text in TRAIN[:6]]
    assert summary["cut_reviews"] == sum(length > changes.get("max_length", 512) for length in lengths)


def test_an_adapter_makes_such_texts_likelier(tmp_path):
    assert run(tmp_path, settings(epochs=12))["eval_loss"] < loss_by_hand(HELDOUT) - 1


@pytest.mark.parametrize("changes", [{"epochs": 12}, {"epochs": 40, "packing": True, "max_length": 64}])
def test_the_trained_model_writes_such_texts_from_its_start_token(tmp_path, changes):
    """Greedily, and with an end where they end; the untrained one does not."""
    run(tmp_path, settings(lora=None, learning_rate=3e-3, **changes))
    written = []
    for model in (llama(0, dtype=torch.float32), AutoModelForCausalLM.from_pretrained(tmp_path / "model")):
        wrapped = CachedModel(model.eval(), vocabulary_of(model, tokenizer(), None))
        proposer = LanguageModelProposer(wrapped, SamplingConfig(temperature=0), seed=0)
        ((best, *_),) = Search(max_new_tokens=60).run([Prompt("p", "")], proposer, None)
        written.append((best.text.startswith("This film is "), best.finish))
    assert written == [(False, "length"), (True, "eos")]


SETTINGS = {
    "adapter with dropout": {"lora": {"rank": 4, "dropout": 0.2}, "logging_steps": 3},
    "all weights": {"lora": None, "learning_rate": 3e-3, "optimizer": "rmsprop", "warmup": 3},
    "packed": {"packing": True, "max_length": 40, "gradient_accumulation": 2},
    "best is early": {"lora": None, "learning_rate": 0.3, "evaluations": 6},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_stopped_again_and_again_ends_in_the_same_bytes(tmp_path, name):
    """A checkpoint at each step against none; stops lie in both epochs."""
    config = settings(epochs=2, **SETTINGS[name])

    def tuned(folder: Path, saving: Saving, advance=lambda done, total: None) -> dict[str, bytes]:
        model = llama(0, dtype=torch.float32)
        summary = fine_tune(TRAIN, HELDOUT, model, tokenizer(), config, TrainingJob(folder, 0, advance, saving))
        files = ["log.jsonl", "model/model.safetensors"] + ["adapter/adapter_model.safetensors"] * bool(config.lora)
        return {"summary": json.dumps(summary).encode(), **{name: (folder / name).read_bytes() for name in files}}

    whole = tuned(tmp_path / "whole", Saving(tmp_path / "rare", 1e9))
    stops = 0
    for calls in (3, 4, 2, 5, 100):
        try:
            resumed = tuned(tmp_path / "resumed", Saving(tmp_path / "often", 0), stops_after(calls))
        except Killed:
            stops += 1
    assert stops >= 2
    assert resumed == whole


def test_progress_counts_to_its_total_and_nothing_is_printed(tmp_path, capsys, recwarn):
    """Not even by what packs the texts."""
    told = []
    model = gpt2(0, dtype=torch.float32)
    config = settings(packing=True, max_length=40)
    fine_tune(
        TRAIN, HELDOUT, model, tokenizer(), config, TrainingJob(tmp_path, advance=lambda *each: told.append(each))
    )
    assert told == [(done, told[-1][1]) for done in range(1, len(told) + 1)] and told[-1][0] == told[-1][1]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not [str(warning.message) for warning in recwarn]


def test_what_is_saved_has_the_special_tokens_it_came_with(tmp_path):
    model = gpt2(0, dtype=torch.float32)
    model.generation_config.eos_token_id = [0, 2]
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    run(tmp_path, settings(), model=model)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert saved.generation_config.eos_token_id == [0, 2] and saved.config.pad_token_id is None


def test_mistakes_are_said_in_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"sft.max_length is 512 and the small model's context 256: lower it"):
        run(tmp_path, settings(max_length=512))
    with pytest.raises(ConfigurationError, match=r"sft\.lora\.top_layers is 9 and the model has 2 layers"):
        run(tmp_path, settings(lora={"top_layers": 9}))
    with pytest.raises(DataError, match="there are no texts"):
        run(tmp_path, settings(), heldout=[])
    with pytest.raises(ModelError, match="float16, which cannot be tuned"):
        run(tmp_path, settings(), model=llama(0, dtype=torch.float16))
    with pytest.raises(ModelError, match="is 2 tokens: name a single token"):
        run(tmp_path, settings(), start_token="<start><start>")
    with pytest.raises(ModelError, match=r"diverged: the held-out loss is nan after 6 steps; lower sft.learning_rate"):
        run(tmp_path, settings(lora=None, learning_rate=1e30))
