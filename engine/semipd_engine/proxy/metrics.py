"""Prometheus metrics of the proxy, in its own registry. What is known of upstreams is read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_core.routing.choice import Choice, Health
from semipd_core.routing.retries import Refusal
from semipd_engine.proxy.upstreams import Upstream, Upstreams


class Metrics:
    def __init__(self, upstreams: Upstreams, now_s: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_UpstreamCollector(upstreams, now_s))
        self._requests = Counter(
            "semipd_proxy_requests",
            "Requests answered, by HTTP status (499: the client went away).",
            ["status"],
            registry=registry,
        )
        self._refusals = Counter(
            "semipd_proxy_refusals",
            "Attempts that gave no token, by how they ended; each is followed by another attempt or by the client's error.",
            ["reason"],
            registry=registry,
        )
        self._picks = Counter(
            "semipd_proxy_picks", "Attempts, by why their upstream was chosen.", ["reason"], registry=registry
        )
        self._cut = Counter(
            "semipd_proxy_streams_cut",
            "Streams whose upstream ended after the first token: the client got an error event.",
            registry=registry,
        )
        self._open = Gauge("semipd_proxy_open_client_requests", "Requests being answered.", registry=registry)

    def request_ended(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def refused(self, refusal: Refusal) -> None:
        self._refusals.labels(refusal).inc()

    def picked(self, choice: Choice) -> None:
        self._picks.labels(choice.reason).inc()

    def cut_after_token(self) -> None:
        self._cut.inc()

    def expose(self, num_in_flight: int) -> bytes:
        """The text format, version 0.0.4."""
        self._open.set(num_in_flight)
        return generate_latest(self._registry)


class _UpstreamCollector(Collector):
    """Upstreams come and go; a gauge with their names as labels would keep those that are gone."""

    def __init__(self, upstreams: Upstreams, now_s: Callable[[], float]) -> None:
        self._upstreams = upstreams
        self._now_s = now_s

    def collect(self) -> Iterator[Metric]:
        now_s = self._now_s()
        attempts = CounterMetricFamily(
            "semipd_proxy_attempts", "Requests given to an upstream", labels=["upstream"]
        )
        for each in self._upstreams:
            attempts.add_metric([each.name], each.num_served)
        yield attempts
        yield self._gauge("open_requests", "Requests of this proxy open on an upstream", _open)
        yield self._gauge(
            "upstream_ready",
            "1 if the upstream takes new requests and is not set aside",
            lambda each: each.health(now_s) is Health.READY,
        )
        yield self._gauge(
            "upstream_load_known",
            "1 if the upstream's agent has told its load in the last seconds",
            lambda each: each.load is not None and each.load.is_fresh(now_s),
        )

    def _gauge(self, name: str, text: str, value: Callable[[Upstream], float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"semipd_proxy_{name}", text, labels=["upstream"])
        for each in self._upstreams:
            family.add_metric([each.name], float(value(each)))
        return family


def _open(upstream: Upstream) -> float:
    return upstream.num_open
