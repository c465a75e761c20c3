"""What the operator makes of an autoscale block: who may set the number, what holds it, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from fleet_objects import NOW, observed, partition, pod, service, service_class, workload

from semipd_core.api.conditions import find_condition
from semipd_core.api.service import ScalingRecord, ServiceStatus
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.pressure import FleetLoad, PressureSample, PressureTrack
from semipd_core.cluster.state import ClusterConfig
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.telemetry import SloTargets
from semipd_operator.plan.observed import Observed, ReplicasOwner
from semipd_operator.plan.plan import Installation, admit, build_plan
from semipd_operator.plan.scaling import RECORDS_KEPT, Refusal, Scaling, plan_scaling, refused, with_scaling
from semipd_operator.plan.status import Loop
from semipd_operator.plan.transitions import find_transitions

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
NOW_S = datetime.fromisoformat(NOW).timestamp()
LONG_AGO = "2026-11-21T10:00:00Z"
INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:test")


def loop(pressure: float, engines: int = 2) -> Loop:
    """Of a service whose engines were all seen at `pressure` for the last minute."""
    load = FleetLoad(engines=engines, open_requests=20 * engines, queued_requests=0, kv_used_ratio=0.2)
    samples = tuple(
        PressureSample(
            at_s=NOW_S - back, observed=pressure, relieved=pressure, load=load, tokens_per_s=300.0 * engines
        )
        for back in (30, 15, 0)
    )
    track = PressureTrack(engines=engines, since_s=NOW_S - 60, looked_s=NOW_S, load=load, samples=samples)
    state = replace(initial_state(CONFIG), pressure=track)
    return Loop(state=state, round=None, slo=SLO)  # type: ignore[arg-type]  # scaling looks at the state alone


def owner(manager: str = "kubectl-client-side-apply", **changes: Any) -> ReplicasOwner:
    return replace(ReplicasOwner(manager=manager, is_apply=False, is_scale=False, time=LONG_AGO), **changes)


def fleet(replicas: int = 2, **changes: Any) -> Observed:
    """`replicas` pods that are ready, of 1..8."""
    names = [f"chat-{number}" for number in range(replicas)]
    return replace(
        observed(
            service=service(replicas=replicas, autoscale={"minReplicas": 1, "maxReplicas": 8}),
            workload=workload(replicas),
            pods=tuple(pod(name) for name in names),
            partitions={name: partition(name) for name in names},
        ),
        replicas_owners=(owner(),),
        **changes,
    )


def scale(
    found: Observed,
    pressure: float | None = 0.9,
    *,
    defect: InvalidSpec | None = None,
    paused: bool = False,
    limit: int | None = None,
    engines: int = 2,
) -> Scaling | None:
    said = None if pressure is None else loop(pressure, engines)
    return plan_scaling(found, said, defect=defect, paused=paused, replica_limit=limit, now=NOW)


def test_without_the_block_nothing_is_scaled_and_nothing_is_said() -> None:
    assert scale(observed()) is None


def test_a_change_says_from_what_to_what_and_why() -> None:
    scaling = scale(fleet())
    assert scaling is not None
    assert scaling.records[0] == ScalingRecord(
        time=NOW,
        from_replicas=2,
        to_replicas=4,
        reason="PressureHigh",
        message="pressure 0.90 above 0.55 on 2 of 2 replicas: 4",
        tokens_per_second_per_pod=300,
    )


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        pytest.param({}, {"pressure": 0.5}, ("True", "WithinBand"), id="within the band"),
        pytest.param({}, {"pressure": None}, ("Unknown", "NoData"), id="an operator that has just started"),
        pytest.param({}, {"paused": True}, ("False", "Paused"), id="paused"),
        pytest.param(
            {}, {"defect": InvalidSpec("spec.x", "1", "2")}, ("False", "ClassRefuses"), id="the class refuses"
        ),
        pytest.param({}, {"limit": 2}, ("True", "AtMaximum"), id="the class's GPU budget is spent"),
        pytest.param(
            {
                "service": service(replicas=0, autoscale={"maxReplicas": 8}),
                "workload": workload(0),
                "pods": (),
            },
            {},
            ("False", "ScalingDisabled"),
            id="somebody asked for 0",
        ),
        pytest.param(
            {"replicas_owners": (owner("kube-controller-manager", is_scale=True, time=None),)},
            {},
            ("False", "ReplicasOwned"),
            id="an HPA",
        ),
        pytest.param(
            {"replicas_owners": (owner("argocd-controller", is_apply=True),)},
            {},
            ("False", "ReplicasOwned"),
            id="a manifest under server-side apply",
        ),
        pytest.param(
            {"workload": workload(1)}, {}, ("True", "ChangeInFlight"), id="the workload has another number"
        ),
        pytest.param({"workload": workload(2, updated=1)}, {}, ("True", "ChangeInFlight"), id="a rollout"),
        pytest.param(
            {"pods": (pod("chat-0"), pod("chat-1", is_ready=False))},
            {},
            ("True", "ChangeInFlight"),
            id="a pod starts",
        ),
        pytest.param(
            {"pods": (pod("chat-0"),)}, {}, ("True", "ChangeInFlight"), id="a pod is still to be made"
        ),
        pytest.param(
            {"pods": (pod("chat-0"),), "workload": workload(2, updated=1, lacks_pods=True)},
            {},
            ("True", "NoRoom"),
            id="a quota has no room for a pod",
        ),
        pytest.param(
            {
                "pods": (
                    pod("chat-0"),
                    pod("chat-1", is_ready=False, node=None, problem="Unschedulable: 0/1 nodes"),
                )
            },
            {},
            ("True", "NoRoom"),
            id="a pod finds no node",
        ),
        pytest.param(
            {"partitions": {"chat-0": partition("chat-0"), "chat-1": partition("chat-1", switching=True)}},
            {},
            ("True", "ChangeInFlight"),
            id="a switch",
        ),
        pytest.param(
            {
                "partitions": {
                    "chat-0": partition("chat-0"),
                    "chat-1": partition("chat-1", decision_id="cluster-2", observed_decision_id="cluster-2"),
                }
            },
            {},
            ("True", "ChangeInFlight"),
            id="a canary: one pod tries another split",
        ),
        pytest.param(
            {"replicas_owners": (owner(time="2026-11-21T11:59:30Z"),)},
            {},
            ("True", "WithinPeriod"),
            id="an edit half a minute ago is a change like ours",
        ),
    ],
)
def test_what_holds_the_number(
    changes: dict[str, Any], arguments: dict[str, Any], expected: tuple[str, str]
) -> None:
    scaling = scale(replace(fleet(), **changes), **arguments)
    assert scaling is not None
    assert (scaling.condition.status.value, scaling.condition.reason) == expected
    assert scaling.replicas is None


@pytest.mark.parametrize(
    ("changes", "degraded", "moves"),
    [
        pytest.param({}, None, False, id="it has only begun"),
        pytest.param({"created_s": NOW_S - 60}, None, False, id="a minute ago"),
        pytest.param({}, "Problems", False, id="its agent tries again by itself"),
        pytest.param({}, "GpuLost", True, id="its GPU is lost: it runs and is not ready by design"),
        pytest.param({"created_s": NOW_S - 7200}, None, True, id="no start takes so long"),
    ],
)
def test_a_pod_that_is_ill_is_none_that_starts(
    changes: dict[str, Any], degraded: str | None, moves: bool
) -> None:
    found = fleet(
        pods=(pod("chat-0"), pod("chat-1", is_ready=False, **changes)),
        partitions={"chat-0": partition("chat-0"), "chat-1": partition("chat-1", degraded=degraded)},
    )
    scaling = scale(found)
    assert scaling is not None
    assert scaling.replicas == (3 if moves else None)


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(owner("semipd-operator-seed", is_apply=True), id="our seed"),
        pytest.param(owner("semipd-operator-autoscale", is_scale=True), id="ourselves"),
        pytest.param(owner("kubectl-create"), id="the manifest as it was created"),
        pytest.param(owner("kubectl", is_scale=True, time=None), id="kubectl scale"),
    ],
)
def test_from_these_numbers_scaling_goes_on(who: ReplicasOwner) -> None:
    scaling = scale(replace(fleet(), replicas_owners=(who,)))
    assert scaling is not None
    assert scaling.replicas is not None


def test_one_switch_among_many_pods_is_the_agents_own_and_holds_nothing() -> None:
    found = fleet(20)
    partitions = {**found.partitions, "chat-3": partition("chat-3", switching=True)}
    spec = service(replicas=20, autoscale={"maxReplicas": 40})
    scaling = scale(replace(found, partitions=partitions, service=spec), engines=20)
    assert scaling is not None
    assert scaling.replicas is not None


def test_words_of_a_hold_have_no_figures_so_that_a_steady_service_is_not_written() -> None:
    first, second = scale(fleet(), 0.41), scale(fleet(), 0.54)
    assert first == second


def after(found: Observed, replicas: int, scalings: tuple[ScalingRecord, ...]) -> Observed:
    service_ = replace(found.service, status=ServiceStatus(scalings=scalings))
    return replace(fleet(replicas), service=replace(service_, spec=replace(service_.spec, replicas=replicas)))


def record(
    to: int, time: str = LONG_AGO, reason: str = "PressureHigh", load: int | None = None
) -> ScalingRecord:
    return ScalingRecord(
        time=time, from_replicas=1, to_replicas=to, reason=reason, message="", tokens_per_second_per_pod=load
    )


def test_the_last_changes_are_kept_newest_first() -> None:
    old = tuple(record(2, reason=f"Old{number}") for number in range(RECORDS_KEPT))
    scaling = scale(after(fleet(), 2, old))
    assert scaling is not None
    assert [each.reason for each in scaling.records] == ["PressureHigh", "Old0", "Old1", "Old2", "Old3"]


def test_a_number_that_nobody_wrote_down_is_a_change_and_begins_a_period() -> None:
    scaling = scale(after(fleet(), 2, (record(5),)))
    assert scaling is not None
    assert (scaling.replicas, scaling.condition.reason) == (None, "WithinPeriod")
    assert [(each.from_replicas, each.to_replicas, each.reason) for each in scaling.records] == [
        (5, 2, "Found"),
        (1, 5, "PressureHigh"),
    ]


def test_a_change_that_is_refused_is_not_written_down() -> None:
    scaling = scale(after(fleet(), 2, (record(2),)))
    assert scaling is not None
    refusal = Refusal(replicas=4, message="quota exceeded")
    said = refused(scaling, refusal)
    assert (said.condition.status.value, said.condition.reason) == ("False", "FailedUpdateScale")
    assert said.condition.message == "4 replicas: quota exceeded"
    assert said.records == (record(2),)


def test_a_number_that_was_refused_is_not_tried_again_and_another_one_is() -> None:
    refusal = Refusal(replicas=4, message="quota exceeded")
    for pressure, replicas in ((0.9, None), (0.7, 3)):
        scaling = plan_scaling(
            fleet(), loop(pressure), defect=None, paused=False, replica_limit=None, now=NOW, refusal=refusal
        )
        assert scaling is not None
        assert scaling.replicas == replicas


def test_without_the_block_records_and_condition_go() -> None:
    status = with_scaling(ServiceStatus(), scale(fleet()), NOW)
    assert find_condition(status.conditions, "ScalingActive") is not None
    off = with_scaling(status, None, NOW)
    assert off.scalings == ()
    assert find_condition(off.conditions, "ScalingActive") is None


def test_each_change_is_an_event_with_both_numbers() -> None:
    old = ServiceStatus()
    new = with_scaling(old, scale(fleet()), NOW)
    transitions = list(find_transitions(old, new))
    assert [(each.reason, each.detail) for each in transitions] == [("ScaledUp", "2 -> 4")]
    assert list(find_transitions(new, new)) == []


def test_what_was_too_much_is_read_back_from_status_after_a_restart() -> None:
    for each, reason in ((record(2), "PressureLow"), (record(2, load=500), "OverloadedBefore")):
        scaling = scale(after(fleet(), 2, (replace(each, time="2026-11-21T11:50:00Z"),)), 0.1)
        assert scaling is not None
        assert scaling.condition.reason == reason


def test_the_class_budget_bounds_what_is_asked_for() -> None:
    cls = service_class(default=True, device="CUDA", gpuBudget=3)
    found = replace(
        fleet(), service=service(replicas=2, autoscale={"maxReplicas": 8}, resources={"gpusPerEngine": 1})
    )
    admission = admit(found, [cls], INSTALLATION, others_gpus=0)
    assert admission.replica_limit == 3
    plan = build_plan(found, admission, INSTALLATION, wish=None, loop=None, now=NOW)
    assert plan.scaling is not None
    assert plan.scaling.condition.reason == "NoData"
    assert find_condition(plan.status.conditions, "ScalingActive") is not None
