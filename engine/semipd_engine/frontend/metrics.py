"""Prometheus metrics of one front end, in its own registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from semipd_core.telemetry import WindowSlot
from semipd_engine.frontend.generation import Generation

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
_TPOT_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1)
_E2E_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)


class Metrics:
    """Counted as things happen; gauges are set by `expose`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "semipd_frontend_requests",
            "HTTP requests under /v1 answered, by HTTP status (499: the client went away).",
            ["status"],
            registry=registry,
        )
        self._generations = Counter(
            "semipd_frontend_generations",
            "Choices generated, by why they ended: stop, length, abort (the client went away), error (it was told one before a "
            "token), cut (after one).",
            ["finish"],
            registry=registry,
        )
        for failed in ("error", "cut"):
            self._generations.labels(failed)  # told from 0 on: else the first is no increase
        self._prompt_tokens = Counter(
            "semipd_frontend_prompt_tokens", "Prompt tokens of ended choices.", registry=registry
        )
        self._cached_tokens = Counter(
            "semipd_frontend_cached_tokens",
            "Prompt tokens of ended choices found in the prefix cache.",
            registry=registry,
        )
        self._output_tokens = Counter(
            "semipd_frontend_output_tokens", "Tokens generated, of ended choices.", registry=registry
        )
        self._ttft = Histogram(
            "semipd_frontend_ttft_seconds",
            "Arrival to first token.",
            buckets=_TTFT_S,
            registry=registry,
        )
        self._tpot = Histogram(
            "semipd_frontend_tpot_seconds",
            "(Last token - first token) / (tokens - 1), of choices of two tokens or more.",
            buckets=_TPOT_S,
            registry=registry,
        )
        self._e2e = Histogram(
            "semipd_frontend_e2e_seconds", "Arrival to last token.", buckets=_E2E_S, registry=registry
        )
        self._open = Gauge("semipd_frontend_open_requests", "Choices being generated.", registry=registry)
        self._queued = Gauge(
            "semipd_frontend_queued_requests", "Choices that have no token yet.", registry=registry
        )
        self._ready = Gauge("semipd_frontend_ready", "1 if new requests are taken.", registry=registry)
        self._attainment = Gauge(
            "semipd_frontend_slo_attainment_ratio",
            "Judged requests of the kept window (120 s) that attained their SLO; NaN if none was judged.",
            registry=registry,
        )

    def request_ended(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def generation_ended(self, generation: Generation) -> None:
        """Ended by itself; `generation_aborted` counts the others."""
        self._generations.labels(generation.finish).inc()
        self._prompt_tokens.inc(len(generation.submit.prompt))
        self._cached_tokens.inc(generation.cached_tokens)
        self._output_tokens.inc(len(generation.received))
        if generation.ttft_s is not None:
            self._ttft.observe(generation.ttft_s)
        if generation.tpot_s is not None:
            self._tpot.observe(generation.tpot_s)
        if generation.e2e_s is not None:
            self._e2e.observe(generation.e2e_s)

    def generation_aborted(self) -> None:
        self._generations.labels("abort").inc()

    def expose(self, *, num_open: int, num_queued: int, ready: bool, slots: list[WindowSlot]) -> bytes:
        """The text format, version 0.0.4."""
        self._open.set(num_open)
        self._queued.set(num_queued)
        self._ready.set(ready)
        attained = sum(slot.attained for slot in slots)
        judged = attained + sum(slot.missed for slot in slots)
        self._attainment.set(attained / judged if judged else float("nan"))
        return generate_latest(self._registry)
