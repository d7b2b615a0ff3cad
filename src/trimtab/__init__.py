"""trimtab tunes a small language model towards a reward and steers large frozen ones with it while they decode.

The names below are all that is public; each is imported when it is first used, so `import trimtab` is cheap.

    >>> import trimtab
    >>> trimtab.Search(width=4, successors=4, chunk=5).candidates
    16
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.assets.resolve import Assets
    from trimtab.config.experiment import Experiment
    from trimtab.config.file import load_experiment
    from trimtab.config.models import ModelConfig
    from trimtab.config.search import SamplingConfig
    from trimtab.errors import TrimtabError
    from trimtab.executors.run import run
    from trimtab.models.emulated import emulate
    from trimtab.models.open_model import load
    from trimtab.models.served_model import CompletionsModel
    from trimtab.preferences.pairs import make_pairs
    from trimtab.rewards.function import FunctionReward
    from trimtab.rewards.load import load_reward
    from trimtab.search.chunk_beam import Search
    from trimtab.search.guide import Guide
    from trimtab.search.guided_model import GuidedModel
    from trimtab.store.progress import watching
    from trimtab.training.preference import tune

# where it is installed it is imported with peft, and warns of a kernel that only 4 bits on a CPU would use
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_PLACES = {
    "Assets": "assets.resolve",
    "CompletionsModel": "models.served_model",
    "Experiment": "config.experiment",
    "FunctionReward": "rewards.function",
    "Guide": "search.guide",
    "GuidedModel": "search.guided_model",
    "ModelConfig": "config.models",
    "SamplingConfig": "config.search",
    "Search": "search.chunk_beam",
    "TrimtabError": "errors",
    "emulate": "models.emulated",
    "load": "models.open_model",
    "load_experiment": "config.file",
    "load_reward": "rewards.load",
    "make_pairs": "preferences.pairs",
    "run": "executors.run",
    "tune": "training.preference",
    "watching": "store.progress",
}

__all__ = [
    "Assets",
    "CompletionsModel",
    "Experiment",
    "FunctionReward",
    "Guide",
    "GuidedModel",
    "ModelConfig",
    "SamplingConfig",
    "Search",
    "TrimtabError",
    "emulate",
    "load",
    "load_experiment",
    "load_reward",
    "make_pairs",
    "run",
    "tune",
    "watching",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return importlib.import_module(f"trimtab.{_PLACES[name]}").__dict__[name]
