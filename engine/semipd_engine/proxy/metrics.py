"""Prometheus metrics of the proxy, in its own registry."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from semipd_engine.proxy.upstreams import Upstream


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "semipd_proxy_requests",
            "Requests answered, by HTTP status (499: the client went away).",
            ["status"],
            registry=registry,
        )
        self._passed_over = Counter(
            "semipd_proxy_passed_over",
            "Attempts that an engine refused (503) or that ended before its first byte.",
            ["engine"],
            registry=registry,
        )
        self._open = Gauge(
            "semipd_proxy_open_requests", "Requests open on an engine.", ["engine"], registry=registry
        )
        self._ready = Gauge(
            "semipd_proxy_engine_ready", "1 if the engine said it is ready.", ["engine"], registry=registry
        )

    def request_ended(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def passed_over(self, upstream: Upstream) -> None:
        self._passed_over.labels(str(upstream.index)).inc()

    def expose(self, upstreams: Sequence[Upstream]) -> bytes:
        """The text format, version 0.0.4."""
        for one in upstreams:
            self._open.labels(str(one.index)).set(one.num_open)
            self._ready.labels(str(one.index)).set(one.ready)
        return generate_latest(self._registry)
