"""Partitions: what each pod is asked for, and where the loop takes up after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, partition, pod, service, workload

from semipd_core.api import codec
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import CanaryStage
from semipd_core.api.slo import SloSpec
from semipd_core.cluster.canary import Canary
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import ClusterConfig, ClusterState, band_around
from semipd_core.partition import Band, Partition
from semipd_core.policies.decision import Reason
from semipd_operator.plan.fleet import applied_id
from semipd_operator.plan.loop_settings import fit_state, loop_config, wish_of
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import build_partition, build_partitions, is_asked
from semipd_operator.plan.plan import Installation, admit, build_plan

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
    built = build_partitions(found, {}, wish_of(initial_state(settings), settings), None)
    assert [manifest["metadata"]["name"] for manifest in built] == ["chat-1", "chat-2"]
    decoded = [codec.decode_partition(manifest) for manifest in built]
    assert {each.spec.target for each in decoded} == {decoded[0].spec.target}
    assert decoded[0].spec.target.prefill_percent == 80
    [owner] = built[0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "chat-1", "uid-chat-1")


def test_what_is_asked_already_is_not_asked_again() -> None:
    settings = config()
    wish = wish_of(initial_state(settings), settings)
    told = {"slo": codec.encode(SloSpec()), "policy": "SLOFeedback"}
    wanted = build_partition(observed(), pod(), wish, told)
    spec = codec.decode_partition(wanted).spec
    assert is_asked(spec, wanted["spec"])
    assert is_asked(spec, {**wanted["spec"], "message": "other words"})
    changes: list[dict[str, object]] = [
        {"decisionID": "other"},
        {"target": {"prefillPercent": 60, "decodePercent": 100}},
        {"policy": "ModelPredictive"},
        {"slo": {**codec.encode(SloSpec()), "ttft": {"percentile": 90, "targetMilliseconds": 300}}},
    ]
    for change in changes:
        assert not is_asked(spec, {**wanted["spec"], **change})


LIVE = [
    {"slo": {"ttft": {"percentile": 95, "targetMilliseconds": 300}}},
    {"partition": {"policy": "SLOFeedback"}},
    {"partition": {"mode": "Static", "initial": {"prefillPercent": 60, "decodePercent": 100}}},
    {"partition": {"bounds": {"prefillMinPercent": 40}, "cooldownSeconds": 90}},
]


@pytest.mark.parametrize("spec", LIVE)
def test_what_pods_follow_by_their_partition_leaves_their_template_alone(spec: dict[str, object]) -> None:
    templates, told = [], []
    for changed in ({}, spec):
        found = observed(service=service(**changed), pods=(pod(),))
        admission = admit(found, [], INSTALLATION, 0)
        assert admission.effective is not None
        settings = loop_config(admission.effective, ROUND_S)
        wish = wish_of(initial_state(settings), settings)
        plan = build_plan(found, admission, INSTALLATION, wish=wish, loop=None, now="2026-11-21T12:00:00Z")
        [workload] = [child for child in plan.children if child["kind"] == "Deployment"]
        templates.append(workload["spec"]["template"])
        told.append(plan.partitions[0]["spec"])
    assert templates[0] == templates[1]
    assert told[0]["slo"] != told[1]["slo"] or "slo" not in spec


def test_while_the_class_refuses_pods_keep_what_they_were_told() -> None:
    settings = config()
    wish = wish_of(initial_state(settings), settings)
    told = {"slo": {"ttft": {"percentile": 95, "targetMilliseconds": 300}}, "policy": "SLOFeedback"}
    partition = codec.decode_partition(build_partition(observed(), pod(), wish, told))
    found = observed(pods=(pod(),), partitions={"chat-1": partition})
    [kept] = build_partitions(found, {}, wish, None)
    assert is_asked(partition.spec, kept["spec"])
    assert kept["spec"]["slo"]["ttft"]["targetMilliseconds"] == 300


@pytest.mark.parametrize("mode", ["Static", "Advisory"])
def test_a_fixed_split_leaves_the_agents_no_room(mode: str) -> None:
    settings = config(partition={"mode": mode, "initial": {"prefillPercent": 60, "decodePercent": 100}})
    wish = wish_of(initial_state(settings), settings)
    assert wish.target == at(60)
    assert wish.band == Band.only(at(60))


def test_bounds_that_shrink_move_the_target_to_the_nearest_split_inside() -> None:
    settings = config()
    state = fit_state(initial_state(settings), settings, now_s=5.0)
    assert state == initial_state(settings)
    narrow = config(partition={"bounds": {"prefillMinPercent": 20, "prefillMaxPercent": 60}})
    moved = fit_state(state, narrow, now_s=5.0)
    assert moved.target == at(60)
    assert moved.reason == "BoundsChanged"
    assert narrow.bounds.encloses(moved.band)


OTHER_SPEC = partition(split=(50, 100), band=(35, 65, 85, 100)).spec


def in_force(state: ClusterState) -> tuple[Partition, str, Band]:
    return state.target, state.reason, state.band


def test_a_pin_takes_the_place_of_every_mode_and_its_end_leaves_the_loop_where_it_is() -> None:
    for mode, expected in (
        ("Auto", (at(70, 60), "Unpinned")),
        ("Advisory", (at(70, 60), "Advisory")),
        ("Static", (at(80), "Static")),
    ):
        free = config(partition={"mode": mode})
        pinned = replace(free, pin=at(70, 60))
        state = fit_state(initial_state(free), pinned, now_s=5.0)
        assert in_force(state) == (at(70, 60), "Pinned", Band.only(at(70, 60)))
        assert state.decisions[0].decision.reason is Reason.PINNED
        assert wish_of(state, pinned).band == Band.only(at(70, 60))
        assert fit_state(state, pinned, now_s=6.0) == state
        after = fit_state(state, free, now_s=7.0)
        assert in_force(after)[:2] == expected


def test_a_change_of_mode_goes_to_the_initial_split_and_the_loop_goes_on_from_there() -> None:
    auto, static = config(), config(partition={"mode": "Static"})
    moved = replace(
        initial_state(auto), target=at(60), band=band_around(at(60), auto), decision_id="cluster-9"
    )
    fixed = fit_state(moved, static, now_s=5.0)
    assert (fixed.target, fixed.decision_id) == (at(80), "static-80-100")
    assert in_force(fit_state(fixed, auto, now_s=6.0))[:2] == (at(80), "ModeChanged")


@pytest.mark.parametrize(
    ("bounds", "target"),
    [
        pytest.param({}, at(60), id="as they are"),
        pytest.param({"prefillMinPercent": 70}, at(70), id="the nearest that new bounds allow"),
    ],
)
def test_advice_leaves_pods_at_what_they_are_asked_for(bounds: dict[str, int], target: Partition) -> None:
    auto = config()
    state = replace(
        initial_state(auto), target=at(60), band=band_around(at(60), auto), decision_id="cluster-9"
    )
    advisory = config(partition={"mode": "Advisory", "bounds": bounds})
    advised = fit_state(canary_of(state, auto), advisory, now_s=5.0)
    assert in_force(advised) == (target, "Advisory", Band.only(target))
    assert advised.canary is None, "nothing is tried"
    assert fit_state(advised, advisory, now_s=6.0) == advised
    assert in_force(fit_state(advised, auto, now_s=7.0))[:2] == (target, "ModeChanged")


def canary_of(state: ClusterState, settings: ClusterConfig, **changes: object) -> ClusterState:
    """(60, 100) on trial in chat-1."""
    wish = replace(state.wish, target=at(60), band=band_around(at(60), settings), decision_id="cluster-8")
    trial = Canary(wish=wish, pods=("chat-1",), stage=CanaryStage.ONE_POD, stage_s=3.0)
    return replace(state, canary=replace(trial, **changes))


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        pytest.param({}, True, id="nothing changes"),
        pytest.param(
            {"partition": {"bounds": {"prefillMinPercent": 30}}}, True, id="the bounds still hold it"
        ),
        pytest.param(
            {"partition": {"bounds": {"prefillMinPercent": 50}}}, False, id="the bounds cut its band"
        ),
        pytest.param({"partition": {"mode": "Static"}}, False, id="another mode"),
        pytest.param({"model": {"uri": "builtin://other"}}, False, id="another model"),
    ],
)
def test_a_canary_lives_as_long_as_what_it_was_begun_under(changes: dict[str, Any], stays: bool) -> None:
    before = config()
    now = config(**changes) if "model" not in changes else replace(before, subject="another model")
    state = fit_state(canary_of(initial_state(before), before), now, 5.0, before)
    assert (state.canary is not None) is stays
    assert state.target == at(80)


def test_a_canary_that_was_paused_begins_its_stage_anew() -> None:
    settings = config()
    state = canary_of(initial_state(settings), settings, granted_s=4.0)
    after = fit_state(state, settings, 500.0, replace(settings, paused=True))
    assert after.canary is not None
    assert (after.canary.stage_s, after.canary.granted_s) == (500.0, None)


def test_canaries_are_asked_for_the_split_on_trial_and_all_others_for_the_usual_one() -> None:
    found = observed(pods=(pod(), pod("chat-2")))
    settings = config()
    state = canary_of(initial_state(settings), settings)
    plan = build_plan(
        found,
        admit(found, [], INSTALLATION, 0),
        INSTALLATION,
        wish=wish_of(state, settings),
        loop=None,
        now=NOW,
        canaries={"chat-1": state.wish_of("chat-1")},
    )
    targets = {each["metadata"]["name"]: each["spec"]["target"]["prefillPercent"] for each in plan.partitions}
    assert targets == {"chat-1": 60, "chat-2": 80}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(partition(), "cluster-1", id="granted"),
        pytest.param(partition(granted=(75, 100)), None, id="not what was asked for"),
        pytest.param(partition(granted=None), None, id="not read back yet"),
        pytest.param(partition(switching=True), None, id="switching"),
        pytest.param(partition(observed_decision_id=None), None, id="its agent is silent"),
        pytest.param(partition(observed_decision_id="cluster-0"), "cluster-0", id="of the decision before"),
        pytest.param(
            replace(partition(), spec=OTHER_SPEC),
            None,
            id="taken back: outside the band that was asked for",
        ),
        pytest.param(None, None, id="no partition"),
    ],
)
def test_what_a_pod_was_granted_is_by_the_word_of_its_agent(
    found: SemiPDPartition | None, expected: str | None
) -> None:
    assert applied_id(found) == expected


def plan_of(found: Observed) -> tuple[int, int, int | None]:
    admission = admit(found, [], INSTALLATION, 0)
    settings = config()
    wish = wish_of(initial_state(settings), settings)
    plan = build_plan(found, admission, INSTALLATION, wish=wish, loop=None, now=NOW)
    return len(plan.children), len(plan.partitions), plan.seeded_replicas


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(observed(), (7, 1, None), id="as usual"),
        pytest.param(observed(service=service()), (7, 1, 1), id="replicas are not set"),
        pytest.param(
            observed(service=service(), workload=workload(8)), (7, 1, 8), id="replicas are not set any more"
        ),
        pytest.param(observed(service=service(placement="EveryNode")), (6, 1, None), id="the nodes decide"),
        pytest.param(
            observed(service=service(replicas=1, annotations={"semipd.io/paused": "true"})),
            (0, 0, None),
            id="paused: nothing is touched",
        ),
        pytest.param(
            observed(service=service(annotations={"semipd.io/paused": "true"})),
            (0, 0, None),
            id="paused: replicas are not seeded either",
        ),
        pytest.param(
            observed(service=service(replicas=1, classRef={"name": "gone"})),
            (0, 1, None),
            id="refused by its class: runs on as it was",
        ),
    ],
)
def test_what_a_plan_holds(found: Observed, expected: tuple[int, int, int | None]) -> None:
    assert plan_of(found) == expected


def test_a_pod_that_is_born_while_the_class_refuses_follows_the_others() -> None:
    """Also under an operator that has just won the lead, which has no loop of the service."""
    told = {"slo": {"ttft": {"percentile": 95, "targetMilliseconds": 900}}, "policy": "SLOFeedback"}
    older = codec.encode(
        partition("chat-1", split=(60, 100), band=(45, 75, 85, 100), decision_id="cluster-7")
    )
    older["spec"].update(told)
    found = observed(
        service=service(replicas=2, classRef={"name": "gone"}),
        pods=(pod("chat-1"), pod("chat-2")),
        partitions={"chat-1": codec.decode_partition(older)},
    )
    admission = admit(found, [], INSTALLATION, 0)
    plan = build_plan(found, admission, INSTALLATION, wish=None, loop=None, now=NOW)
    old, new = plan.partitions
    assert is_asked(found.partitions["chat-1"].spec, old["spec"])
    assert new["metadata"]["name"] == "chat-2"
    assert new["spec"] == old["spec"]
    assert new["spec"]["slo"]["ttft"]["targetMilliseconds"] == 900
    assert new["spec"]["policy"] == "SLOFeedback"


def test_a_split_on_trial_is_taken_back_while_the_class_refuses_and_no_loop_judges_it() -> None:
    trial = {
        "partition": {"prefillPercent": 50, "decodePercent": 100},
        "decisionID": "cluster-9",
        "stage": "OnePod",
        "since": NOW,
        "pods": ["chat-1"],
    }
    refused = codec.encode(service(replicas=3, classRef={"name": "gone"}))
    found = observed(
        service=codec.decode_service({**refused, "status": {"canary": trial}}),
        pods=tuple(map(pod, ("chat-1", "chat-2", "chat-3"))),
        partitions={
            "chat-1": partition("chat-1", split=(50, 100), band=(35, 65, 85, 100), decision_id="cluster-9"),
            "chat-2": partition("chat-2", decision_id="cluster-1"),
        },
    )
    plan = build_plan(found, admit(found, [], INSTALLATION, 0), INSTALLATION, wish=None, loop=None, now=NOW)
    assert [each["spec"]["decisionID"] for each in plan.partitions] == ["cluster-1", "cluster-1", "cluster-1"]
    assert plan.status.canary is None
