"""trimtab tunes a small language model towards a reward and steers large frozen ones with it while they decode.

`__all__` lists all public names; each is imported when it is first used, so `import trimtab` is cheap. `__version__` is
the version that is installed.

    >>> import trimtab
    >>> trimtab.Search(width=4, successors=4, chunk=5).candidates
    16
"""

import importlib
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from trimtab.assets.resolve import Assets as Assets
    from trimtab.config.experiment import Experiment as Experiment
    from trimtab.config.file import load_experiment as load_experiment
    from trimtab.config.models import ModelConfig as ModelConfig
    from trimtab.config.search import SamplingConfig as SamplingConfig
    from trimtab.errors import TrimtabError as TrimtabError
    from trimtab.executors.run import run as run
    from trimtab.models.emulated import emulate as emulate
    from trimtab.models.open_model import load as load
    from trimtab.models.served_model import CompletionsModel as CompletionsModel
    from trimtab.preferences.pairs import make_pairs as make_pairs
    from trimtab.rewards.function import FunctionReward as FunctionReward
    from trimtab.rewards.load import load_reward as load_reward
    from trimtab.search.chunk_beam import Search as Search
    from trimtab.search.guide import Guide as Guide
    from trimtab.search.guided_model import GuidedModel as GuidedModel
    from trimtab.serve.run_decoder import load_run as load_run
    from trimtab.store.progress import watching as watching
    from trimtab.training.preference import tune as tune

# where bitsandbytes is installed it is imported with peft, and warns of a kernel that only 4 bits on a CPU would use
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_MODULES = {
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
    "load_run": "serve.run_decoder",
    "make_pairs": "preferences.pairs",
    "run": "executors.run",
    "tune": "training.preference",
    "watching": "store.progress",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("trimtab")
    if name not in _MODULES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return vars(importlib.import_module(f"trimtab.{_MODULES[name]}"))[name]
