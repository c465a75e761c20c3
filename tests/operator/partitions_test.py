"""Partitions: what each pod is asked for, and where the loop takes up after a restart."""

from __future__ import annotations

import pytest
from fleet_objects import NOW, observed, partition, pod, service

from semipd_core.api import codec
from semipd_core.api.partition import SemiPDPartition
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import ClusterConfig
from semipd_core.partition import Band, Partition
from semipd_operator.plan.loop_settings import fit_state, loop_config, wish_of
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import build_partition, build_partitions, is_asked
from semipd_operator.plan.plan import Installation, admit, build_plan
from semipd_operator.plan.resume import resume_state

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")
ROUND_S = 15.0


def config(**spec: object) -> ClusterConfig:
    effective = admit(observed(service=service(**spec)), [], INSTALLATION, 0).effective
    assert effective is not None
    return loop_config(effective, ROUND_S)


def at(prefill: int, decode: int = 100) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


def test_every_pod_that_stays_is_asked_for_the_same() -> None:
    found = observed(pods=(pod(), pod("chat-2"), pod("chat-3", is_leaving=True)))
    settings = config()
    built = build_partitions(found, {}, wish_of(initial_state(settings), settings))
    assert [manifest["metadata"]["name"] for manifest in built] == ["chat-1", "chat-2"]
    decoded = [codec.decode_partition(manifest) for manifest in built]
    assert {each.spec.target for each in decoded} == {decoded[0].spec.target}
    assert decoded[0].spec.target.prefill_percent == 80
    [owner] = built[0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "chat-1", "uid-chat-1")


def test_what_is_asked_already_is_not_asked_again() -> None:
    settings = config()
    wish = wish_of(initial_state(settings), settings)
    wanted = build_partition(observed(), pod(), wish)
    spec = codec.decode_partition(wanted).spec
    assert is_asked(spec, wanted["spec"])
    assert is_asked(spec, {**wanted["spec"], "message": "other words"})
    for change in ({"decisionID": "other"}, {"target": {"prefillPercent": 60, "decodePercent": 100}}):
        assert not is_asked(spec, {**wanted["spec"], **change})


@pytest.mark.parametrize("mode", ["Static", "Advisory"])
def test_a_fixed_split_leaves_the_agents_no_room(mode: str) -> None:
    settings = config(partition={"mode": mode, "initial": {"prefillPercent": 60, "decodePercent": 100}})
    wish = wish_of(initial_state(settings), settings)
    assert wish.target == at(60)
    assert wish.band == Band.only(at(60))


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


def test_bounds_that_shrink_move_the_target_to_the_nearest_split_inside() -> None:
    settings = config()
    state = fit_state(initial_state(settings), settings, now_s=5.0)
    assert state == initial_state(settings)
    narrow = config(partition={"bounds": {"prefillMinPercent": 20, "prefillMaxPercent": 60}})
    moved = fit_state(state, narrow, now_s=5.0)
    assert moved.target == at(60)
    assert moved.reason == "BoundsChanged"
    assert narrow.bounds.encloses(moved.band)


def plan_of(found: Observed) -> tuple[int, int, bool]:
    admission = admit(found, [], INSTALLATION, 0)
    settings = config()
    wish = wish_of(initial_state(settings), settings)
    plan = build_plan(found, admission, INSTALLATION, wish=wish, loop=None, now=NOW)
    return len(plan.children), len(plan.partitions), plan.seeds_replicas


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(observed(), (7, 1, False), id="as usual"),
        pytest.param(observed(service=service()), (7, 1, True), id="replicas are not set"),
        pytest.param(observed(service=service(placement="EveryNode")), (7, 1, False), id="the nodes decide"),
        pytest.param(
            observed(service=service(replicas=1, annotations={"semipd.io/paused": "true"})),
            (0, 0, False),
            id="paused: nothing is touched",
        ),
        pytest.param(
            observed(service=service(replicas=1, classRef={"name": "gone"})),
            (0, 1, False),
            id="refused by its class: runs on as it was",
        ),
    ],
)
def test_what_a_plan_holds(found: Observed, expected: tuple[int, int, bool]) -> None:
    assert plan_of(found) == expected
