"""`trimtab.load`: a language model from a name, a configuration, or the objects of transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.fields import check_template
from trimtab.config.models import Dtype, ModelConfig
from trimtab.errors import AssetError, ConfigurationError, ModelError, check_type, shown
from trimtab.models.adapter import adapted_view, plain_view
from trimtab.models.families import language_model_of
from trimtab.models.language_model import LanguageModel, StatefulModel
from trimtab.models.prompting import Prompting, carried, is_chat, read_prompting
from trimtab.models.roles import Weights, load_language_model, vocabulary_of
from trimtab.models.served_model import CompletionsModel
from trimtab.models.tokenizer import load_tokenizer

ModelSource: TypeAlias = str | Path | ModelConfig | PreTrainedModel | PeftModel | LanguageModel
"""A folder or name, a configuration, a loaded model (with an adapter or without), or a result of `load`."""
DTYPES = get_args(Dtype)


def load(
    model: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    template: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    assets: Assets | None = None,
) -> LanguageModel:
    """A language model that can be steered, or guide others.

    Args:
        model: a folder, a name in the path map, of the model hub or of trimtab's catalogue; a `ModelConfig`, which says
            more (adapter, system message, quantisation, ...); or a model of transformers or PEFT. Such a loaded model
            is used in place, not copied, in evaluation mode; an adapter is merged into a copy.
        tokenizer: the tokenizer of a loaded model; without it, the one beside the files that the model came from.
        template: the text that a string prompt is put into, with `{prompt}` in it; `chat` is the tokenizer's own chat
            template. By default what stands beside the weights (`trimtab save` writes it), else the prompt alone.
        dtype: what it computes in, such as `float32`. By default bfloat16 where the hardware multiplies it, else
            float32. A loaded model has its own.
        device: where it runs, such as `cuda:1` (default: the first GPU, else the CPU). A loaded model has its own.
        assets: where names are looked up (default: the usual places).

    Raises:
        ConfigurationError: the template has no place for the prompt, or another argument is none that can be used.
        AssetError: a name cannot be found or trusted.
        ModelError: it is not a causal language model, or its tokenizer is missing or belongs to another model.

    >>> load("google/gemma-3-270m", template="Here is a movie review from imdb: {prompt}")  # doctest: +SKIP
    >>> load(model, tokenizer, template="chat")                                             # doctest: +SKIP
    """
    if isinstance(model, PreTrainedTokenizerBase):
        raise _not_a_model(model)
    check_type("assets", assets, Assets | None, "a trimtab.Assets")
    check_type("tokenizer", tokenizer, PreTrainedTokenizerBase | None, "a tokenizer of transformers")
    if template is not None:
        check_template(template)
    if not isinstance(model, torch.nn.Module) and tokenizer is not None:
        raise ConfigurationError("tokenizer is that of a loaded model: leave it out, or give the model itself first")
    given = {} if template is None else {"template": template}
    return Opener(assets or Assets(), given, dtype=_dtype(dtype), device=_device(device)).open(model, tokenizer)


@dataclass(frozen=True)
class Opener:
    """Opens models with the same options.

    `given` is how they are shown prompts, where the user says so; `default` where neither the user nor a file beside
    the weights does.
    """

    assets: Assets
    given: Prompting
    default: Prompting | None = None
    dtype: Dtype | None = None
    device: torch.device | None = None

    def open(self, model: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None) -> LanguageModel:
        """The language model of a source."""
        if isinstance(model, str | Path):
            return self._configured(ModelConfig(name=str(model), **self.given))
        if isinstance(model, ModelConfig):
            for name, value in {**self.given, "dtype": self.dtype}.items():
                if value is not None and name in model.model_fields_set and vars(model)[name] != value:
                    raise ConfigurationError(
                        f"{name} is {value!r}, and the ModelConfig of {model.name} says {vars(model)[name]!r}: give one"
                    )
            return self._configured(ModelConfig(**(dict(self.given) | model.model_dump(exclude_unset=True))))
        if isinstance(model, CompletionsModel):
            raise ModelError(
                f"{model.name} is behind an endpoint and gives texts alone: only Guide.steer takes it, as a base"
            )
        if self.dtype is not None or self.device is not None:
            raise ConfigurationError("a loaded model keeps its dtype and device: leave them out, or move it before")
        if isinstance(model, torch.nn.Module):
            return self._viewed(model, tokenizer)
        if not isinstance(model, StatefulModel):
            raise _not_a_model(model)
        return model

    def _configured(self, config: ModelConfig) -> LanguageModel:
        if config.endpoint is not None:
            raise ModelError(
                f"{config.name} is behind an endpoint and gives texts alone: only Guide.steer takes it, as a base"
            )
        if self.dtype is not None:
            config = config.model_copy(update={"dtype": self.dtype})
        folder = self.assets.model(config.name, allow_pickle=config.allow_pickle)
        beside = read_prompting(folder if config.adapter is None else self.assets.adapter(config.adapter))
        more = carried(beside or self.default or {}, config.model_fields_set)
        config = ModelConfig.model_validate({**config.model_dump(exclude_unset=True), **more})
        if config.device_map is not None and self.device is not None:
            raise ConfigurationError("device_map says where the layers of a model run: leave out device, or it")
        return load_language_model(config, Weights(self.assets, self.device))

    def _viewed(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> LanguageModel:
        view = _view_of(model)
        folder = Path(str(view.name_or_path))
        beside = read_prompting(folder) if folder.is_dir() else {}
        prompting = {**carried(beside or self.default or {}, self.given), **self.given}
        vocabulary = vocabulary_of(
            view,
            tokenizer or _tokenizer_of(view, self.assets),
            prompting.get("start_token"),
            chat=is_chat(prompting),
            system=prompting.get("system"),
        )
        return language_model_of(view, vocabulary, prompting.get("template", "{prompt}"))


def _dtype(dtype: str | torch.dtype | None) -> Dtype | None:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    found: Dtype | None = next((known for known in DTYPES if known == name), None)
    if name is not None and found is None:
        raise ConfigurationError(f"dtype is {shown(dtype)}: give {', '.join(DTYPES)}, or one of torch's")
    return found


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
        raise ConfigurationError(f"device is {shown(device)}, which is not here: give one of {here}") from error
    return found


def _view_of(model: torch.nn.Module) -> PreTrainedModel:
    """A model over the weights of a loaded one, which itself stays unchanged."""
    model = model._modules.get("_orig_mod") or model  # as torch.compile gives it
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel) or not inner.can_generate() or inner.config.is_encoder_decoder:
        raise _not_a_model(inner)
    return adapted_view(model) if isinstance(model, PeftModel) else plain_view(model)


def _not_a_model(value: object) -> ModelError:
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return ModelError(
        f"{article} {kind} is no causal language model of transformers: give the model first, then its tokenizer"
    )


def _tokenizer_of(model: PreTrainedModel, assets: Assets) -> PreTrainedTokenizerBase:
    name = str(model.name_or_path)
    if name:
        try:
            return load_tokenizer(assets.model(name))
        except (AssetError, ModelError):  # whatever the reason, the remedy is the same
            pass
    raise ModelError(f"the tokenizer of {name or 'a model without a name'} is not found: give trimtab.load both")
