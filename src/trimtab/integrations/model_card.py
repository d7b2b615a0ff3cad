"""The model card of a tuned guide: what it was tuned from, on which data, by which reward and loss, and its results.

Everything is read from the run directory, where each artifact names its configuration and its inputs.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import RunError
from trimtab.models.prompting import FIELDS, Prompting
from trimtab.pipeline.decoded import reported_artifacts
from trimtab.preferences.strategies import STRATEGIES
from trimtab.rewards.kinds import REWARD_KINDS
from trimtab.store.files import is_sealed
from trimtab.training.losses import LOSSES

NO_RESULTS = "No decoder has been measured with it."
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """An artifact with what it was made from: its configuration, and those of its inputs that still exist."""

    folder: Path
    stage: str
    configuration: Mapping[str, Any]
    inputs: tuple["Provenance", ...]

    def part(self, name: str) -> Mapping[str, Any] | None:
        """The part of the configuration with this name, of this artifact or of the nearest input that has one."""
        if isinstance(part := self.configuration.get(name), Mapping):
            return part
        return next((part for made in self.inputs if (part := made.part(name)) is not None), None)

    @property
    def base(self) -> str:
        """The name of the untuned model."""
        small = self.part("small")
        assert small is not None, self.folder
        return str(small["name"])

    @property
    def prompting(self) -> Prompting:
        """How prompts are shown to it, and to the untuned model."""
        small = self.part("small")
        assert small is not None, self.folder
        return {name: small[name] for name in FIELDS if small.get(name) is not None}

    @property
    def pairs(self) -> "Provenance | None":
        """The pairs that a guide was tuned on; None where they no longer exist."""
        return next((made for made in self.inputs if made.stage == "pairs"), None)


def tuned_guide(run: Path) -> Provenance:
    """The tuned model that the link `tuned` of a run directory leads to.

    Raises:
        RunError: there is none, or it is not whole.
    """
    if not (run / "tuned").exists():
        raise RunError(
            f"{run} holds no tuned model: give the directory of a run that has tuned one, as runs/quickstart"
        )
    folder = (run / "tuned").resolve().parent
    if not is_sealed(folder):
        raise RunError(f"{folder} is not whole: the command that made it makes it again")
    return _provenance(folder)


def _provenance(folder: Path) -> Provenance:
    try:
        values = json.loads((folder / "made_from.json").read_text(encoding="utf-8"))
        folders = [made for digest in values["inputs"] for made in folder.parent.glob(f"*-{digest}")]
        return Provenance(folder, values["stage"], values["configuration"], tuple(map(_provenance, folders)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'made_from.json'} cannot be read ({error}): make the artifact again") from None


def card(run: Path, guide: Provenance, *, adapter: bool, name: str) -> str:
    """The text of the model card of a run's tuned guide, or of its LoRA adapter alone; `name` is where it lies."""
    from huggingface_hub import ModelCardData

    base, tune = guide.base, guide.part("tune")
    assert tune is not None, guide.folder
    loss = LOSSES.get(tune["loss"])
    tags = ["trimtab", *([loss.tag] if loss and loss.tag else []), "weak-to-strong"]
    header = ModelCardData(
        base_model=base if _HUB_NAME.fullmatch(base) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
    )
    facts = {
        "Tuned from": f"`{base}`, {_weights(guide, tune)}",
        "Data": _data(guide.pairs),
        "Reward": _reward(guide.pairs),
        "Loss": f"{_loss(tune['loss'])}, beta {tune['beta']:g}",
        "Training": f"{tune['epochs']:g} epochs at learning rate {tune['learning_rate']:g}, batch {tune['batch_size']}",
    }
    summary = json.loads((guide.folder / "summary.json").read_text(encoding="utf-8"))
    numbers = [f"{name} {value:.4g}" for name, value in summary.items() if isinstance(value, int | float)]
    configuration = yaml.safe_dump({"tune": dict(tune), "small": dict(guide.part("small") or {})}, sort_keys=False)
    sections = [
        f"---\n{header.to_yaml()}\n---",
        f"# {run.name}",
        f"{'A LoRA adapter' if adapter else 'A language model'} tuned with trimtab {_purpose(guide.pairs)}. With the "
        "untuned model it guides others while they decode: log p(tuned) - log p(untuned) is a candidate's value.",
        "\n".join(f"- **{name}**: {value}" for name, value in facts.items()),
        "## Results",
        _results(run, guide),
        f"On the validation pairs: {', '.join(numbers)}.",
        "## Use",
        _usage(run, guide, name, adapter=adapter),
        "## Configuration",
        f"```yaml\n{configuration}```",
    ]
    return "\n\n".join(sections) + "\n"


def _weights(guide: Provenance, tune: Mapping[str, Any]) -> str:
    weights = "all weights" if tune.get("lora") is None else f"a LoRA adapter of rank {tune['lora']['rank']}"
    trained = guide.part("sft") is not None
    return f"{weights}, after training it on reviews: the untuned model is the one trained so" if trained else weights


def _loss(name: str) -> str:
    """The loss in words, with its paper; the name alone where it is of a plug-in that is not loaded."""
    loss = LOSSES.get(name)
    if loss is None:
        return name
    return f"{loss.words} ({loss.paper})" if loss.paper else loss.words


def _results(run: Path, guide: Provenance) -> str:
    """The table of the run's last report, where that report measures this guide."""
    table = run / "report" / "table.md"
    if not table.is_file():
        return NO_RESULTS
    if guide.folder.name not in reported_artifacts(run / "report"):
        _log.warning(
            "the report in %s is not of the tuned model that is saved, so the card has no table: run `trimtab report` "
            "with the experiment that it was tuned by, and save it again", run,
        )  # fmt: skip
        return NO_RESULTS
    return (
        f"Each decoder of the run's last report, on the same prompts:\n\n{table.read_text(encoding='utf-8').rstrip()}"
    )


def _existing(pairs: Provenance) -> str | None:
    """The preference data set that the pairs come from; None where they were sampled."""
    existing = pairs.configuration.get("preferences")
    return existing if isinstance(existing, str) else None


def _purpose(pairs: Provenance | None) -> str:
    """What the guide was tuned towards."""
    if pairs is None or _existing(pairs) is not None:
        return "on preference pairs"
    strategy = STRATEGIES.get((pairs.part("pairs") or {}).get("strategy", ""))
    if strategy is not None and strategy.decides_winner:
        return f"on pairs of its own samples ({strategy.words})"
    return "towards a reward"


def _data(pairs: Provenance | None) -> str:
    if pairs is None:
        return "preference pairs that the run directory no longer has"
    if (existing := _existing(pairs)) is not None:
        return f"the preference data set `{existing}`"
    sampled, pairing, source = pairs.part("synthesize"), pairs.part("pairs"), pairs.part("data") or {}
    strategy = ""
    if pairing is not None:
        entry = STRATEGIES.get(pairing["strategy"])
        strategy = f" paired by `{pairing['strategy']}`" + ("" if entry is None else f" ({entry.words})")
    if sampled is None:
        return f"samples of the untuned model,{strategy}"
    if sampled.get("unprompted"):
        return f"samples of the untuned model from its start token alone,{strategy}"
    dataset = source.get("instructions") or source.get("reviews")
    name = dataset.get("name") if isinstance(dataset, Mapping) else dataset
    prompts = "" if name is None else f", prompts from `{name}`"
    return f"{sampled['samples']} samples a prompt of the untuned model,{strategy}{prompts}"


def _reward(pairs: Provenance | None) -> str:
    if pairs is not None and _existing(pairs) is not None:
        return "none: the preferences came with the data"
    reward = None if pairs is None else pairs.part("reward")
    if reward is None:
        return "not known: the run directory no longer has it"
    trained = ", fine-tuned for it" if reward.get("training") else ""
    kind = reward.get("definition", "")
    words = f" ({REWARD_KINDS[kind].words})" if kind in REWARD_KINDS else ""
    definition = f", {kind.replace('_', ' ')}{words}" if kind else ""
    return f"`{reward.get('by') or reward.get('model') or kind}`{trained}{definition}"


def _usage(run: Path, guide: Provenance, name: str, *, adapter: bool) -> str:
    """Lines that run as they are printed: the guide steers its untuned model, in whose place any other may stand."""
    base, note = guide.base, ""
    sft = next((made for made in guide.inputs if made.stage == "sft"), None)
    if sft is not None:
        base = str(run / sft.folder.name / "model")
        note = "\n\nIts untuned model was trained by the same run, and lies in the run's directory alone."
    tuned = f"trimtab.ModelConfig(name={_text(base)}, adapter={_text(name)})" if adapter else _text(name)
    given = "".join(f", {field}={_text(value)}" for field, value in guide.prompting.items() if value != "{prompt}")
    large = f"trimtab.ModelConfig(name={_text(base)}{given})" if given else _text(base)
    return (
        "It carries its prompt template in `trimtab.json`, which is read wherever no other is given.\n\n"
        f"```python\nimport trimtab\n\nguide = trimtab.Guide({tuned}, {_text(base)})\n"
        f"large = trimtab.load({large})  # or any other model\n"
        f'print(guide.steer(large).generate("I really"))\n```{note}'
    )


def _text(value: str) -> str:
    """A string as Python code, in double quotation marks."""
    return json.dumps(value, ensure_ascii=False)
