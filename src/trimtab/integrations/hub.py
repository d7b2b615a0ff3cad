"""A tuned guide as others can use it: an ordinary folder of transformers or PEFT, with a card that says what it is.

What it was made from is read from the run directory: every artifact names its configuration and its inputs. Knows
nothing of how a guide is tuned or measured.

    >>> save_guide(Path("runs/quickstart"), Path("my-guide"))                           # doctest: +SKIP
    >>> push_guide(Path("runs/quickstart"), "someone/my-guide")                         # doctest: +SKIP
    'https://.../someone/my-guide'
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import AssetError, RunError
from trimtab.pipeline.decoded import reported_artifacts
from trimtab.preferences.strategies import STRATEGIES, Strategy
from trimtab.rewards.kinds import REWARD_KINDS
from trimtab.store.files import is_sealed
from trimtab.training.losses import LOSSES

_log = logging.getLogger(__name__)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Made:
    """An artifact of a run: its folder, the configuration it was made with, and what it was made from."""

    folder: Path
    stage: str
    configuration: Mapping[str, Any]
    inputs: tuple["Made", ...]

    def part(self, name: str) -> Mapping[str, Any] | None:
        """The configuration of this name, of this artifact or of the nearest that it was made from."""
        if isinstance(own := self.configuration.get(name), Mapping):
            return own
        return next((found for each in self.inputs if (found := each.part(name)) is not None), None)


def tuned_guide(run: Path) -> Made:
    """The tuned model that a run directory's `tuned` leads to.

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
    return _made(folder)


def _made(folder: Path) -> Made:
    """What an artifact says of itself; of inputs, those that are still there."""
    try:
        values = json.loads((folder / "made_from.json").read_text(encoding="utf-8"))
        found = [next(folder.parent.glob(f"*-{digest}"), None) for digest in values["inputs"]]
        inputs = tuple(_made(each) for each in found if each is not None)
        return Made(folder, values["stage"], values["configuration"], inputs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'made_from.json'} cannot be read ({error}): make the artifact again") from None


def save_guide(run: Path, folder: Path, *, adapter: bool = False) -> Path:
    """Write the tuned guide of a run to a new folder, with its card as README.md.

    With `adapter` the LoRA adapter alone, for PEFT; else the whole model with the adapter merged, for transformers.

    The folder is there whole or not at all. A warning tells where the run's report measures another guide, whose table
    the card then leaves out.

    Raises:
        RunError: the run has no tuned guide, or no adapter; the folder is there already, or cannot be written.
    """
    made = tuned_guide(run)
    if adapter and made.part("sft") is not None:
        raise RunError(f"{run} tuned a model that it made itself (sft), which its adapter needs: leave out --adapter")
    source = made.folder / ("adapter" if adapter else "model")
    if not source.is_dir():
        raise RunError(f"{run} tuned all weights and has no adapter: leave out --adapter")
    if folder.exists():
        raise RunError(f"{folder} is there already: give a new folder")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        shutil.copytree(source, partial)
        if adapter:
            _name_base(partial / "adapter_config.json", _small(made))
        (partial / "README.md").write_text(card(run, made, adapter=adapter), encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}; give another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def push_guide(run: Path, name: str, *, adapter: bool = False, public: bool = False) -> str:
    """Save the tuned guide and upload it to the model hub as `name`; its address there. Private unless `public`.

    Raises:
        AssetError: there is no token, or the hub refuses or cannot be reached.
        RunError: as `save_guide`.
    """
    # Imported here: it takes half a second, and saving does without.
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.errors import HTTPError as BrokenConnection  # type: ignore[attr-defined]

    if get_token() is None:
        raise AssetError("the model hub wants a token: set HF_TOKEN, or run `hf auth login`")
    with tempfile.TemporaryDirectory() as place:
        folder = save_guide(run, Path(place) / "guide", adapter=adapter)
        try:
            api = HfApi()
            created = api.create_repo(name, private=not public, exist_ok=True)
            api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Tuned with trimtab")
        except (HFValidationError, BrokenConnection, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise AssetError(
                f"{name} cannot be pushed to the model hub ({reason}): check name, token and network"
            ) from None
    return str(created)


def card(run: Path, made: Made, *, adapter: bool) -> str:
    """The model card: what the guide was tuned from, on which data, by which reward and loss, and what came of it."""
    from huggingface_hub import ModelCard, ModelCardData

    base = _small(made)
    facts = ModelCardData(
        base_model=base if _HUB_NAME.fullmatch(base) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["trimtab", *_loss_tags(_tune(made)["loss"]), "weak-to-strong"],
    )
    return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{_body(run, made, adapter=adapter)}"))


def _body(run: Path, made: Made, *, adapter: bool) -> str:
    tune, base = _tune(made), _small(made)
    what = "A LoRA adapter" if adapter else "A language model"
    lora = tune.get("lora")
    weights = "all weights" if lora is None else f"a LoRA adapter of rank {lora['rank']}"
    if made.part("sft") is not None:
        weights += ", after training it on reviews: the untuned model is what that made"
    facts = {
        "Tuned from": f"`{base}`, {weights}",
        "Data": _data(made),
        "Reward": _reward(made),
        "Loss": f"{_loss_words(tune['loss'])}, beta {tune['beta']:g}",
        "Training": f"{tune['epochs']:g} epochs at learning rate {tune['learning_rate']:g}, batch {tune['batch_size']}",
    }
    summary = json.loads((made.folder / "summary.json").read_text(encoding="utf-8"))
    shown = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    lines = [
        f"# {run.name}",
        f"{what} tuned with trimtab {_purpose(made)}. Beside the untuned model it guides others while they decode: "
        "log p(tuned) - log p(untuned) of a candidate is what it is worth.",
        "\n".join(f"- **{name}**: {value}" for name, value in facts.items()),
        "## Results",
        _results(run, made),
        "On the validation pairs: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()) + ".",
        "## Use",
        _usage(base, adapter=adapter),
        "## Configuration",
        "```yaml\n"
        + yaml.safe_dump({"tune": dict(tune), "small": dict(made.part("small") or {})}, sort_keys=False)
        + "```",
    ]
    return "\n\n".join(lines) + "\n"


def _loss_words(name: str) -> str:
    """What a loss is, with its paper; of a plug-in that is not loaded, its name."""
    if name not in LOSSES:
        return name
    loss = LOSSES[name]
    return f"{loss.words} ({loss.paper})" if loss.paper else loss.words


def _loss_tags(name: str) -> list[str]:
    return [LOSSES[name].tag] if name in LOSSES and LOSSES[name].tag else []


def _results(run: Path, made: Made) -> str:
    """The table of the run's last report, where that is of this very guide."""
    table = run / "report" / "table.md"
    if not table.is_file():
        return "No decoder has been measured with it."
    if made.folder.name not in reported_artifacts(run / "report"):
        _log.warning(
            "the report in %s is not of the tuned model that is saved, so the card has no table: run `trimtab report` "
            "with the experiment that it was tuned by, and save it again", run,
        )  # fmt: skip
        return "No decoder has been measured with it."
    return (
        f"Each decoder of the run's last report, on the same prompts:\n\n{table.read_text(encoding='utf-8').rstrip()}"
    )


def _pairs(made: Made) -> Made | None:
    """The artifact of the pairs that it was tuned on; None where that is gone."""
    return next((each for each in made.inputs if each.stage == "pairs"), None)


def _existing(made: Made) -> str | None:
    """The preference data set that it was tuned on; None where its pairs are sampled, or not known."""
    pairs = _pairs(made)
    existing = None if pairs is None else pairs.configuration.get("preferences")
    return existing if isinstance(existing, str) else None


def _purpose(made: Made) -> str:
    """What it was tuned towards."""
    pairs = _pairs(made)
    if pairs is None or _existing(made) is not None:
        return "on preference pairs"
    strategy = _strategy(pairs)
    if strategy is not None and strategy.decides_winner:
        return f"on pairs of its own samples ({strategy.words})"
    return "towards a reward"


def _strategy(pairs: Made) -> Strategy | None:
    """The strategy that made the pairs; None for a plug-in's, which is not loaded for a card."""
    name = (pairs.part("pairs") or {}).get("strategy")
    return next((entry for entry in STRATEGIES.values() if entry.name == name), None)


def _data(made: Made) -> str:
    pairs, existing = _pairs(made), _existing(made)
    if pairs is None:
        return "preference pairs that the run directory no longer has"
    if existing is not None:
        return f"the preference data set `{existing}`"
    sampled, chosen, source = pairs.part("synthesize"), pairs.part("pairs"), pairs.part("data") or {}
    entry = _strategy(pairs)
    strategy = f" paired by `{chosen['strategy']}`{f' ({entry.words})' if entry else ''}" if chosen else ""
    if sampled is None:
        return f"samples of the untuned model,{strategy}"
    if sampled.get("unprompted"):
        return f"samples of the untuned model from its start token alone,{strategy}"
    given = source.get("instructions") or source.get("reviews")
    name = given.get("name") if isinstance(given, Mapping) else given
    prompts = "" if name is None else f", prompts from `{name}`"
    return f"{sampled['samples']} samples a prompt of the untuned model,{strategy}{prompts}"


def _reward(made: Made) -> str:
    if _existing(made) is not None:
        return "none: the preferences came with the data"
    pairs = _pairs(made)
    reward = None if pairs is None else pairs.part("reward")
    if reward is None:
        return "not known: the run directory no longer has it"
    trained = ", fine-tuned for it" if reward.get("training") else ""
    kind = reward.get("definition", "")
    words = f" ({REWARD_KINDS[kind].words})" if kind in REWARD_KINDS else ""
    definition = f", {kind.replace('_', ' ')}{words}" if kind else ""
    return f"`{reward.get('by') or reward.get('model') or kind}`{trained}{definition}"


def _usage(base: str, *, adapter: bool) -> str:
    tuned = f'trimtab.ModelConfig(name="{base}", adapter="THIS")' if adapter else '"THIS"'
    return (
        f'```python\nimport trimtab\n\nguide = trimtab.Guide({tuned}, "{base}")\n'
        'print(guide.steer("a-large-model").generate("I really"))\n```'
    )


def _name_base(file: Path, base: str) -> None:
    """Let an adapter's configuration name the model that it belongs to, and not where it lay."""
    values = {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": base}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tune(made: Made) -> Mapping[str, Any]:
    tune = made.part("tune")
    assert tune is not None, made.folder
    return tune


def _small(made: Made) -> str:
    small = made.part("small")
    assert small is not None, made.folder
    return str(small["name"])
