"""Status: each condition by what was observed, and no write where nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, partition, pod, service, workload

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType
from semipd_core.api.service import ServiceStatus, SloStatus
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.slo import histogram
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.status import Loop, build_status

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
CONFIG = ClusterConfig(
    mode="Auto",
    policy="ModelPredictive",
    isolation=Isolation.MPS,
    initial=Partition(prefill_percent=80, decode_percent=100),
    bounds=Band(
        prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
    ),
    slo=SLO,
)
UNSCHEDULABLE = "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu"


def conditions(
    found: Observed, loop: Loop | None = None, defect: InvalidSpec | None = None
) -> dict[str, tuple[str, str]]:
    status = build_status(found, loop, defect, NOW)
    return {condition.type: (condition.status.value, condition.reason) for condition in status.conditions}


def loop_after(*slots: WindowSlot, now_s: float = 1_000_000.0, silent: bool = False) -> Loop:
    front_end = FrontEndReport(
        at_s=now_s, ready=True, slo=SLO, open_requests=0, queued_requests=0, slots=list(slots)
    )
    report = EngineReport(
        engine_id="chat-1/engine-0",
        at_s=now_s,
        phase="Steady",
        requested=(80, 100),
        granted=(80, 100),
        front_end=front_end,
        coordinator=None,
    )
    state, round_ = cluster.step(
        cluster.initial_state(CONFIG), CONFIG, {"chat-1/engine-0": None if silent else report}, now_s
    )
    return Loop(state=state, round=round_, slo=SLO)


def slot(attained: int, missed: int = 0) -> WindowSlot:
    count = attained + missed
    return WindowSlot(
        start_s=999_990,
        arrived=count,
        completed=count,
        attained=attained,
        missed=missed,
        ttft_ms={histogram.bucket_of(120.0): count},
        tpot_ms={histogram.bucket_of(30.0): count},
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {},
            {
                "Ready": ("True", "AllReady"),
                "EnginesReady": ("True", "AllReady"),
                "PartitionApplied": ("True", "Applied"),
                "Progressing": ("False", "UpToDate"),
            },
            id="all is well",
        ),
        pytest.param(
            {"workload": None, "pods": ()},
            {"Ready": ("False", "NotDeployed"), "EnginesReady": ("False", "NotDeployed")},
            id="nothing is deployed yet",
        ),
        pytest.param(
            {"workload": workload(0), "pods": ()}, {"Ready": ("False", "NoReplicas")}, id="scaled to nothing"
        ),
        pytest.param(
            {"workload": workload(3, ready=1)},
            {"Ready": ("False", "NotReady"), "EnginesReady": ("False", "NotReady")},
            id="pods start",
        ),
        pytest.param(
            {
                "workload": workload(2, ready=1),
                "pods": (pod(), pod("chat-2", is_ready=False, node=None, problem=UNSCHEDULABLE)),
            },
            {"EnginesReady": ("False", "PodBlocked")},
            id="a pod finds no node",
        ),
        pytest.param(
            {"workload": workload(is_current=False)},
            {"Ready": ("False", "NotReady")},
            id="the workload's controller has not seen the change",
        ),
        pytest.param(
            {"workload": workload(2, updated=1)},
            {"Ready": ("False", "RollingOut"), "EnginesReady": ("True", "AllReady")},
            id="ready and half rolled out is not ready",
        ),
        pytest.param(
            {
                "workload": workload(1, updated=0),
                "pods": (pod(), pod("chat-2", is_ready=False, node=None, problem=UNSCHEDULABLE)),
            },
            {"Progressing": ("True", "CannotSurge"), "Ready": ("False", "CannotSurge")},
            id="no room for a surge pod",
        ),
        pytest.param(
            {"workload": workload(1, updated=0, is_stuck=True)},
            {
                "Progressing": ("False", "ProgressDeadlineExceeded"),
                "Ready": ("False", "ProgressDeadlineExceeded"),
            },
            id="a rollout is stuck",
        ),
        pytest.param(
            {"partitions": {}},
            {"PartitionApplied": ("False", "NotReported"), "Ready": ("False", "NotReported")},
            id="the agent has no partition yet",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(observed_decision_id=None)}},
            {"PartitionApplied": ("False", "NotReported")},
            id="the agent has not reported",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(observed_decision_id="cluster-0")}},
            {"PartitionApplied": ("False", "Switching"), "Ready": ("True", "AllReady")},
            id="a switch blocks nothing",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(switching=True)}},
            {"PartitionApplied": ("False", "Switching")},
            id="a switch under way",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(granted=(75, 100))}},
            {"PartitionApplied": ("False", "NotGranted"), "Ready": ("False", "NotGranted")},
            id="granted is not requested",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(gpu="Unhealthy")}},
            {"Degraded": ("True", "GpuUnhealthy"), "Ready": ("True", "AllReady")},
            id="a GPU is unhealthy",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(degraded="MpsFault")}},
            {"Degraded": ("True", "PodFault"), "Ready": ("True", "AllReady")},
            id="an agent says what is wrong with its pod",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(gpu="Unhealthy", degraded="GpuLost")}},
            {"Degraded": ("True", "GpuUnhealthy")},
            id="a GPU that is ill explains more than that",
        ),
        pytest.param(
            {"partitions": {"chat-1": partition(degraded="Problems")}},
            {"Degraded": ("False", "Healthy")},
            id="what an agent tries again is its own affair",
        ),
    ],
)
def test_conditions(changes: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    assert expected.items() <= conditions(observed(**changes)).items()


def test_a_service_that_its_class_refuses_says_why() -> None:
    defect = InvalidSpec("spec.replicas", "6 GPUs", "at most 4")
    found = build_status(observed(), None, defect, NOW)
    ready = next(condition for condition in found.conditions if condition.type == "Ready")
    assert (ready.status.value, ready.reason) == ("False", "ClassRefuses")
    assert "spec.replicas: got '6 GPUs', allowed: at most 4" in ready.message


def test_of_a_service_without_a_loop_that_its_class_refuses_nothing_measured_is_kept() -> None:
    """An operator that starts anew makes it no loop: what the last one saw would outlast any outage."""
    seen = observed()
    slo = SloStatus(attainment_permille=990, ttft_milliseconds=300, tpot_milliseconds=50)
    met = Condition(type=ConditionType.SLO_MET, status=ConditionStatus.TRUE, reason="Met", message="")
    before = replace(seen.service, status=ServiceStatus(slo=slo, conditions=(met,)))
    for defect, expected in (
        (None, "True"),
        (InvalidSpec("spec.replicas", "6 GPUs", "at most 4"), "Unknown"),
    ):
        found = build_status(replace(seen, service=before), None, defect, NOW)
        condition = next(each for each in found.conditions if each.type == "SLOMet")
        assert condition.status.value == expected
        assert (found.slo is None) is (defect is not None)


def test_a_fault_of_a_pod_is_told_in_the_agents_words() -> None:
    found = build_status(observed(partitions={"chat-1": partition(degraded="NoDriver")}), None, None, NOW)
    degraded = next(condition for condition in found.conditions if condition.type == "Degraded")
    assert degraded.message == "chat-1: NoDriver: why"


@pytest.mark.parametrize(
    ("loop", "metrics", "slo"),
    [
        pytest.param(None, ("Unknown", "NotObservedYet"), ("Unknown", "NotObservedYet"), id="no round yet"),
        pytest.param(
            loop_after(silent=True), ("False", "MetricsMissing"), ("Unknown", "NoData"), id="no agent answers"
        ),
        pytest.param(loop_after(), ("True", "MetricsFound"), ("Unknown", "Idle"), id="nothing arrives"),
        pytest.param(
            loop_after(slot(20)), ("True", "MetricsFound"), ("True", "Met"), id="all requests are in time"
        ),
        pytest.param(
            loop_after(slot(10, 10)),
            ("True", "MetricsFound"),
            ("False", "Missed"),
            id="half of them are late",
        ),
    ],
)
def test_what_the_windows_say(loop: Loop | None, metrics: tuple[str, str], slo: tuple[str, str]) -> None:
    found = conditions(observed(), loop)
    assert (found["MetricsAvailable"], found["SLOMet"]) == (metrics, slo)
    assert found["Ready"] == ("True", "AllReady"), "a missed SLO blocks nothing"


def with_status(found: Observed, status: ServiceStatus) -> Observed:
    return replace(found, service=replace(found.service, status=status))


def test_equal_observations_write_nothing() -> None:
    loop = loop_after(slot(97, 3))
    first = build_status(observed(), loop, None, NOW)
    again = build_status(with_status(observed(), first), loop, None, "2026-11-21T13:00:00Z")
    assert again == first


def test_a_new_leader_that_holds_as_the_last_one_did_adds_no_record() -> None:
    first = build_status(observed(), loop_after(), None, NOW)
    assert len(first.decisions) == 1
    again = build_status(with_status(observed(), first), loop_after(now_s=1_000_060.0), None, NOW)
    assert again.decisions == first.decisions


def test_figures_that_wobble_write_nothing() -> None:
    first = build_status(observed(), loop_after(slot(970, 30)), None, NOW)
    assert first.slo is not None
    assert first.slo.attainment_permille == 970
    wobbled = build_status(with_status(observed(), first), loop_after(slot(974, 26)), None, NOW)
    assert wobbled == first
    moved = build_status(with_status(observed(), first), loop_after(slot(920, 80)), None, NOW)
    assert moved.slo is not None
    assert moved.slo.attainment_permille == 920


def test_misses_that_chance_explains_do_not_flip_the_slo() -> None:
    found, seen = observed(), []
    for attained in (901, 899, 901, 850, 899, 890, 901):
        status = build_status(found, loop_after(slot(attained, 1000 - attained)), None, NOW)
        found = with_status(found, status)
        seen.append(next(each.status.value for each in status.conditions if each.type == "SLOMet"))
    assert seen == ["True", "True", "True", "False", "False", "False", "True"]


def test_how_many_engines_report_is_no_matter_while_any_does() -> None:
    loop = loop_after(slot(10))
    fewer = replace(loop, round=replace(loop.round, window=replace(loop.round.window, engines=9)))
    assert build_status(observed(), loop, None, NOW) == build_status(observed(), fewer, None, NOW)


def test_a_condition_keeps_the_time_of_its_last_flip() -> None:
    first = build_status(observed(workload=workload(2, ready=1)), None, None, NOW)
    later = build_status(with_status(observed(), first), None, None, "2026-11-21T13:00:00Z")
    times = {condition.type: condition.last_transition_time for condition in later.conditions}
    assert times["EnginesReady"] == "2026-11-21T13:00:00Z"
    assert times["Degraded"] == NOW
    assert {condition.observed_generation for condition in later.conditions} == {3}


def test_counts_shares_and_the_selector_of_scale() -> None:
    status = build_status(
        observed(
            service=service(replicas=2),
            workload=workload(2),
            pods=(pod(), pod("chat-2"), pod("chat-3")),
            partitions={
                "chat-1": partition(granted=(60, 100)),
                "chat-2": partition("chat-2"),
                "chat-3": partition("chat-3"),
            },
        ),
        loop_after(),
        None,
        NOW,
    )
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (2, 2, 2)
    assert status.selector == "app.kubernetes.io/component=engine,semipd.io/service=chat"
    assert status.granted is not None
    assert (status.granted.prefill_percent, status.granted.decode_percent) == (80, 100)
    assert status.observed_generation == 3


def test_the_mode_and_the_placement_are_shown_where_the_spec_leaves_them_to_the_default() -> None:
    status = build_status(observed(), None, None, NOW)
    assert (status.mode, status.placement) == ("Auto", "Replicas")


def test_a_mode_that_comes_with_what_the_class_refuses_is_not_in_force() -> None:
    first = build_status(observed(), None, None, NOW)
    static = observed(
        service=replace(service(replicas=1, partition={"mode": "Static"}), status=first),
    )
    defect = InvalidSpec("spec.replicas", "6 GPUs", "at most 4")
    assert build_status(static, None, defect, NOW).mode == "Auto"
    assert build_status(static, None, None, NOW).mode == "Static"
