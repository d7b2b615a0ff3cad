"""Checks of models that are not loaded yet: each alone, as a pair, in a sum, and with the prompts that it will read."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from functools import cache

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.config.models import ModelConfig
from trimtab.config.search import TermConfig
from trimtab.config.training import TrainingConfig
from trimtab.errors import ConfigurationError, ModelError, TrimtabError, VocabularyError
from trimtab.models.language_model import check_ids, raise_if_too_long
from trimtab.models.outline import Outline, outline, read_config
from trimtab.models.prompting import read_prompting
from trimtab.models.served_model import CompletionsModel
from trimtab.models.sizes import ModelSize, Sizes, model_sizes
from trimtab.models.vocabulary import check_end, check_one_vocabulary
from trimtab.pipeline.known_prompts import BYTES_A_TOKEN, KnownPrompts, about_tokens
from trimtab.pipeline.step import Step
from trimtab.records import PromptInput
from trimtab.search.flops_budget import Workload, within_budget

CHECKED_PROMPTS = 256  # prompts that are encoded
_log = logging.getLogger(__name__)
MAX_ENCODED = 2000  # of those that may be too long


class Models:
    """The models of one or several experiments; tokenizers are loaded once. `lines` say what each of them reads."""

    def __init__(self, assets: Assets) -> None:
        self._assets = assets
        self._outline = cache(lambda config: outline(config, assets))
        self._done: dict[tuple[ModelConfig, int, int], Sequence[PromptInput]] = {}  # which keeps the ids
        self._read: dict[tuple[str, str, int], list[tuple[int, int, int]]] = {}

    @property
    def lines(self) -> list[str]:
        """What each role's model reads and writes."""
        lines = []
        for (role, name, context), read in self._read.items():
            longest, room, excess = map(max, zip(*read, strict=True))
            line = f"{role}: {name} reads prompts of up to {longest} tokens and writes {room}"
            line += f", in a context of {context}" if context < sys.maxsize else ""
            lines.append(f"{line}; {excess} prompts leave no room and are set aside" if excess else line)
        return lines

    def check(self, config: ModelConfig) -> None:
        """Find a model's files and its tokenizer, or the key of its endpoint."""
        if config.endpoint is not None:
            CompletionsModel.of(config)
            return
        self._outline(config)
        name = config.name if config.adapter is None else config.adapter
        folder = (
            self._assets.adapter(name) if config.adapter else self._assets.model(name, allow_pickle=config.allow_pickle)
        )
        tuned_with = read_prompting(folder).get("template", config.template)
        if tuned_with != config.template:
            _log.warning(
                "%s was tuned with the template %r, and is shown prompts in %r", name, tuned_with, config.template
            )

    def check_trainable(self, small: ModelConfig, config: TrainingConfig, part: str) -> None:
        """Raise an error where the small model cannot be trained so."""
        if small.quantization is not None:
            raise ModelError("quantised weights cannot be tuned: drop quantization from the small model")
        if small.dtype == "float16":
            raise ModelError(
                "the small model is in float16, which cannot be tuned: set small.dtype to float32 or bfloat16"
            )
        folder = self._assets.model(small.name, allow_pickle=small.allow_pickle)
        layers = int(read_config(folder, "causal language model").get_text_config().num_hidden_layers)
        top = None if config.lora is None else config.lora.top_layers
        if top is not None and top > layers:
            raise ConfigurationError(f"{part}.lora.top_layers is {top} and the model has {layers} layers: give fewer")

    def check_step(self, step: Step, experiment: Experiment, prompts: KnownPrompts | None) -> None:
        """Check the models of a step that decodes with each other and with the prompts that they will read.

        Models that cannot be read themselves are left out: `check` has named them.
        """
        decoder = step.parts.get("decoder")
        if step.stage == "synthesize":
            tuning = ("",) if experiment.synthesize.unprompted else prompts and prompts.tuning
            self._check_prompts("untuned", experiment.small, tuning or (), experiment.synthesize.max_new_tokens)
        elif step.stage == "guide" and isinstance(decoder, DecoderConfig):
            test = ("",) if experiment.guide.unprompted is not None else prompts and prompts.test
            self._check_decoder(decoder, experiment, test or ())

    def _check_decoder(self, decoder: DecoderConfig, experiment: Experiment, prompts: Sequence[PromptInput]) -> None:
        small, tuned = experiment.small, experiment.guide.tuned or experiment.small
        base = {"large": experiment.base, "untuned": small, "tuned": tuned}[decoder.model]
        if decoder.guided_by_pair:
            self._check_pair(tuned, small)
        for term in decoder.terms:
            self._check_term(base, tuned, small, term)
        readers = {decoder.model: base} | ({"tuned": tuned, "untuned": small} if decoder.guided_by_pair else {})
        for role, model in readers.items():
            role = "untuned" if model == small else role  # its tuned self reads the same
            self._check_prompts(role, model, prompts, experiment.guide.max_new_tokens)
        if decoder.budget is not None and prompts:
            self._check_budget(decoder, base, experiment, prompts)

    def _known(self, config: ModelConfig) -> Outline | None:
        """The outline of a model; None where it cannot be read, or runs on a server."""
        with contextlib.suppress(TrimtabError):
            return None if config.endpoint is not None else self._outline(config)
        return None

    def _check_pair(self, tuned: ModelConfig, untuned: ModelConfig) -> None:
        """Raise VocabularyError unless a guide's two models have one vocabulary."""
        first, second = self._known(tuned), self._known(untuned)
        if first and second and first.vocabulary.unlike_ids(second.vocabulary) is None:
            raise VocabularyError(
                f"a guide compares two models token by token, and {tuned.name} and {untuned.name} have unlike "
                "vocabularies: give as small the untuned model that guide.tuned was made from"
            )

    def _check_term(self, base: ModelConfig, tuned: ModelConfig, untuned: ModelConfig, term: TermConfig) -> None:
        """Raise VocabularyError unless the models of a term of EFT have the vocabulary of the one they are added to."""
        sampled = self._known(base)
        for config in {term.tuned or tuned, term.untuned or untuned} - {base}:
            self.check(config)
            other = self._known(config)
            if sampled and other:
                check_one_vocabulary(sampled, other)
                check_end(sampled, other)

    def _check_prompts(self, role: str, config: ModelConfig, prompts: Sequence[PromptInput], room: int) -> None:
        """Encode prompts as a model will read them.

        Raises:
            ModelError: all of them leave less than `room` tokens for a response, the chat template refuses one, or one
                holds a token without an embedding.
        """
        if config.endpoint is not None and prompts:
            CompletionsModel.of(config).prompt_text(prompts[0])
        model = self._known(config)
        if model is None or not prompts or (config, id(prompts), room) in self._done:
            return
        self._done[config, id(prompts), room] = prompts
        # a token has at least a byte: others cannot be too long, and the first of them stand for all
        doubtful = [prompt for prompt in prompts if BYTES_A_TOKEN * about_tokens(prompt) + room > model.context]
        chosen = {id(one): one for one in (*doubtful[:MAX_ENCODED], *prompts[:CHECKED_PROMPTS])}
        encoded = [model.prompt_ids(prompt) for prompt in chosen.values()]
        check_ids(role, model.vocabulary, model.vocab_size, encoded)
        excess = [len(ids) for ids in encoded if len(ids) + room > model.context]
        if len(excess) == len(encoded) and len(doubtful) == len(prompts):
            raise_if_too_long(
                f"a prompt of {min(excess)} tokens and {room} new ones exceed {role}'s context of {model.context}"
            )
        counts = max(map(len, encoded)), room, len(excess)
        self._read.setdefault((role, config.name, model.context), []).append(counts)

    def _check_budget(
        self, decoder: DecoderConfig, base: ModelConfig, experiment: Experiment, prompts: Sequence[PromptInput]
    ) -> None:
        """Raise ConfigurationError where a budget clearly pays for no search: it is measured once models are loaded."""
        pair = [experiment.guide.tuned or experiment.small, experiment.small] if decoder.guided_by_pair else []
        read = self._known(base)
        if read is None or any(self._known(model) is None for model in pair):
            return
        shortest = min(len(read.prompt_ids(prompt)) for prompt in prompts[:CHECKED_PROMPTS])
        sizes = tuple(_size(model_sizes(model, self._assets)) for model in (base, *pair))
        fixed = {name: vars(decoder)[name] for name in _SHAPE if name in decoder.model_fields_set}
        assert decoder.budget is not None
        within_budget(decoder.budget, Workload(sizes, shortest, experiment.guide.max_new_tokens), **fixed)


_SHAPE = ("width", "successors", "chunk")


def _size(sizes: Sizes) -> ModelSize:
    return ModelSize(body=sizes.weights - sizes.tables, head=sizes.vocabulary * sizes.width)
