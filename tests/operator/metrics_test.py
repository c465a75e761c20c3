"""The series of services: values where something is known, none where not, and none of what is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.slo import histogram
from semipd_core.telemetry import CoordinatorReport, EngineReport, FrontEndReport, SloTargets, WindowSlot
from semipd_operator.loop_metrics import add_loop_metrics
from semipd_operator.looped import Looped
from semipd_operator.metrics import ServiceCollector
from semipd_shell.informer import Key

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
CONFIG = ClusterConfig(
    mode="Static",
    policy="ModelPredictive",
    isolation=Isolation.MPS,
    initial=Partition(prefill_percent=80, decode_percent=100),
    bounds=Band(
        prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
    ),
    slo=SLO,
    average_s=3.0,
)
CHAT, CODE = Key("team-a", "chat"), Key("team-b", "code")
OBJECT: dict[str, Any] = {
    "spec": {"replicas": 3, "http": {"maxQueuedRequests": 10}},
    "status": {"readyReplicas": 2},
}


def report(now_s: float) -> EngineReport:
    """300 of 400 ms TTFT, one request in ten missed, four of ten places of the queue taken."""
    slots = [
        WindowSlot(
            start_s=int(now_s) // 2 * 2 - 2 * back,
            arrived=10,
            completed=10,
            attained=9,
            missed=1,
            ttft_ms={histogram.bucket_of(300.0): 10},
            tpot_ms={histogram.bucket_of(15.0): 10},
        )
        for back in range(10)
    ]
    front = FrontEndReport(at_s=now_s, ready=True, slo=SLO, open_requests=12, queued_requests=4, slots=slots)
    coordinator = CoordinatorReport(
        waiting=4, prefilling=0, decoding=8, kv_blocks_total=1000, kv_blocks_used=250, kv_blocks_cached=0,
        block_tokens=16, waiting_tokens=0, oldest_wait_ms=0, preemptions=0, prefix_hit_tokens=0, lane_restarts=0,
    )  # fmt: skip
    return EngineReport(
        engine_id="chat-1/engine-0", at_s=now_s, phase="Steady", requested=(80, 100), granted=(80, 100),
        front_end=front, coordinator=coordinator,
    )  # fmt: skip


def looped(looks: int, *, answers: bool = True) -> Looped:
    """After so many looks, one a second; without `answers` the last one finds nobody."""
    found = Looped(config=CONFIG, state=cluster.initial_state(CONFIG))
    for number in range(looks):
        now_s = 1_000_000.0 + number
        said = report(now_s) if answers or number < looks - 1 else None
        found.state, found.round = cluster.step(found.state, CONFIG, {"chat-1/engine-0": said}, now_s)
    return found


def series(
    services: dict[Key, Looped], objects: dict[Key, Any] | None = None, *, leads: bool = True
) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    objects = dict.fromkeys(services, OBJECT) if objects is None else objects
    registry.register(ServiceCollector(services, objects, lambda: leads))
    text = generate_latest(registry).decode()
    return {
        (
            sample.name.removeprefix("semipd_service_"),
            *(
                sample.labels[label]
                for label in ("namespace", "name", "role", "latency", "verdict")
                if label in sample.labels
            ),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_service_under_load_has_all_its_series() -> None:
    found = {name: value for (name, *labels), value in series({CHAT: looped(8)}).items() if len(labels) == 2}
    pressure = found.pop("slo_pressure")
    assert abs(pressure - 0.75) < 0.05
    assert found == {
        "saturation": 0.4,
        "kv_used_ratio": 0.25,
        "queue_requests": 4,
        "running_requests": 8,
        "slo_attainment_ratio": 0.9,
        "slo_attainment_target_ratio": 0.9,
        "engines_reporting": 1,
        "replicas_desired": 3,
        "replicas_ready": 2,
    }


def test_a_scrape_may_ask_for_some_series_by_name() -> None:
    registry = CollectorRegistry()
    services = {CHAT: looped(8)}
    registry.register(ServiceCollector(services, {CHAT: OBJECT}, lambda: True))
    add_loop_metrics(registry, services)
    names = ["semipd_service_kv_used_ratio", "semipd_service_moves_total"]
    lines = generate_latest(registry.restricted_registry(names)).decode().splitlines()
    assert {line.partition("{")[0] for line in lines if not line.startswith("#")} == set(names)


def test_no_data_has_no_series_that_an_autoscaler_could_take_for_zero() -> None:
    found = series({CHAT: looped(8, answers=False)})
    silent = (
        "slo_pressure",
        "saturation",
        "kv_used_ratio",
        "queue_requests",
        "running_requests",
        "slo_attainment_ratio",
        "window_requests",
        "latency_seconds",
    )
    assert not {name for name, *_ in found} & set(silent)
    assert found["engines_reporting", "team-a", "chat"] == 0


def test_latencies_stand_beside_their_targets_in_seconds_and_verdicts_are_counted() -> None:
    found = series({CHAT: looped(8)})
    assert found["latency_target_seconds", *CHAT, "ttft"] == 0.4
    assert found["latency_target_seconds", *CHAT, "tpot"] == 0.06
    assert abs(found["latency_seconds", *CHAT, "ttft"] - 0.3) < 0.03
    assert abs(found["latency_seconds", *CHAT, "tpot"] - 0.015) < 0.0015
    attained, missed = (found["window_requests", *CHAT, verdict] for verdict in ("attained", "missed"))
    assert attained == 9 * missed > 0


def test_targets_are_told_without_data_too() -> None:
    found = series({CHAT: looped(8, answers=False)})
    assert found["slo_attainment_target_ratio", *CHAT] == 0.9
    assert found["latency_target_seconds", *CHAT, "ttft"] == 0.4


def test_a_mean_that_is_not_whole_yet_is_not_told() -> None:
    assert ("slo_pressure", "team-a", "chat") not in series({CHAT: looped(2)})


def test_labels_are_namespace_and_name_alone() -> None:
    services = {CHAT: looped(8), CODE: looped(8)}
    pairs = {tuple(labels[:2]) for _, *labels in series(services)}
    assert pairs == {tuple(CHAT), tuple(CODE)}
    more = ("share_percent", "window_requests", "latency_seconds", "latency_target_seconds")
    assert {len(labels) for name, *labels in series(services) if name not in more} == {2}


def test_a_service_that_is_deleted_has_no_series() -> None:
    services = {CHAT: looped(8), CODE: looped(8)}
    assert {labels[1] for _, *labels in series(services, {CHAT: OBJECT})} == {"chat"}
    del services[CHAT]
    assert {labels[1] for _, *labels in series(services)} == {"code"}


def test_only_the_leader_tells() -> None:
    assert series({CHAT: looped(8)}, leads=False) == {}


def test_replicas_that_nobody_asked_for_are_those_that_there_are() -> None:
    every_node = {"spec": {}, "status": {"replicas": 5, "readyReplicas": 5}}
    found = series({CHAT: replace(looped(8))}, {CHAT: every_node})
    assert found["replicas_desired", "team-a", "chat"] == 5
