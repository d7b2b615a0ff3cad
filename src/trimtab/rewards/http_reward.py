"""A reward behind HTTP, written in any language and run on any machine.

The request is `{"prompts": [...], "responses": [...]}`, two lists of one length; a prompt is a string or a list of
`{"role": ..., "content": ...}`. The answer is `{"rewards": [...]}`, a number for each, or null where there is none. Its
cost is not counted.
"""

from collections.abc import Sequence

from trimtab.errors import EndpointError
from trimtab.models.http_client import Endpoint
from trimtab.records import PromptInput
from trimtab.rewards.reward_values import checked_scores


class EndpointReward:
    """The Reward that a service gives, asked for `batch_size` responses at a time."""

    def __init__(self, endpoint: Endpoint, batch_size: int) -> None:
        self.origin = f"the reward service {endpoint.url}"
        self._endpoint = endpoint
        self._batch_size = batch_size

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in the service's own unit.

        Raises:
            EndpointError: the service does not answer, or with something else than one reward for each.
        """
        rewards: list[float] = []
        for start in range(0, len(responses), self._batch_size):
            batch = list(responses[start : start + self._batch_size])
            body = {"prompts": list(prompts[start : start + self._batch_size]), "responses": batch}
            answer = self._endpoint.post(body).get("rewards")
            if not isinstance(answer, list) or len(answer) != len(batch):
                raise EndpointError(
                    f"{self._endpoint.url} answers {str(answer)[:60]} for {len(batch)} responses: it must give "
                    '{"rewards": [...]} with one number or null for each'
                )
            rewards += checked_scores(answer, batch, self._endpoint.url, EndpointError)
        return rewards

    @property
    def flops(self) -> float:
        """Always 0: what a service computes is not known."""
        return 0.0
