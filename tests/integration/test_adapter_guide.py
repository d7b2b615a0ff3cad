"""A guide given as one model plus a LoRA adapter is the same guide as two models."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from identities import PROMPTS, SAMPLING, SEED
from tiny import language_model, llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.roles import load_language_model
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue


def test_adapter_and_merged_guides_search_alike(tmp_path: Path) -> None:
    untuned = save_causal_lm(tmp_path / "untuned", llama(1))
    torch.manual_seed(0)
    adapted = get_peft_model(
        llama(1).float(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    tokenizer().save_pretrained(merged)

    assets = Assets(cache=tmp_path / "cache")
    base = language_model(0, dtype=torch.float32)

    def found(tuned: ModelConfig) -> list[Hypothesis]:
        models = [
            load_language_model(each, assets) for each in (tuned, ModelConfig(name=str(untuned), dtype="float32"))
        ]
        value = ImplicitValue(models[0], models[1], base)
        groups = Search(3, 2, 4, 12).run(PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), value)
        return [each for group in groups for each in group]

    one = found(ModelConfig(name=str(untuned), adapter=str(tmp_path / "adapter"), dtype="float32"))
    two = found(ModelConfig(name=str(merged), dtype="float32"))
    assert [each.token_ids for each in one] == [each.token_ids for each in two]
    assert [each.value for each in one] == pytest.approx([each.value for each in two], abs=5e-6 * 12)
    assert max(abs(each.value) for each in one) > 0.1  # the adapter does something
