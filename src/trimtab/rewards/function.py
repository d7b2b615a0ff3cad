"""A plain Python function as reward: anything that turns texts into numbers. Its cost is not counted.

>>> FunctionReward(lambda texts: [text.count("!") for text in texts]).score(["So"], [" good!"])
[1.0]
>>> FunctionReward(lambda prompts, responses: [len(response) for response in responses]).score(["So"], [" good!"])
[6.0]
"""

import contextlib
import copy
import inspect
import itertools
import logging
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from trimtab.errors import ConfigurationError, ModelError, TrimtabError
from trimtab.plugins.user_errors import fault_in
from trimtab.plugins.user_functions import named_function
from trimtab.records import PromptInput
from trimtab.rewards.reward import check_pairs, judged_texts
from trimtab.rewards.reward_values import checked_scores

_log = logging.getLogger(__name__)


class FunctionReward:
    """The Reward given by `function`, which returns one number for each text, as `checked_scores` reads them.

    The function may be given by name, as `file.py:function` or `module:function`.

    A function of one argument gets the judged texts, prompt and response together; one of two gets the prompts (strings
    or lists of messages) and the responses. None, NaN and infinity are allowed: they set the response aside.

    Args:
        function: called with arguments by position.
        name: its name in messages (default: its own).

    Raises:
        ConfigurationError: it is no function, or needs other arguments.
    """

    def __init__(self, function: Callable[..., Any] | str, name: str | None = None) -> None:
        self.name = name or (function if isinstance(function, str) else _name(function))
        self.origin = f"the reward function {self.name}"
        self._function = named_function(function) if isinstance(function, str) else function
        if not callable(self._function):
            raise ConfigurationError(f"{self.origin} cannot be called: give a function of texts")
        self.reads_prompts = _arguments(self._function, self.origin) == 2

    def __repr__(self) -> str:
        return f"FunctionReward({self.name})"

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in the function's own unit.

        Raises:
            DataError: a function of texts is given a prompt with tool calls.
            ModelError: the function gave too few or too many numbers, something else than numbers, or raised an error;
                the traceback is in the log.
        """
        check_pairs(prompts, responses)
        texts = list(responses) if self.reads_prompts else judged_texts(prompts, responses)
        if not texts:
            return []
        # copies, as the function may change them
        copies = [copy.deepcopy(prompt) for prompt in prompts]
        arguments = (copies, list(texts)) if self.reads_prompts else (list(texts),)
        try:
            values = self._function(*arguments)
            if isinstance(values, Iterator):  # which runs the function's code
                values = list(itertools.islice(values, len(texts) + 1))
        except (TrimtabError, MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            _log.info("%s failed", self.origin, exc_info=True)
            raise ModelError(f"{self.origin} failed {fault_in(error)}: mend it") from error
        return checked_scores(values, texts, self.origin)

    @property
    def flops(self) -> float:
        """Always 0: a function's arithmetic cannot be counted."""
        return 0.0


def _name(function: Any) -> str:
    named = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)
    return str(function.__qualname__) if isinstance(function, named) else type(function).__name__


def _arguments(function: Callable[..., Any], origin: str) -> int:
    """The number of arguments that a function requires by position; 1 where its signature is not known.

    Raises:
        ConfigurationError: it takes none, or needs more than two, or some by name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are not written in Python
        return 1
    for count in (1, 2):
        with contextlib.suppress(TypeError):
            signature.bind(*range(count))
            return count
    raise ConfigurationError(
        f"{origin} has the arguments {signature}: it must take texts, or prompts and responses, by their places"
    )
