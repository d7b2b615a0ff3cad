"""What the server counts for Prometheus, in a registry of its own."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from trimtab.serve.requests import GenerationEngine

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
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From a request to its first text.", "decoder"
        )
        self.prompt = self._counter("prompt_tokens", "Tokens of prompts.", "decoder")

    def watch(self, engine: GenerationEngine) -> None:
        """Show the engine's own counters, too."""
        self.registry.register(_EngineCounters(engine))

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"trimtab_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, *labels: str) -> Histogram:
        return Histogram(f"trimtab_{name}", words, labels, buckets=_SECONDS, registry=self.registry)


class _EngineCounters(Collector):
    """The engine's counters, read when the metrics are."""

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        now = self._engine.counters()
        yield GaugeMetricFamily("trimtab_queue", "Requests that wait.", now.queued)
        yield GaugeMetricFamily("trimtab_running", "Requests that are decoded.", now.running)
        yield GaugeMetricFamily("trimtab_rows", "Rows that are decoded.", now.rows)
        yield GaugeMetricFamily("trimtab_row_limit", "Rows that may be decoded at once.", now.row_limit)
        yield CounterMetricFamily("trimtab_memory_cuts", "Times that memory ran out.", now.memory_cuts)
        yield SummaryMetricFamily("trimtab_step_seconds", "Steps of the engine.", now.steps, now.step_seconds)
        drawn = CounterMetricFamily("trimtab_tokens_drawn", "Tokens sampled, of all candidates.", labels=["decoder"])
        returned = CounterMetricFamily("trimtab_tokens_returned", "Tokens of returned answers.", labels=["decoder"])
        for family, counts in ((drawn, now.drawn), (returned, now.returned)):
            for decoder, count in counts.items():
                family.add_metric([decoder], count)
            yield family
        ended = CounterMetricFamily("trimtab_ended", "Ended requests.", labels=["decoder", "outcome"])
        for labels, count in now.requests.items():
            ended.add_metric(labels, count)
        yield ended
