"""Reward models with a scalar head: read as they were trained, at the last token, truncated on the left, in batches."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel

from chat_styles import chat_tokenizer
from tiny import tokenizer
from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import ModelError
from trimtab.records import Message
from trimtab.rewards.conversations import starling_text, ultrarm_text
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import Reward

TURNS: list[Message] = [
    {"role": "user", "content": "A film?"},
    {"role": "assistant", "content": "Any."},
    {"role": "user", "content": "Which"},
]
PROMPTS = ["I really", TURNS, "This was the worst film that I have ever seen"]
RESPONSES = [" liked this movie, it was", "The story is good", " n"]


def small_llama(pad: int | None) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=340, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.4, pad_token_id=pad, num_labels=1,
    )  # fmt: skip


def save_scalar(folder: Path, pad: int | None, style: str | None = "chatml") -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(small_llama(pad)).eval()
    model.save_pretrained(folder)
    (chat_tokenizer(style) if style else tokenizer()).save_pretrained(folder)
    return model


def loaded(folder: Path, tmp_path: Path, **settings: object) -> Reward:
    config = RewardConfig.model_validate({"model": str(folder), "definition": "scalar", **settings})
    return load_reward(config, Assets(cache=tmp_path / "cache"), None)


@torch.no_grad()
def read_alone(model: LlamaForSequenceClassification, text: str, style: str = "chatml") -> float:
    """The head's number at the last token of one text, by hand."""
    ids = chat_tokenizer(style).encode(text, add_special_tokens=False)
    return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]))


@pytest.mark.parametrize("pad", [None, 300], ids=["no padding token", "a padding token"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_scalar_head_reads_its_own_chat_template_at_the_last_token(
    tmp_path: Path, pad: int | None, batch: int
) -> None:
    """In batches as alone, also where the model has no padding token and its tokenizer's is the end of a turn."""
    model = save_scalar(tmp_path / "judge", pad)
    reward = loaded(tmp_path / "judge", tmp_path, batch_size=batch)
    texts = [
        "<|im_start|>user\nI really<|im_end|>\n<|im_start|>assistant\nliked this movie, it was<|im_end|>\n",
        "<|im_start|>user\nA film?<|im_end|>\n<|im_start|>assistant\nAny.<|im_end|>\n<|im_start|>user\nWhich"
        "<|im_end|>\n<|im_start|>assistant\nThe story is good<|im_end|>\n",
        "<|im_start|>user\nThis was the worst film that I have ever seen<|im_end|>\n<|im_start|>assistant\nn"
        "<|im_end|>\n",
    ]
    assert reward.score(PROMPTS, RESPONSES) == pytest.approx([read_alone(model, text) for text in texts], abs=1e-5)
    assert reward.score([], []) == []
    tokens = sum(len(chat_tokenizer("chatml").encode(text)) for text in texts)
    weights = sum(each.numel() for name, each in model.named_parameters() if "embed" not in name)
    assert reward.flops == 2 * weights * tokens


def test_a_long_conversation_loses_its_beginning(tmp_path: Path) -> None:
    save_scalar(tmp_path / "judge", 300)
    reward = loaded(tmp_path / "judge", tmp_path, max_length=24)
    same = reward.score(["Good " * 50 + "film", "Bad " * 60 + "film"], ["It is the story that is good"] * 2)
    assert same[0] == pytest.approx(same[1], abs=1e-6)
    assert same[0] != pytest.approx(reward.score(["film"], ["It is the story that is bad"])[0], abs=1e-3)


def test_without_a_chat_template_the_texts_are_read_or_put_into_one(tmp_path: Path) -> None:
    model = save_scalar(tmp_path / "judge", 300, style=None)

    def alone(text: str) -> float:
        with torch.no_grad():
            ids = torch.tensor([tokenizer().encode(text)])
            return float(model.score(model.model(ids).last_hidden_state[0, -1]))

    assert loaded(tmp_path / "judge", tmp_path).score(["I"], [" liked"]) == pytest.approx([alone("I liked")], abs=1e-5)
    asked = loaded(tmp_path / "judge", tmp_path, template="Q: {prompt} A:{response}!").score(["{response}"], [" liked"])
    assert asked == pytest.approx([alone("Q: {response} A: liked!")], abs=1e-5)
    with pytest.raises(ModelError, match="no chat template"):
        loaded(tmp_path / "judge", tmp_path, template="chat")


def test_two_labels_are_no_scalar(tmp_path: Path) -> None:
    config = small_llama(300)
    config.num_labels = 2
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    tokenizer().save_pretrained(tmp_path / "judge")
    with pytest.raises(ModelError, match="has 2 labels and definition scalar needs 1"):
        loaded(tmp_path / "judge", tmp_path)


def test_published_prompts_are_exactly_these() -> None:
    assert ultrarm_text("Hello?", "Hi there.") == "Human: Hello?\n\nAssistant: Hi there."
    assert starling_text("Hello?", "Hi there.") == (
        "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nHi there.<|im_end|>"
    )
    system: list[Message] = [{"role": "system", "content": "Be brief."}, *TURNS]
    assert ultrarm_text(system, " This one") == (
        "Human: Be brief.\n\nA film?\n\nAssistant: Any.\n\nHuman: Which\n\nAssistant: This one"
    )
    assert starling_text(system, " This one") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nA film?<|im_end|>\n<|im_start|>assistant\nAny."
        "<|im_end|>\n<|im_start|>user\nWhich<|im_end|>\n<|im_start|>assistant\nThis one<|im_end|>"
    )
    begun: list[Message] = [*TURNS, {"role": "assistant", "content": "This"}]
    assert ultrarm_text(begun, " one").endswith("Human: Which\n\nAssistant: This one")


def save_published(folder: Path, definition: str, pickled: bool = False) -> tuple[LlamaModel, torch.Tensor]:
    """A random model laid out as a published one: its body's and its head's weights under their names."""
    torch.manual_seed(1)
    body, head = LlamaModel(small_llama(0)).eval(), torch.randn(1, 16)
    prefix, name = {"ultrarm": ("model.", "regression_head.weight"), "starling": ("transformer.", "v_head.weight")}[
        definition
    ]
    folder.mkdir()
    config = small_llama(0)
    config.architectures = ["LlamaRewardModel"]
    config.save_pretrained(folder)
    weights = {**{prefix + key: value for key, value in body.state_dict().items()}, name: head}
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return body, head


@pytest.mark.parametrize(
    ("definition", "text", "pickled"),
    [("ultrarm", ultrarm_text, False), ("ultrarm", ultrarm_text, True), ("starling", starling_text, False)],
)
def test_published_layouts_give_the_heads_number_at_the_last_token(
    tmp_path: Path, definition: str, text: object, pickled: bool
) -> None:
    """Against the published computation by hand: the head on all positions, read at the last token of each row."""
    assert callable(text)
    body, head = save_published(tmp_path / "judge", definition, pickled)
    words = chat_tokenizer("llama-2" if definition == "ultrarm" else "chatml")
    words.save_pretrained(tmp_path / "words")
    config = RewardConfig.model_validate(
        {"model": str(tmp_path / "judge"), "definition": definition, "tokenizer": str(tmp_path / "words")}
        | {"max_length": 32, "batch_size": 2, "allow_pickle": pickled}
    )
    reward = load_reward(config, Assets(cache=tmp_path / "cache"), None)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = words(text(prompt, response), truncation=False)["input_ids"]
        start = [words.bos_token_id] if definition == "ultrarm" else []  # what the tokenizer begins texts with stays
        ids = ids if len(ids) <= 32 else [*start, *ids[len(start) - 32 :]]
        with torch.no_grad():
            every = body(torch.tensor([ids])).last_hidden_state @ head.T
        expected.append(float(every[0, len(ids) - 1, 0]))
    assert reward.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    if definition == "ultrarm":  # whose tokenizer begins texts with a token
        assert words(ultrarm_text("a", "b"))["input_ids"][0] == words.bos_token_id


def test_a_layout_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_published(tmp_path / "judge", "starling")
    tokenizer().save_pretrained(tmp_path / "judge")
    config = {"model": str(tmp_path / "judge"), "definition": "ultrarm"}
    with pytest.raises(ModelError, match=r"no ultrarm reward model, its weights lack regression_head\.weight"):
        load_reward(RewardConfig.model_validate(config), Assets(cache=tmp_path / "cache"), None)
    weights = load_file(tmp_path / "judge/model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.1" not in name}
    save_file(kept, tmp_path / "judge/model.safetensors", metadata={"format": "pt"})
    config = {"model": str(tmp_path / "judge"), "definition": "starling", "tokenizer": str(tmp_path / "judge")}
    with pytest.raises(ModelError, match=r"its weights lack layers\.1"):
        load_reward(RewardConfig.model_validate(config), Assets(cache=tmp_path / "cache"), None)
