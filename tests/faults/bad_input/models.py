"""Models, adapters and rewards that cannot play their parts."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from bad_input.world import Said, World, command, trimtab
from tiny import gpt2, llama, tokenizer
from tiny_hub import save_causal_lm

MODEL, REWARD, ADAPTER = "A model", "A reward model", "An adapter"


def small(make: Callable[[World], Path], *more: str, stage: str = "synthesize") -> Callable[[World], Said]:
    """A stage with another small model."""
    return lambda world: command(world, stage, f"small.name={make(world)}", *more)


def rewritten(name: str, content: str) -> Callable[[World], Path]:
    """A sound model but for one file."""

    def make(world: World) -> Path:
        folder = world.copy("smol")
        (folder / name).write_text(content, encoding="utf-8")
        return folder

    return make


def half_written(world: World) -> Path:
    folder = world.copy("smol")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    return folder


def odd_tokenizer(world: World) -> Path:
    folder = world.copy("smol")
    world.edit(folder / "tokenizer.json", lambda values: values.update(model={"type": "Nothing"}))
    return folder


def with_code(world: World) -> Path:
    folder = world.copy("smol")
    (folder / "mine.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    classes = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    world.edit(folder / "config.json", lambda values: values.update(model_type="mine", auto_map=classes))
    return folder


def other_sizes(world: World) -> Path:
    folder = world.copy("smol")
    world.edit(folder / "config.json", lambda values: values.update(hidden_size=64))
    return folder


def other_tokenizer(world: World) -> Path:
    folder = world.copy("smol")
    tokenizer(400).save_pretrained(folder)
    return folder


def unresized(world: World) -> Path:
    """A token was added to the tokenizer, and the model has no row for it."""
    folder = world.copy("smol")
    padded = copy.deepcopy(tokenizer())
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded.save_pretrained(folder)
    return folder


def without_end(world: World) -> Path:
    folder = world.copy("smol")
    endless = copy.deepcopy(tokenizer())
    endless.eos_token = endless.pad_token = None
    endless.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        world.edit(folder / name, lambda values: values.update(eos_token_id=None))
    return folder


def without_start(world: World) -> Path:
    folder = world.copy("smol")
    startless = copy.deepcopy(tokenizer())
    startless.bos_token = None
    startless.save_pretrained(folder)
    return folder


def of_nan(world: World) -> Path:
    model = llama(3)
    model.model.embed_tokens.weight.data.fill_(torch.nan)
    return save_causal_lm(world.bad / "nan", model)


def pickled(world: World) -> Path:
    folder = world.copy("smol")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    return folder


def without_weights(world: World) -> Path:
    folder = world.copy("smol")
    (folder / "model.safetensors").unlink()
    return folder


def classifier(world: World, labels: int, fill: float | None = None) -> str:
    """`reward.model=` a DistilBERT of so many labels, its head perhaps filled with a number."""
    folder = world.copy("distilbert")
    names = {number: f"L{number}" for number in range(labels)}
    config = DistilBertConfig.from_pretrained(folder)
    config.id2label, config.label2id = names, {name: number for number, name in names.items()}
    model = DistilBertForSequenceClassification(config)
    if fill is not None:
        model.classifier.weight.data.fill_(fill)
    model.save_pretrained(folder)
    return f"reward.model={folder}"


def judged(body: str, arguments: str = "texts") -> Callable[[World], Said]:
    """A reward function with this body."""

    def happen(world: World) -> Said:
        file = world.write("judge.py", f"def score({arguments}):\n    {body}\n")
        return command(world, "synthesize", f"reward={{by: '{file}:score'}}")

    return happen


def adapter(world: World, kind: str) -> str:
    """`small.adapter=` an adapter that does not fit."""
    folder = world.bad / "adapter"
    if kind == "prompt":
        prompt = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        get_peft_model(llama(3).float(), prompt).save_pretrained(folder)
    elif kind in ("deeper", "random"):
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        lora.init_lora_weights = "pissa_niter_4" if kind == "random" else True
        get_peft_model(llama(3, layers=4 if kind == "deeper" else 2).float(), lora).save_pretrained(folder)
    else:
        lora = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
        get_peft_model(gpt2(1).float(), lora).save_pretrained(folder)
    if kind == "cut":
        (folder / "adapter_config.json").write_text("{", encoding="utf-8")
    if kind == "bare":
        (folder / "adapter_config.json").unlink()
    return f"small.adapter={folder}"


def refused_messages(world: World) -> Said:
    folder = world.copy("smol")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}", encoding="utf-8")
    rows = world.pairs({"prompt": [{"role": "user", "content": "Hi"}]})
    return command(world, "tune", f"small.name={folder}", f"data.preferences={rows}", "data.test_prompts=1")


def empty_prompts(world: World, *more: str) -> Said:
    rows = world.pairs(*[{"prompt": ""}] * 8)
    return command(
        world, "tune", f"small.name={without_start(world)}", f"data.preferences={rows}", "data.test_prompts=1", *more
    )


def unlike_vocabularies(world: World) -> Said:
    return command(world, "guide", "guide.decoders=[{beta: 1}]")


def checked_with_models(world: World) -> Said:
    name = f"small.name={half_written(world)}"
    return trimtab(world.monkeypatch, "check", "quickstart", "--quick", "--models", "--set", name)


FAULTS = [
    (MODEL, "that is nowhere", lambda world: command(world, "synthesize", "small.name=nobody/nothing"),
     "model 'nobody/nothing' is no local path, not in the path map, not to be had from the model hub (…) and not in "
     "the catalogue (…): give a folder, or map the name to one"),
    (MODEL, "that `check --models` cannot load",
     checked_with_models,
     "…smol holds no causal language model (Error while deserializing header: …): name one"),
    (MODEL, "without a chat template, for conversations", lambda world: command(world, "tune", "small.template=chat"),
     "…smol has no chat template: save one as chat_template.jinja beside its tokenizer, or give its prompts as plain "
     "text, with a template that has {prompt} in it"),
    (REWARD, "by a function that is not there",
     lambda world: command(world, "reward", "reward={by: nowhere_at_all:score}"),
     "there is no Python module nowhere_at_all here or installed: give module:function or file.py:function"),
    (REWARD, "by a function that fails", judged("return [ratings[text] for text in texts]"),
     "the reward function …judge.py:score failed in …judge.py, line 2 (NameError: name 'ratings' is not defined): mend "
     "it"),
    (REWARD, "by a function that gives one number for all", judged("return 1.0"),
     "the reward function …judge.py:score gave 1.0 for … texts: it must give a list of numbers, one for each text"),
    (REWARD, "by a function that gives too few numbers", judged("return [1.0]"),
     "the reward function …judge.py:score gave 1 rewards for … texts: it must give one for each text"),
    (REWARD, "by a function that gives texts", judged("return ['high' for text in texts]"),
     "the reward function …judge.py:score gave 'high' for …: a reward must be a number"),
    (REWARD, "by a function of three arguments", judged("return []", "texts, answers, weights"),
     "the reward function …judge.py:score has the arguments (texts, answers, weights): it must take texts, or prompts "
     "and responses, by their places"),
    (REWARD, "by a file that fails", judged("pass\nraise KeyError('token')"),
     "…judge.py cannot be imported in …judge.py, line 3 (KeyError: 'token'): mend it"),
    (REWARD, "by a service that is down",
     lambda world: command(world, "synthesize", "reward={by: 'http://127.0.0.1:9/', attempts: 1}"),
     "http://127.0.0.1:9/ does not answer (…, 1 attempts): start it, and the same command goes on"),
    (MODEL, "without weights", small(without_weights),
     "…smol holds no weights: a model folder needs *.safetensors or one *.gguf"),
    (MODEL, "with pickled weights alone", small(pickled),
     "…smol has only pickled weights (*.bin), which can run code when read: convert them to safetensors, or set "
     "allow_pickle: true if you trust their origin"),
    (MODEL, "with weights cut short", small(half_written),
     "…model.safetensors is cut off (2000 bytes): copy or download it again"),
    (MODEL, "with weights of other sizes", small(other_sizes), "…smol holds no causal language model (…): name one"),
    (MODEL, "with code of its own", small(with_code),
     "…smol holds no causal language model (The repository …smol contains custom code …): name one"),
    (MODEL, "of an unknown kind", small(rewritten("config.json", '{"model_type": "nonsense"}')),
     "…smol holds no causal language model (The checkpoint you are trying to load has model type `nonsense` …): name "
     "one"),
    (MODEL, "whose configuration is a list", small(rewritten("config.json", "[1]")),
     "…smol holds no causal language model (…): name one"),
    (MODEL, "with a tokenizer cut short", small(rewritten("tokenizer.json", '{"version": "1.0"')),
     "…smol holds no tokenizer (…): save one beside the weights"),
    (MODEL, "with a tokenizer of an unknown kind", small(odd_tokenizer),
     "…smol holds no tokenizer (…): save one beside the weights"),
    (MODEL, "with another model's tokenizer", small(other_tokenizer),
     "…smol has a tokenizer of … tokens and a model of 320: save the model's own tokenizer beside it"),
    (MODEL, "whose template holds a token that it has no embedding for",
     small(unresized, "small.template='[PAD] {prompt}'"),
     "[PAD] has id 320 in the tokenizer of untuned, which has embeddings for ids below 320 only: leave it out of "
     "template and prompts, or resize the model's embeddings (resize_token_embeddings)"),
    (MODEL, "without an end token", small(without_end),
     "…smol has no end token: name one in its tokenizer's eos_token"),
    (MODEL, "whose logits are all NaN", small(of_nan),
     "…nan's logits are not numbers: set its dtype to float32 or bfloat16, or mend its weights"),
    (MODEL, "without a start token for an empty prompt", empty_prompts,
     "the prompt is empty and …smol has no start token: give start_token"),
    (MODEL, "with a start token of two tokens",
     lambda world: empty_prompts(world, "small.start_token='This film'"),
     "start_token 'This film' is … tokens: name a single token"),
    (MODEL, "whose chat template refuses the messages", refused_messages,
     "…smol's chat template refuses [{'role': 'user', 'content': 'Hi'}] (roles must alternate): mend one of them"),
    (MODEL, "for EFT with another vocabulary", unlike_vocabularies,
     "EFT adds logits, and google/gemma-3-270m and HuggingFaceTB/SmolLM2-135M-Instruct have unlike vocabularies (300 "
     "and 320 tokens): use best-of-N or CBS, which work across vocabularies, or a guide with the base's tokenizer"),
    (REWARD, "with three labels", lambda world: command(world, "synthesize", classifier(world, 3)),
     "the reward model has 3 labels and `margin` needs exactly 2: give a classifier with two labels, or set "
     "reward.definition to positive_logit"),
    (REWARD, "with one label", lambda world: command(world, "synthesize", classifier(world, 1)),
     "the reward model has 1 label, a scalar head: set reward.definition to scalar"),
    (REWARD, "without the label", lambda world: command(world, "synthesize", "reward.positive_label=GOOD"),
     "reward.positive_label 'GOOD' is no label of the reward model: it has 0 (NEGATIVE), 1 (POSITIVE)"),
    (REWARD, "with too few positions", lambda world: command(world, "synthesize", "reward.max_length=129"),
     "max_length 129 is more than the 128 positions of the reward model: set reward.max_length to 128 or less"),
    (REWARD, "that gives NaN for everything",
     lambda world: command(world, "synthesize", classifier(world, 2, torch.nan), "reward.positive_label=1"),
     "the reward model …distilbert gives nan for 'This film is good.': its weights are broken, name another"),
    (REWARD, "that is no classifier", lambda world: command(world, "synthesize", f"reward.model={world.hub / 'smol'}"),
     "…smol holds no ready classifier but a LlamaForCausalLM: name a fine-tuned one, or train one with "
     "reward.training"),
    (ADAPTER, "for another model", lambda world: command(world, "synthesize", adapter(world, "other")),
     "the adapter in …adapter does not fit its model (Target modules …): name its own"),
    (ADAPTER, "that tunes a prompt", lambda world: command(world, "synthesize", adapter(world, "prompt")),
     "the adapter in …adapter does not fit its model (it changes the prompt, not the weights): name its own"),
    (ADAPTER, "of a deeper model", lambda world: command(world, "synthesize", adapter(world, "deeper")),
     "the adapter in …adapter does not fit its model (it has base_model.model.model.layers.…, and the model does not): "
     "name its own"),
    (ADAPTER, "that starts at random", lambda world: command(world, "synthesize", adapter(world, "random")),
     "the adapter in …adapter does not fit its model (it changes its model at random when it is loaded: convert it to "
     "plain LoRA): name its own"),
    (ADAPTER, "with a configuration cut short", lambda world: command(world, "synthesize", adapter(world, "cut")),
     "the adapter in …adapter does not fit its model (…): name its own"),
    (ADAPTER, "without a configuration", lambda world: command(world, "synthesize", adapter(world, "bare")),
     "…adapter is no PEFT adapter: adapter_config.json is missing; save it with save_pretrained"),
]  # fmt: skip
