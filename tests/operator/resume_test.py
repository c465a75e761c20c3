"""Where the loop takes up after a restart of the operator, also in the middle of a canary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, partition, service

from semipd_core.api import codec
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import ServiceStatus
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import (
    ClusterConfig,
    ClusterRound,
    ClusterState,
    TimedDecision,
    decision_id_at,
)
from semipd_core.partition import Band, Partition
from semipd_core.policies.decision import Decision, Reason
from semipd_operator.plan.loop_settings import loop_config
from semipd_operator.plan.plan import Installation, admit
from semipd_operator.plan.resume import pinned_split, resume_state
from semipd_operator.plan.status import Loop, build_status

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")


def config(**spec: object) -> ClusterConfig:
    effective = admit(observed(service=service(**spec)), [], INSTALLATION, 0).effective
    assert effective is not None
    return loop_config(effective, 15.0)


def at(prefill: int, decode: int = 100) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


@pytest.mark.parametrize(
    ("partitions", "target", "decision_id"),
    [
        pytest.param([], at(80), "cluster-initial", id="nothing is there: the initial split"),
        pytest.param(
            [partition(split=(60, 100), band=(45, 75, 85, 100), decision_id="cluster-7")],
            at(60),
            "cluster-7",
            id="what the pods are asked for",
        ),
        pytest.param(
            [
                partition("a", split=(60, 100), band=(45, 75, 85, 100), decision_id="cluster-8"),
                partition("b", split=(70, 100), band=(55, 85, 85, 100), decision_id="cluster-7"),
                partition("c", split=(70, 100), band=(55, 85, 85, 100), decision_id="cluster-7"),
            ],
            at(70),
            "cluster-7",
            id="what most of them are asked for",
        ),
        pytest.param(
            [partition(split=(20, 100), band=(20, 35, 85, 100), decision_id="cluster-7")],
            at(80),
            "cluster-initial",
            id="what the bounds no longer hold is let go",
        ),
    ],
)
def test_an_operator_that_starts_anew_moves_nothing_by_starting(
    partitions: list[SemiPDPartition], target: Partition, decision_id: str
) -> None:
    settings = config(partition={"bounds": {"prefillMinPercent": 40}})
    state = resume_state(settings, partitions)
    assert (state.target, state.decision_id) == (target, decision_id)


@pytest.mark.parametrize(("mode", "target"), [("Advisory", at(60)), ("Static", at(80))])
def test_an_operator_that_starts_anew_goes_on_with_a_fixed_split(mode: str, target: Partition) -> None:
    settings = config(partition={"mode": mode})
    asked = partition(split=(60, 100), band=(60, 60, 100, 100), decision_id="advisory-60-100")
    state = resume_state(settings, [asked])
    assert (state.target, state.decision_id) == (target, f"{mode.lower()}-{target.prefill_percent}-100")


MOVED_AT_S = 1_795_262_400.0  # 2026-11-21T12:00:00Z
TRIAL_ID = f"cluster-{MOVED_AT_S * 1000:.0f}"


def trial_partition(name: str) -> SemiPDPartition:
    return partition(name, split=(50, 100), band=(35, 65, 85, 100), decision_id=TRIAL_ID)


def status_of(**fields: Any) -> ServiceStatus:
    return codec.decode_service(
        {
            **codec.encode(service()),
            "status": {"requested": {"prefillPercent": 80, "decodePercent": 100}, **fields},
        }
    ).status


def trial_of(stage: str, *pods: str) -> dict[str, Any]:
    return {
        "partition": {"prefillPercent": 50, "decodePercent": 100},
        "decisionID": TRIAL_ID,
        "stage": stage,
        "since": NOW,
        "pods": list(pods),
        "judgedBefore": 40,
        "attainedBefore": 30,
    }


OLD = [partition(name, decision_id="cluster-1") for name in ("chat-2", "chat-3", "chat-4")]
PROVEN = {"prefillMinPercent": 65, "prefillMaxPercent": 95, "decodeMinPercent": 85, "decodeMaxPercent": 100}


@pytest.mark.parametrize(
    ("partitions", "status", "target", "canaries"),
    [
        pytest.param(
            [trial_partition("chat-1"), *OLD],
            {"canary": trial_of("OnePod", "chat-1")},
            at(80),
            ("chat-1",),
            id="the canary asks for it already",
        ),
        pytest.param(
            [partition("chat-1", decision_id="cluster-1"), *OLD],
            {"canary": trial_of("OnePod", "chat-1")},
            at(80),
            ("chat-1",),
            id="the status was written, the partition not yet",
        ),
        pytest.param(
            [trial_partition("chat-1"), *OLD],
            {"canary": trial_of("Percent", "chat-1", "chat-2")},
            at(80),
            ("chat-1", "chat-2"),
            id="half of the second stage is written",
        ),
        pytest.param(
            [trial_partition("chat-1")],
            {"canary": trial_of("OnePod", "chat-1")},
            at(80),
            ("chat-1",),
            id="no pod is left that runs the split before",
        ),
        pytest.param(
            [trial_partition("chat-1"), *OLD],
            {"requested": {"prefillPercent": 50, "decodePercent": 100}},
            at(50),
            (),
            id="it had passed, and the others were not asked yet",
        ),
        pytest.param(
            [trial_partition("chat-1")],
            {"canary": trial_of("RolledBack")},
            at(80),
            (),
            id="it had failed, and the pod was not asked back yet",
        ),
        pytest.param(
            OLD, {"canary": trial_of("OnePod", "chat-1")}, at(80), (), id="the canary is gone with its pod"
        ),
        pytest.param(
            [trial_partition("chat-1"), *OLD], None, at(80), (), id="no status: what few pods run is let go"
        ),
    ],
)
def test_an_operator_that_starts_anew_goes_on_with_a_canary_where_it_was(
    partitions: list[SemiPDPartition],
    status: dict[str, Any] | None,
    target: Partition,
    canaries: tuple[str, ...],
) -> None:
    settings = config()
    found = status_of(**status) if status is not None else None
    state = resume_state(settings, partitions, found, MOVED_AT_S + 60)
    assert (state.target, state.canary.pods if state.canary else ()) == (target, canaries)
    assert state.moves_s == (MOVED_AT_S,), "a move of this hour, also by this operator"
    if state.canary is not None:
        assert (state.canary.wish.target, state.canary.wish.decision_id) == (at(50), TRIAL_ID)
        assert (state.canary.before.judged, state.canary.before.attained) == (40, 30)
        assert state.canary.stage_s == MOVED_AT_S


def test_what_was_proven_and_what_failed_outlives_the_operator() -> None:
    found = status_of(proven=PROVEN, canary=trial_of("RolledBack"))
    state = resume_state(config(), OLD, found, MOVED_AT_S + 60)
    assert state.proven == Band(
        prefill_min_percent=65, prefill_max_percent=95, decode_min_percent=85, decode_max_percent=100
    )
    assert state.is_refused(at(50), MOVED_AT_S + 60)
    assert state.is_refused(at(45), MOVED_AT_S + 60)
    assert not state.is_refused(at(60), MOVED_AT_S + 60)


def test_a_pin_that_was_removed_while_no_operator_ran_is_let_go_where_it_was() -> None:
    pinned = [partition("chat-1", split=(70, 60), band=(70, 70, 60, 60), decision_id="pinned-70-60")]
    state = resume_state(config(), pinned, None, 5.0)
    assert (state.target, state.reason) == (at(70, 60), "Unpinned")
    assert pinned_split(pinned) == at(70, 60)
    assert pinned_split(OLD) is None


def test_moves_of_the_last_hour_are_counted_after_many_holds() -> None:
    """A status keeps ten decisions, and a loop that may not move holds for one reason after the other."""
    settings = config()
    state = initial_state(settings)
    moves_s = [MOVED_AT_S + 60 * number for number in range(6)]
    now_s = MOVED_AT_S
    status = status_of(requested={"prefillPercent": 50, "decodePercent": 100})
    for moved_s in [MOVED_AT_S - 7200, *moves_s]:
        state = moved(state, moved_s)
        for back, reason in enumerate((Reason.COOLDOWN, Reason.SLO_MET, Reason.IDLE)):
            now_s = moved_s + 1 + back
            state = held(state, reason, now_s)
        assert status is not None
        loop = Loop(state=state, round=played_round(settings, now_s), slo=settings.slo)
        status = build_status(observed(service=replace(service(), status=status)), loop, None, NOW)
    assert status is not None
    assert status.decisions[0].reason == Reason.IDLE
    assert len(status.decisions) == 10
    assert resume_state(settings, [], status, now_s).moves_s == tuple(moves_s)


def moved(state: ClusterState, at_s: float) -> ClusterState:
    state = replace(state, decision_id=decision_id_at(at_s))
    return state.noted(timed(state, Reason.TPOT_MISSED, at_s, changed=True))


def held(state: ClusterState, reason: Reason, at_s: float) -> ClusterState:
    return state.noted(timed(state, reason, at_s, changed=False))


def timed(state: ClusterState, reason: Reason, at_s: float, *, changed: bool) -> TimedDecision:
    decision = Decision(partition=state.target, reason=reason, message="")
    return TimedDecision(at_s=at_s, decision=decision, changed=changed, decision_id=state.decision_id)


def played_round(settings: ClusterConfig, now_s: float) -> ClusterRound:
    return cluster.step(initial_state(settings), settings, {}, now_s)[1]
