"""Preference tuning with TRL on tiny random models."""

import dataclasses
import gc
import json
import math
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from tiny import full_log_probabilities, gpt2, llama, tokenizer
from trimtab.config.models import ModelConfig
from trimtab.config.training import LoraSettings, TuneConfig
from trimtab.errors import ConfigurationError, DataError, ModelError, VocabularyError
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Pair
from trimtab.training import preference
from trimtab.training import resumable_trainer as resumable
from trimtab.training.adapter import lora_config
from trimtab.training.batches import BatchOrder, arrange
from trimtab.training.job import TrainingJob
from trimtab.training.pair_forward import PairForward
from trimtab.training.pair_trainer import PairTrainer
from trimtab.training.preference import tune
from trimtab.training.tokens import PairTokens, encode_pairs

END = 0
LORA = LoraSettings(rank=4, alpha=8)


def make_pairs(count: int, seed: int, split: str = "train") -> list[Pair]:
    """Prompts and responses of many lengths. The winner, in either place, has the lower ids; every second response
    ended with an end token that the model sampled."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        good = [draw.randrange(5, 160) for _ in range(draw.randrange(3, 14))]
        bad = [draw.randrange(160, 320) for _ in range(draw.randrange(3, 14))]
        (good if number % 2 else bad).append(END)
        chosen = draw.randrange(2)
        ids = [good, bad] if chosen == 0 else [bad, good]
        pairs.append(
            Pair(
                prompt_id=f"{split}-{number}",
                prompt="not used: the ids count",
                responses=["a", "b"],
                chosen=chosen,
                rewards=[0.0, 0.0],
                probability=0.5,
                prompt_ids=[1, *(draw.randrange(5, 320) for _ in range(draw.randrange(6)))],
                token_ids=ids,
                ended=[token_ids[-1] == END for token_ids in ids],
                split=split,
            )
        )
    return pairs


TRAIN, VALIDATION = make_pairs(22, 1), make_pairs(9, 2, "validation")


def settings(**changes: object) -> TuneConfig:
    plain = {"lora": LORA, "batch_size": 4, "epochs": 2, "learning_rate": 1e-2, "logging_steps": 1, "warmup": 0.0}
    return TuneConfig.model_validate({**plain, **changes})


def run(folder: Path, model: torch.nn.Module, config: TuneConfig, train=TRAIN, validation=VALIDATION, **more):
    return tune(train, validation, model, tokenizer(), config, TrainingJob(folder), **more)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def trainer_for(folder: Path, config: TuneConfig, pairs: list[Pair] = TRAIN, model: torch.nn.Module | None = None):
    rows = encode_pairs(pairs, Vocabulary(tokenizer()), "{prompt}", config.max_length, 320).rows
    rows = arrange(rows, config.batch_size, 0)
    model = llama(0, dtype=torch.float32) if model is None else model
    return PairTrainer(model, tokenizer(), rows, rows, config, TrainingJob(folder))


def log_probability(model: torch.nn.Module, prompt: list[int], response: list[int]) -> float:
    return sum(full_log_probabilities(model, prompt, response))


# Losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "delta", "expected"),
    [
        # margin = beta * delta; sigmoid: log(1 + exp(-margin))
        ({"loss": "sigmoid", "beta": 0.5}, 4.0, 0.1269280110),
        ({"loss": "sigmoid", "beta": 0.5}, -1.0, 0.9740769841),
        # hinge: max(0, 1 - margin)
        ({"loss": "hinge", "beta": 0.5}, 4.0, 0.0),
        ({"loss": "hinge", "beta": 0.5}, 0.5, 0.75),
        ({"loss": "hinge", "beta": 0.1}, -1.0, 1.1),
    ],
)
def test_losses_are_the_papers(tmp_path, config, delta, expected):
    """With the reference shifted so that chosen gained delta - 1 nats and rejected lost 1, by hand."""
    trainer = trainer_for(tmp_path, settings(**config))
    batch = next(iter(trainer.get_train_dataloader()))
    batch["ref_chosen_logps"] -= delta - 1
    batch["ref_rejected_logps"] += 1
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=2e-5)


def test_hinge_sft_adds_the_weighted_likelihood_of_the_chosen(tmp_path):
    """SLiC-HF's regulariser: sft_weight times the mean negative log-probability of a token of the chosen responses."""
    trainer = trainer_for(tmp_path, settings(loss="hinge_sft", sft_weight=0.3, beta=0.5))
    batch = next(iter(trainer.get_train_dataloader()))
    likelihood = -float(batch["ref_chosen_logps"].sum()) / int(batch["completion_mask"][:4].sum())
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(1.0 + 0.3 * likelihood, rel=1e-5)


# Tokens ------------------------------------------------------------------------------------------------------------


def test_batches_hold_the_sampled_ids_and_end_tokens_only_where_sampled(tmp_path):
    """Guards TRL's own preparation, which appends an end token to every response; the loss mask is checked too."""
    trainer = trainer_for(tmp_path, settings())
    seen = set()
    for batch in trainer.get_train_dataloader():
        for ids, attended, scored in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
        ):
            length = int(attended.sum())
            assert attended[:length].all() and not scored[length:].any()
            prompt = length - int(scored.sum())
            assert not scored[:prompt].any() and scored[prompt:length].all()
            seen.add((tuple(ids[:prompt].tolist()), tuple(ids[prompt:length].tolist())))
    expected = {(tuple(pair.prompt_ids), tuple(ids)) for pair in TRAIN for ids in pair.token_ids}
    assert seen == expected
    ended = [ids for _, ids in seen if END in ids]
    assert len(ended) == len(TRAIN) and all(ids[-1] == END for ids in ended)


def test_chosen_stands_before_rejected(tmp_path):
    """Guards the swap: TRL reads the first half of a batch as chosen; here the chosen have ids below 160."""
    for batch in trainer_for(tmp_path, settings()).get_train_dataloader():
        chosen, rejected = batch["input_ids"].chunk(2)
        chosen_scored, rejected_scored = batch["completion_mask"].bool().chunk(2)
        assert (chosen[chosen_scored] < 160).all()
        assert all(token == END or token >= 160 for token in rejected[rejected_scored])


def test_reference_is_the_log_probability_of_the_response(tmp_path):
    """One masked sum: response tokens given prompt and response so far, equal to a plain pass over each alone."""
    model = llama(0, dtype=torch.float32)
    rows = trainer_for(tmp_path, settings(), model=model).train_dataset
    plain = llama(0, dtype=torch.float64)
    for row in list(rows)[:6]:
        for name in ("chosen", "rejected"):
            expected = log_probability(plain, row["prompt_ids"], row[f"{name}_ids"])
            assert row[f"ref_{name}_logps"] == pytest.approx(expected, abs=1e-3)


def text_pair(**changes: object) -> Pair:
    pair = Pair("t", "This movie", [" was good", " was bad"], 1, [], 0.5, [], [], ended=[True, False])
    return dataclasses.replace(pair, **changes)


def test_text_is_encoded_apart_and_ends_only_where_it_ended():
    """A pair of another data set: the prompt in the small model's template, responses without one more token than
    their own, and the boundary between the two where the text has it."""
    encode = tokenizer().encode
    (row,) = encode_pairs([text_pair()], Vocabulary(tokenizer()), "Review: {prompt}", 64, 320).rows
    assert row == PairTokens(encode("Review: This movie"), encode(" was bad"), [*encode(" was good"), END])
    (empty,) = encode_pairs([text_pair(prompt="")], Vocabulary(tokenizer()), "{prompt}", 64, 320).rows
    assert empty.prompt_ids == [tokenizer().bos_token_id]


def test_length_cuts_the_end_and_drops_what_has_no_response_left():
    long = text_pair(prompt_ids=[1] * 6, token_ids=[[5] * 9 + [END], [6]])
    encoded = encode_pairs(
        [long, text_pair(prompt_ids=[1] * 8, token_ids=[[5], [6]])], Vocabulary(tokenizer()), "{prompt}", 8, 320
    )
    assert encoded.rows == [PairTokens([1] * 6, [6], [5, 5])]
    assert (encoded.truncated, encoded.dropped) == (1, 1)
    with pytest.raises(DataError, match=r"none of 1 pairs .* fit max_length 8"):
        encode_pairs([text_pair(prompt_ids=[1] * 8, token_ids=[[5], [6]])], Vocabulary(tokenizer()), "{prompt}", 8, 320)


def test_ids_of_another_model_are_refused():
    with pytest.raises(VocabularyError, match="token 500 and the model has 320"):
        encode_pairs([text_pair(prompt_ids=[1], token_ids=[[5], [500]])], Vocabulary(tokenizer()), "{prompt}", 64, 320)
    with pytest.raises(DataError, match="pair t has token_ids and no prompt_ids"):
        encode_pairs([text_pair(token_ids=[[5], [6]])], Vocabulary(tokenizer()), "{prompt}", 64, 320)


def test_batches_keep_their_rows_and_change_their_order():
    """Every epoch visits every row once, in the same batches; a smaller batch is the last."""
    epochs = []
    order = BatchOrder(22, 4, seed=0)
    for epoch in range(3):
        order.set_epoch(epoch)
        indices = list(order)
        assert sorted(indices) == list(range(22)) and indices[20:] == [20, 21]
        epochs.append([tuple(indices[start : start + 4]) for start in range(0, 20, 4)])
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2]) == {tuple(range(s, s + 4)) for s in range(0, 20, 4)}


def test_arranging_keeps_rows_and_saves_padding():
    rows = encode_pairs(make_pairs(400, 3), Vocabulary(tokenizer()), "{prompt}", 64, 320).rows
    arranged = arrange(rows, 8, seed=0)
    assert sorted(map(str, arranged)) == sorted(map(str, rows)) and arranged != arrange(rows, 8, seed=1)

    def padded(rows: list[PairTokens]) -> int:
        return sum(8 * max(row.length for row in rows[start : start + 8]) for start in range(0, 400, 8))

    assert padded(arranged) < 0.8 * padded(rows)


# Rewards at step 0 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (partial(llama, dtype=torch.float32), {}),
        (partial(llama, dtype=torch.bfloat16), {"epochs": 1}),
        (partial(llama, dtype=torch.float32), {"lora": {"rank": 4, "dropout": 0.3, "top_layers": 1}, "epochs": 1}),
        (partial(gpt2, dtype=torch.float32), {"lora": None, "gradient_accumulation": 2}),
        (partial(llama, dtype=torch.float32), {"lora": None, "batch_size": 5, "epochs": 1}),
    ],
)
def test_rewards_before_any_update_are_exactly_zero(tmp_path, make, changes):
    """Batch shapes move a log-probability by 1e-6, so the reference must come from the same batches. The learning
    rate is too small to move a weight: every batch of both epochs and of each evaluation is at step 0."""
    run(tmp_path, make(0), settings(learning_rate=1e-40, **changes))
    entries = [entry for entry in log_of(tmp_path) if "train_loss" not in entry]
    assert len(entries) >= 7
    for entry in entries:
        phase = "eval_" if "eval_loss" in entry else ""
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert entry[phase + name] == 0.0


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """One plain run, shared by the tests that only look at what it left: its folder, and the progress it told."""
    folder, told = tmp_path_factory.mktemp("ordinary"), []
    config, model = settings(gradient_accumulation=2), llama(0, dtype=torch.float32)
    job = TrainingJob(folder, advance=lambda done, total: told.append((done, total)))
    tune(TRAIN, VALIDATION, model, tokenizer(), config, job)
    return folder, told


def test_first_log_line_of_a_real_run_is_step_zero(ordinary):
    first = log_of(ordinary[0])[0]
    assert first["step"] == 1
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)


# Training ----------------------------------------------------------------------------------------------------------


def check_tuning_moves_the_chosen_above_the_rejected(folder: Path, config: TuneConfig) -> None:
    """On pairs it never saw, the saved model prefers the winners by more than the untuned one did, though they stand
    first as often as second; and the margins that the trainer reports are the ones of the saved model."""
    validation = make_pairs(24, 5, "validation")
    summary = run(folder, llama(0, dtype=torch.float32), config, validation=validation)
    tuned, untuned = AutoModelForCausalLM.from_pretrained(folder / "model"), llama(0, dtype=torch.float32)
    margins = []
    for pair in validation:
        chosen, rejected = (
            log_probability(tuned, pair.prompt_ids, ids) - log_probability(untuned, pair.prompt_ids, ids)
            for ids in (pair.token_ids[pair.chosen], pair.token_ids[1 - pair.chosen])
        )
        margins.append(config.beta * (chosen - rejected))
    assert sum(margin > 0 for margin in margins) >= 17
    assert summary["eval_margin"] == pytest.approx(sum(margins) / len(margins), rel=1e-3, abs=1e-4)
    assert summary["eval_accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / len(margins))


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": None, "learning_rate": 3e-3}, {"loss": "hinge", "optimizer": "rmsprop", "learning_rate": 2e-3}],
)
def test_tuning_moves_the_chosen_above_the_rejected(tmp_path, changes):
    check_tuning_moves_the_chosen_above_the_rejected(tmp_path, settings(epochs=4, **changes))


def test_chosen_and_rejected_swapped_is_caught(tmp_path, monkeypatch):
    """The fault planted: the check above must fail."""
    sound = preference.encode_pairs

    def swapped(*arguments):
        encoded = sound(*arguments)
        rows = [PairTokens(row.prompt_ids, row.rejected_ids, row.chosen_ids) for row in encoded.rows]
        return dataclasses.replace(encoded, rows=rows)

    monkeypatch.setattr(preference, "encode_pairs", swapped)
    with pytest.raises(AssertionError):
        check_tuning_moves_the_chosen_above_the_rejected(tmp_path, settings(epochs=4))


def test_best_evaluation_is_what_is_kept(tmp_path):
    """Validation pairs labelled the other way round get worse with every step: the first evaluation is the best, and
    the saved weights are its own."""
    validation = [dataclasses.replace(pair, chosen=1 - pair.chosen) for pair in VALIDATION]
    config = settings(lora=None, learning_rate=3e-3, evaluations=4, epochs=1.5)
    summary = run(tmp_path, llama(0, dtype=torch.float32), config, validation=validation)
    evaluations = {entry["step"]: entry for entry in log_of(tmp_path) if "eval_loss" in entry}
    assert list(evaluations) == [2, 4, 7, 9]
    best = min(evaluations, key=lambda step: evaluations[step]["eval_loss"])
    assert summary["best_step"] == best == 2 and summary["steps"] == 9
    assert summary["eval_loss"] < summary["final_eval_loss"] == evaluations[9]["eval_loss"]
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    chosen = [log_probability(kept, pair.prompt_ids, pair.token_ids[pair.chosen]) for pair in validation]
    assert sum(chosen) / len(chosen) == pytest.approx(evaluations[best]["eval_logps/chosen"], abs=1e-3)
    assert not (tmp_path / "checkpoints").exists()


def test_adapter_and_merged_model_are_one(ordinary, tmp_path):
    """For Llama, and for GPT-2, whose linear maps are stored transposed."""
    run(tmp_path, gpt2(0, dtype=torch.float32), settings(epochs=1))
    for make, folder in ((llama, ordinary[0]), (gpt2, tmp_path)):
        merged = AutoModelForCausalLM.from_pretrained(folder / "model")
        adapted = PeftModel.from_pretrained(make(0, dtype=torch.float32), folder / "adapter")
        ids = torch.arange(5, 45).reshape(2, 20)
        with torch.no_grad():
            tuned, untuned = merged(ids).logits, make(0, dtype=torch.float32)(ids).logits
            assert torch.allclose(tuned, adapted(ids).logits, atol=2e-4)
            assert not torch.allclose(tuned, untuned, atol=1e-2)


def test_saved_folder_has_the_special_tokens_it_came_with(tmp_path):
    """The trainer aligns the model with its tokenizer; a second end token or a missing padding token must survive."""
    model, own = gpt2(0, dtype=torch.float32), tokenizer()
    model.generation_config.eos_token_id = [0, 2]
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    run(tmp_path, model, settings(epochs=1))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert saved.generation_config.eos_token_id == [0, 2]
    assert saved.config.pad_token_id is None
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == own.get_vocab()
    assert own.pad_token == "<end>"


def test_a_seed_gives_the_same_bytes_and_no_times(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, llama(0, dtype=torch.float32), settings(lora={"rank": 4, "dropout": 0.2}, epochs=1))
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors", "log.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert not [name for entry in log_of(tmp_path / "a") for name in entry if "second" in name or "runtime" in name]
    assert {"logps/chosen", "logps/rejected", "rewards/margins"} <= set(log_of(tmp_path / "a")[0])


def test_adapter_dropout_is_used(tmp_path):
    """TRL switches off all dropout of the model that it is given, the adapter's included."""
    losses = []
    for dropout in (0.0, 0.5):
        run(tmp_path, llama(0, dtype=torch.float32), settings(lora={"rank": 4, "dropout": dropout}, epochs=1))
        losses.append([entry["loss"] for entry in log_of(tmp_path) if "loss" in entry])
    assert losses[0][0] == losses[1][0] and losses[0][2:] != losses[1][2:]


def test_gradient_stops_at_the_lowest_adapted_layer(tmp_path):
    """Layers below `top_layers` must cost no backward pass: nothing that leaves them asks for a gradient."""
    model = llama(0, layers=4, dtype=torch.float32)
    trainer = trainer_for(tmp_path, settings(lora={"rank": 4, "top_layers": 2}), model=model)
    tracked = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda _, __, out, number=number: tracked.update({number: out.requires_grad}))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch).backward()
    assert tracked == {0: False, 1: False, 2: True, 3: True}
    trained = {name.split(".layers.")[1][0] for name, w in trainer.model.named_parameters() if w.requires_grad}
    assert trained == {"2", "3"}


def test_what_the_passes_kept_is_given_back(tmp_path):
    model = llama(0, dtype=torch.float32)
    kept, sound = [], PairForward.forget

    def forget(forward):
        kept.append(len(forward._kept))
        sound(forward)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(PairForward, "forget", forget)
        run(tmp_path, model, settings(lora={"rank": 2, "top_layers": 1}))
    assert kept == [6 + 3]  # batches of training and of validation


@pytest.mark.parametrize("lora", [LORA, None])
def test_nothing_waits_for_the_garbage_collector(tmp_path, lora):
    """What decodes next needs the memory: neither the weights nor the optimizer's moments may live on in circles."""
    model = llama(0, dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        run(tmp_path, model, settings(lora=lora, epochs=1))
    finally:
        gc.enable()
    assert all(weight.is_meta for weight in model.parameters())
    assert not [held for held in gc.get_objects() if isinstance(held, PairTrainer | torch.optim.Optimizer)]


def test_adapter_spares_embeddings_and_head():
    for model, count in ((llama(0, layers=4), 4), (gpt2(0), 2)):
        config = lora_config(model, LORA)
        assert config.layers_to_transform == list(range(count))
        assert not {"lm_head", "embed_tokens", "wte", "wpe"} & set(config.target_modules)
    assert lora_config(gpt2(0), LORA).fan_in_fan_out and not lora_config(llama(0), LORA).fan_in_fan_out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_adapter_casts_what_autocast_would_cast_back(tmp_path, monkeypatch, dtype):
    """The same losses to the bit as with the casts of PEFT, which give every input an adapter's float32."""
    given = set()
    call = LoraLinear.forward

    def forward(self, x, *args, **kwargs):
        hooks = [a.register_forward_pre_hook(lambda _, x: given.add(x[0].dtype)) for a in self.lora_A.values()]
        try:
            return call(self, x, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    monkeypatch.setattr(LoraLinear, "forward", forward)
    run(tmp_path / "ours", llama(0, dtype=dtype), settings(epochs=1))
    assert dtype in given
    given.clear()
    monkeypatch.setattr(resumable, "leave_casts_to_autocast", lambda model: None)
    run(tmp_path / "theirs", llama(0, dtype=dtype), settings(epochs=1))
    assert given == {torch.float32}
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("ours", "theirs")]
    assert logs[0] == logs[1]


def test_progress_counts_to_its_total(ordinary):
    """Reference (6 + 3 batches), training (2 epochs of 6), evaluations (4 of 3): each told once, in order."""
    assert ordinary[1] == [(done, 33) for done in range(1, 34)]


def test_nothing_is_printed(tmp_path, capsys, recwarn):
    run(tmp_path, llama(0, dtype=torch.float32), settings(epochs=1))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not [str(warning.message) for warning in recwarn]


def test_text_pairs_train_from_end_to_end(tmp_path):
    """An existing preference data set, read as text, without ids or rewards."""
    pairs = [
        text_pair(responses=[f" was {word}", f" was not {word}"], chosen=0, split=split)
        for split in ("train", "validation")
        for word in ("good", "great", "wonderful", "a treat")
    ]
    config = settings(batch_size=2, epochs=3)
    small = ModelConfig(name="tiny", template="> {prompt}")
    summary = run(tmp_path, llama(0, dtype=torch.float32), config, pairs[:4], pairs[4:], small=small)
    assert (summary["training_pairs"], summary["validation_pairs"], summary["steps"]) == (4, 4, 6)
    assert summary["eval_margin"] > 0


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_are_said_in_one_line(tmp_path):
    model = llama(0, dtype=torch.float32)
    with pytest.raises(DataError, match="no validation pairs"):
        run(tmp_path, model, settings(), validation=[])
    with pytest.raises(ConfigurationError, match="top_layers is 9 and the model has 2 layers"):
        run(tmp_path, model, settings(lora={"top_layers": 9}))
    with pytest.raises(ConfigurationError, match="trackers names no-such-tracker: installed are"):
        run(tmp_path, model, settings(trackers=["no-such-tracker"]))
    with pytest.raises(ModelError, match="float16, which cannot be tuned"):
        run(tmp_path, llama(0, dtype=torch.float16), settings())


def test_a_model_whose_positions_know_no_end_is_not_refused(tmp_path):
    """Guards an AttributeError: BLOOM's configuration has no max_position_embeddings."""
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=0)
    assert run(tmp_path, BloomForCausalLM(config).float(), settings(epochs=1))["steps"] == 6


def test_a_mixture_of_experts_is_tuned_with_its_routers_loss(tmp_path):
    """TRL adds the routers' loss, which the forward pass of this project does not give: TRL's own is then used."""
    config = MixtralConfig(
        vocab_size=320, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    run(tmp_path, MixtralForCausalLM(config).float(), settings(epochs=1))
    assert log_of(tmp_path)[0]["aux_loss"] > 0
    assert log_of(tmp_path)[0]["rewards/chosen"] == 0.0


@pytest.mark.parametrize(("variable", "kind"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepS")])
def test_what_accelerate_would_quietly_leave_out_is_refused(tmp_path, monkeypatch, variable, kind):
    """On the CPU it gives DDP where FSDP is asked for, without a word."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigurationError, match=f"the launch asks for {kind}.* there is none: .* MULTI_GPU"):
        run(tmp_path, llama(0, dtype=torch.float32), settings())


def test_divergence_is_an_error_and_not_a_model(tmp_path):
    diverging = settings(epochs=1, lora=None, learning_rate=1e30)
    with pytest.raises(
        ModelError, match=r"diverged: the validation loss is nan after 6 steps; lower tune.learning_rate"
    ):
        run(tmp_path, llama(0, dtype=torch.float32), diverging)
    assert not (tmp_path / "model").exists()


def test_an_empty_prompt_begins_with_the_configured_start_token() -> None:
    vocabulary = Vocabulary(tokenizer(), start_token="<end>")
    (row,) = encode_pairs([text_pair(prompt="")], vocabulary, "{prompt}", 64, 320).rows
    assert row.prompt_ids == [END] != [tokenizer().bos_token_id]
