"""trimtab tunes a small language model towards a reward and steers large frozen ones with it while they decode.

The names below are all that is public; each is imported when it is first used, so `import trimtab` is cheap.

    >>> import trimtab
    >>> trimtab.Search(width=4, successors=4, chunk=5).candidates
    16
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.assets.resolve import Assets
    from trimtab.errors import TrimtabError
    from trimtab.experiment import Experiment, ModelConfig, SamplingConfig
    from trimtab.experiment_file import load_experiment
    from trimtab.models.emulated import emulate
    from trimtab.models.roles import load_language_model
    from trimtab.pipeline import run
    from trimtab.preferences.pairs import make_pairs
    from trimtab.progress import watching
    from trimtab.records import Prompt
    from trimtab.rewards.classifier import load_classifier_reward
    from trimtab.rewards.function import FunctionReward
    from trimtab.search.chunk_beam import Search
    from trimtab.search.combined_value import WeightedValue
    from trimtab.search.proposer import LanguageModelProposer
    from trimtab.search.value import ImplicitValue, RewardValue
    from trimtab.training.preference import tune

_PLACES = {
    "Assets": "assets.resolve",
    "Experiment": "experiment",
    "FunctionReward": "rewards.function",
    "ImplicitValue": "search.value",
    "LanguageModelProposer": "search.proposer",
    "ModelConfig": "experiment",
    "Prompt": "records",
    "RewardValue": "search.value",
    "SamplingConfig": "experiment",
    "Search": "search.chunk_beam",
    "TrimtabError": "errors",
    "WeightedValue": "search.combined_value",
    "emulate": "models.emulated",
    "load_classifier_reward": "rewards.classifier",
    "load_experiment": "experiment_file",
    "load_language_model": "models.roles",
    "make_pairs": "preferences.pairs",
    "run": "pipeline",
    "tune": "training.preference",
    "watching": "progress",
}

__all__ = [
    "Assets",
    "Experiment",
    "FunctionReward",
    "ImplicitValue",
    "LanguageModelProposer",
    "ModelConfig",
    "Prompt",
    "RewardValue",
    "SamplingConfig",
    "Search",
    "TrimtabError",
    "WeightedValue",
    "emulate",
    "load_classifier_reward",
    "load_experiment",
    "load_language_model",
    "make_pairs",
    "run",
    "tune",
    "watching",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return importlib.import_module(f"trimtab.{_PLACES[name]}").__dict__[name]
