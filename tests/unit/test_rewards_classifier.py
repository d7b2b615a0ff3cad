"""The reward of a tiny random BERT as classifier: definitions, order, batches, truncation, unfit heads."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig, RewardTrainingConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.rewards.classifier import classifier_reward, load_classifier_reward
from trimtab.rewards.model_reward import non_embedding_parameters

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]


def tiny_tokenizer(*, special: bool = True) -> PreTrainedTokenizerFast:
    """One token for each letter."""
    base = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        base.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[PAD]", unk_token="[UNK]")


def tiny_classifier(labels: int = 2, seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=labels,
        initializer_range=0.5,
    )
    model = BertForSequenceClassification(config).eval()
    if labels == 2:
        model.config.id2label = {0: "negative", 1: "positive"}
    return model


def reward(model=None, definition="margin", positive_label: int | str = 1, max_length=32, batch_size=4, tokenizer=None):
    return classifier_reward(
        model or tiny_classifier(),
        tokenizer or tiny_tokenizer(),
        definition=definition,
        positive_label=positive_label,
        max_length=max_length,
        batch_size=batch_size,
    )


def logits_of(model: BertForSequenceClassification, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return model(**tiny_tokenizer()(text, return_tensors="pt")).logits[0]


TEXTS = ["a", "b c d e f g h i j", "k l", "m n o p q r s t u v w x", "y z a", "b", "c d e"]


def test_margin_is_the_difference_of_log_probabilities():
    model = tiny_classifier()
    log_probabilities = logits_of(model, "a b c").log_softmax(-1)
    (score,) = reward(model).score(["a b"], [" c"])
    assert score == pytest.approx(float(log_probabilities[1] - log_probabilities[0]), abs=1e-5)


def test_positive_logit_is_the_raw_logit():
    model = tiny_classifier(labels=3)
    logits = logits_of(model, "a b c")
    assert reward(model, "positive_logit", 2).score(["a b"], [" c"]) == pytest.approx([float(logits[2])], abs=1e-5)


def test_label_may_be_named_and_swapping_it_turns_the_margin_around():
    named = reward(positive_label="positive").score(TEXTS, [""] * len(TEXTS))
    turned = reward(positive_label="negative").score(TEXTS, [""] * len(TEXTS))
    assert named == reward(positive_label=1).score(TEXTS, [""] * len(TEXTS))
    assert named == pytest.approx([-value for value in turned], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_scores_keep_the_order_and_do_not_depend_on_the_batch(batch_size):
    # Batches are sorted by length inside: returning them unsorted is the fault guarded here.
    alone = [reward().score([text], [""])[0] for text in TEXTS]
    assert len({round(value, 3) for value in alone}) == len(TEXTS)
    assert reward(batch_size=batch_size).score(TEXTS, [""] * len(TEXTS)) == pytest.approx(alone, abs=1e-4)


def test_long_text_loses_its_beginning_not_the_response():
    short = reward(max_length=8)
    kept = reward().score([""], ["c d e f g h"])
    assert short.score(["z z z z a b"], [" c d e f g h"]) == pytest.approx(kept, abs=1e-5)


def test_flops_count_two_for_each_parameter_and_token():
    model = tiny_classifier()
    counted = reward(model)
    counted.score(["a b", "c"], ["", ""])
    embeddings = sum(weight.numel() for name, weight in model.named_parameters() if "_embeddings." in name)
    parameters = sum(weight.numel() for weight in model.parameters()) - embeddings
    assert non_embedding_parameters(model) == parameters
    assert counted.flops == 2 * parameters * (4 + 3)


def test_nothing_to_score():
    assert reward().score([], []) == []


def test_scalar_head_is_refused_with_its_count():
    with pytest.raises(ModelError, match="has 1 label, a scalar head: set"):
        reward(tiny_classifier(labels=1))


def test_margin_of_three_labels_is_refused_with_the_remedy():
    with pytest.raises(ModelError, match=r"has 3 labels .* positive_logit"):
        reward(tiny_classifier(labels=3))


@pytest.mark.parametrize("label", [2, -1, "happy"])
def test_unknown_label_names_the_known_ones(label):
    with pytest.raises(ModelError, match=r"0 \(negative\), 1 \(positive\)"):
        reward(positive_label=label)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ModelError, match="max_length 64 is more than the 32 positions"):
        reward(max_length=64)


def test_text_without_tokens_has_no_reward_and_changes_no_other():
    scores = reward(tokenizer=tiny_tokenizer(special=False)).score(["a", "", "b"], ["", "", "c"])
    assert math.isnan(scores[1])
    assert [scores[0], scores[2]] == pytest.approx(
        reward(tokenizer=tiny_tokenizer(special=False)).score(["a", "b"], ["", "c"]), abs=1e-5
    )


def test_a_tokenizer_without_padding_token_serves():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    given = (TEXTS, [""] * len(TEXTS))
    assert reward(tokenizer=tokenizer).score(*given) == reward().score(*given)


def test_broken_model_is_refused_before_it_judges_anything(tmp_path):
    model = tiny_classifier()
    model.classifier.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match=r"gives nan for .* its weights are broken"):
        load_classifier_reward(
            RewardConfig(model=str(tmp_path / "broken"), max_length=32), Assets(cache=tmp_path / "cache"), None
        )


def test_the_callers_tokenizer_is_left_as_it_is():
    tokenizer = tiny_tokenizer()
    reward(tokenizer=tokenizer)
    assert tokenizer.truncation_side == "right"


def test_loading_reads_the_named_model_or_the_trained_folder(tmp_path):
    for name, seed in (("ready", 1), ("trained", 2)):
        tiny_classifier(seed=seed).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    assets, ready = Assets(cache=tmp_path / "cache"), RewardConfig(model=str(tmp_path / "ready"), max_length=32)
    expected = [reward(tiny_classifier(seed=seed)).score(["a"], [" b"]) for seed in (1, 2)]
    assert load_classifier_reward(ready, assets, None).score(["a"], [" b"]) == expected[0]
    assert load_classifier_reward(ready, assets, tmp_path / "trained").score(["a"], [" b"]) == expected[1]
    trained = ready.model_copy(update={"training": RewardTrainingConfig()})
    with pytest.raises(ConfigurationError, match="train it first"):
        load_classifier_reward(trained, assets, None)
