"""What the server counts for Prometheus, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OTHER = "other"
"""The decoder's label where a client made up its settings: names of clients would be labels without end."""


class Metrics:
    """Counters and times of one server. Labels take few values: routes, statuses and the listed decoders."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.refusals = self._counter("refusals", "Requests refused, by the code of the error.", "code")
        self.seconds = self._histogram("request_seconds", "From a request to the end of its answer.", "route")
        self.first_token = self._histogram("time_to_first_token_seconds", "From a request to its first text.", "decoder")
        self.step_seconds = self._histogram("step_seconds", "One step of the engine.")
        self.drawn = self._counter("tokens_drawn", "Tokens sampled, of all candidates.", "decoder")
        self.returned = self._counter("tokens_returned", "Tokens of the choices returned.", "decoder")
        self.prompt = self._counter("prompt_tokens", "Tokens of prompts.", "decoder")
        self.cancelled = self._counter("cancelled", "Requests whose client hung up before the end.", "decoder")

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(f"trimtab_{name}", words, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"trimtab_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, *labels: str) -> Histogram:
        return Histogram(f"trimtab_{name}", words, labels, buckets=_SECONDS, registry=self.registry)
