"""Series of each service, made from the rounds' state at the scrape: what is gone is gone, and nothing is published twice.

Only the leader has any: two operators that both tell of a service would be added up. A value that is not known has no series,
so that an autoscaler holds; it must never read 0 where there is no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_core.cluster import pressure
from semipd_operator.looped import Looped
from semipd_shell.informer import Key

LABELS = ("namespace", "name")
DEFAULT_QUEUE = 256  # of spec.http.maxQueuedRequests

Value = Callable[[Looped, Mapping[str, Any]], float | None]


class ServiceCollector(Collector):
    """`services`: objects as the API server has them."""

    def __init__(
        self,
        looped: Mapping[Key, Looped],
        services: Mapping[Key, Mapping[str, Any]],
        is_leading: Callable[[], bool],
    ) -> None:
        self._looped, self._services, self._is_leading = looped, services, is_leading

    def describe(self) -> Iterator[Metric]:
        """By which a registry knows the names that a scrape may ask for."""
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        known = [
            (key, looped, self._services[key])
            for key, looped in self._looped.items()
            if key in self._services and self._is_leading()
        ]
        return self._families(known)

    def _families(self, known: Sequence[tuple[Key, Looped, Mapping[str, Any]]]) -> Iterator[Metric]:
        share = GaugeMetricFamily(
            "semipd_service_share_percent", "Target of the split.", labels=(*LABELS, "role")
        )
        for key, looped, _ in known:
            target = looped.wish.target
            share.add_metric([*key, "prefill"], target.prefill_percent)
            share.add_metric([*key, "decode"], target.decode_percent)
        yield share
        yield from self._against_targets([(key, looped) for key, looped, _ in known])
        for name, (text, value_of) in _GAUGES.items():
            family = GaugeMetricFamily(f"semipd_service_{name}", text, labels=LABELS)
            for key, looped, found in known:
                value = value_of(looped, found)
                if value is not None:
                    family.add_metric([*key], value)
            yield family

    @staticmethod
    def _against_targets(known: Sequence[tuple[Key, Looped]]) -> Iterator[Metric]:
        """What was measured, and what it is to be, under labels of their own."""
        judged = GaugeMetricFamily(
            "semipd_service_window_requests",
            "Requests that the last round's window judged, by verdict.",
            labels=(*LABELS, "verdict"),
        )
        latency = GaugeMetricFamily(
            "semipd_service_latency_seconds",
            "Of the last round's window, at the percentile of the SLO.",
            labels=(*LABELS, "latency"),
        )
        target = GaugeMetricFamily(
            "semipd_service_latency_target_seconds", "Of the SLO.", labels=(*LABELS, "latency")
        )
        for key, looped in known:
            slo, window = looped.config.slo, looped.round.window if looped.round else None
            target.add_metric([*key, "ttft"], slo.ttft_ms / 1000)
            target.add_metric([*key, "tpot"], slo.tpot_ms / 1000)
            if window is None or not window.engines:
                continue
            judged.add_metric([*key, "attained"], window.attained)
            judged.add_metric([*key, "missed"], window.missed)
            for name, found_ms in (
                ("ttft", window.ttft_percentile_ms(slo.ttft_percentile)),
                ("tpot", window.tpot_percentile_ms(slo.tpot_percentile)),
            ):
                if found_ms is not None:
                    latency.add_metric([*key, name], found_ms / 1000)
        yield from (judged, latency, target)


def slo_pressure(looped: Looped, _: Mapping[str, Any]) -> float | None:
    reading = pressure.read(looped.state.pressure, looped.config.average_s)
    return None if reading is None else reading.pressure


def saturation(looped: Looped, found: Mapping[str, Any]) -> float | None:
    """The fuller of KV cache and queue."""
    load = looped.state.pressure.load
    if load is None:
        return None
    room: int = found["spec"].get("http", {}).get("maxQueuedRequests", DEFAULT_QUEUE)
    return max(load.kv_used_ratio or 0.0, load.queued_requests / (load.engines * room))


def kv_used(looped: Looped, _: Mapping[str, Any]) -> float | None:
    load = looped.state.pressure.load
    return None if load is None else load.kv_used_ratio


def queued_requests(looped: Looped, _: Mapping[str, Any]) -> float | None:
    load = looped.state.pressure.load
    return None if load is None else load.queued_requests


def running_requests(looped: Looped, _: Mapping[str, Any]) -> float | None:
    load = looped.state.pressure.load
    return None if load is None else load.open_requests - load.queued_requests


def attainment(looped: Looped, _: Mapping[str, Any]) -> float | None:
    permille = looped.round.window.attainment_permille if looped.round else None
    return None if permille is None else permille / 1000


def attainment_target(looped: Looped, _: Mapping[str, Any]) -> float | None:
    return min(looped.config.slo.ttft_percentile, looped.config.slo.tpot_percentile) / 100


def engines_reporting(looped: Looped, _: Mapping[str, Any]) -> float | None:
    return looped.round.window.engines if looped.round else None


def replicas_desired(_: Looped, found: Mapping[str, Any]) -> float | None:
    wanted: int | None = found["spec"].get("replicas", found.get("status", {}).get("replicas"))
    return wanted


def replicas_ready(_: Looped, found: Mapping[str, Any]) -> float | None:
    ready: int | None = found.get("status", {}).get("readyReplicas")
    return ready


_GAUGES: Mapping[str, tuple[str, Value]] = {
    "slo_pressure": (
        "Latency over its SLO target, the higher of TTFT and TPOT, as far as no better split takes it away; mean over 3 rounds.",
        slo_pressure,
    ),
    "saturation": ("The higher of KV cache used and queue used, 0 to 1.", saturation),
    "kv_used_ratio": ("KV blocks in use, 0 to 1, mean over engines.", kv_used),
    "queue_requests": ("Requests without a token yet.", queued_requests),
    "running_requests": ("Requests that get tokens.", running_requests),
    "slo_attainment_ratio": ("Of the last window's judged requests.", attainment),
    "slo_attainment_target_ratio": ("The lower of the SLO's two percentiles.", attainment_target),
    "engines_reporting": ("In the last round.", engines_reporting),
    "replicas_desired": ("Pods asked for.", replicas_desired),
    "replicas_ready": ("Pods that take requests.", replicas_ready),
}
