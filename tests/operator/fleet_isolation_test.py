"""Pods whose isolation `Auto` has come to something else than MPS: what the loop asks for, and what people are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, partition, pod, service, service_class, workload

from semipd_core.api.conditions import Condition, find_condition
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import CanaryStage, ServiceStatus
from semipd_core.cluster.canary import Canary
from semipd_core.cluster.state import ClusterConfig, ClusterState, band_around
from semipd_core.partition import Isolation, Partition
from semipd_operator.plan.isolation import fleet_partition, without_shares
from semipd_operator.plan.loop_settings import fit_state, loop_config, wish_of
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import build_partitions
from semipd_operator.plan.plan import Installation, admit
from semipd_operator.plan.pod import pod_template
from semipd_operator.plan.resume import resume_state
from semipd_operator.plan.status import build_status
from semipd_operator.plan.transitions import find_transitions
from semipd_operator.rounds import Rounds
from semipd_shell.informer import Key

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")
MPS, GREEN, NONE = (
    ("MPS", "ProbePassed"),
    ("GreenContext", "NoMpsBinary"),
    ("None", "MpsGivenUp"),
)


def fleet(
    *isolations: tuple[str, str] | None, annotations: dict[str, str] | None = None, **spec: Any
) -> Observed:
    """One pod for each; None: it has not said."""
    names = [f"chat-{number}" for number in range(1, len(isolations) + 1)]
    found: dict[str, SemiPDPartition] = {
        name: partition(name, isolation=isolation) for name, isolation in zip(names, isolations, strict=True)
    }
    return observed(
        service=service(replicas=len(names), annotations=annotations, **spec),
        workload=workload(len(names)),
        pods=tuple(map(pod, names)),
        partitions=found,
    )


def config(found: Observed) -> ClusterConfig:
    effective = admit(found, [], INSTALLATION, 0).effective
    assert effective is not None
    return loop_config(effective, 15.0, partition=fleet_partition(effective, found))


def at(prefill: int, decode: int = 100) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


@pytest.mark.parametrize(
    ("isolations", "isolation", "target"),
    [
        pytest.param((None, None), Isolation.MPS, at(80), id="nobody has said"),
        pytest.param((MPS, MPS), Isolation.MPS, at(80), id="MPS everywhere"),
        pytest.param((MPS, GREEN), Isolation.GREEN_CONTEXT, at(40, 60), id="mixed nodes"),
        pytest.param((MPS, NONE), Isolation.MPS, at(80), id="one without shares"),
        pytest.param((NONE, NONE), Isolation.NONE, at(100), id="nobody has shares"),
    ],
)
def test_what_is_asked_for_can_be_run_by_every_pod_that_has_shares(
    isolations: tuple[tuple[str, str] | None, ...], isolation: Isolation, target: Partition
) -> None:
    before = config(fleet(*(None for _ in isolations)))
    state = resume_state(before, fleet(*isolations).partitions.values(), now_s=1.0)
    found = config(fleet(*isolations))
    moved = fit_state(state, found, 5.0, before)
    assert found.isolation is isolation
    assert moved.target == target
    assert moved.band.holds(target), "the API server refuses a target outside its band"
    if target != at(80):
        assert (moved.reason, str(target) in moved.message) == ("IsolationChanged", True)
    assert fit_state(moved, found, 20.0, found) == moved, "it moves once"


def test_an_operator_that_starts_anew_goes_by_what_the_pods_say() -> None:
    found = fleet(MPS, GREEN)
    state = resume_state(config(found), found.partitions.values(), now_s=5.0)
    assert state.target in config(found).splits
    built = build_partitions(found, {}, wish_of(state, config(found)), None)
    assert {each["spec"]["target"]["prefillPercent"] for each in built} == {state.target.prefill_percent}


def test_bounds_do_not_matter_where_nobody_has_shares() -> None:
    found = config(fleet(NONE, partition={"bounds": {"prefillMaxPercent": 60, "decodeMaxPercent": 80}}))
    state = fit_state(resume_state(found, ()), found, 5.0)
    assert state.target == at(100)
    assert state.band.holds(at(100))


def test_a_pod_that_leaves_no_longer_counts() -> None:
    found = fleet(MPS, GREEN)
    left = replace(found, pods=(pod("chat-1"), pod("chat-2", is_leaving=True)))
    assert config(left).isolation is Isolation.MPS
    assert without_shares(fleet(MPS, NONE)) == {"chat-2"}


def test_a_canary_that_a_pod_cannot_run_is_taken_back() -> None:
    before, after = config(fleet(MPS, None)), config(fleet(MPS, GREEN))
    split = at(40, 60)
    state = replace(
        resume_state(before, ()), target=split, band=band_around(split, before), decision_id="cluster-1"
    )
    wish = replace(state.wish, target=at(60), band=band_around(at(60), before), decision_id="cluster-2")
    state = replace(state, canary=Canary(wish=wish, pods=("chat-1",), stage=CanaryStage.ONE_POD, stage_s=0.0))
    found: ClusterState = fit_state(state, after, 5.0, before)
    assert (found.target, found.canary) == (split, None)
    assert found.decisions[0].decision.reason == "IsolationChanged"


@pytest.mark.parametrize(
    ("given", "isolation", "is_taken", "allowed"),
    [
        pytest.param("70/60", MPS, True, "", id="under MPS"),
        pytest.param("60/40", GREEN, True, "", id="what green contexts can run"),
        pytest.param(
            "70/60", GREEN, False, "one of 20/80, 30/70, 40/60, 50/50, 60/40", id="what they cannot"
        ),
    ],
)
def test_a_pin_is_a_split_that_the_pods_can_run(
    given: str, isolation: tuple[str, str], is_taken: bool, allowed: str
) -> None:
    found = fleet(isolation, annotations={"semipd.io/pinned-split": given})
    pin = admit(found, [], INSTALLATION, 0).pin
    assert (pin.split is not None) is is_taken
    assert allowed in str(pin.defect or "")


# --- what people are told -------------------------------------------------------------------------------------------


def status_of(found: Observed) -> ServiceStatus:
    return build_status(found, None, None, NOW)


def told(status: ServiceStatus) -> Condition | None:
    return find_condition(status.conditions, "IsolationPreferred")


def test_the_condition_names_who_fell_back_to_what_and_why() -> None:
    assert told(status_of(fleet(None, None))) is None
    assert told(status_of(fleet(MPS, MPS))) is None
    found = told(status_of(fleet(MPS, GREEN, NONE)))
    assert found is not None
    assert (found.status.value, found.reason) == ("False", "FellBack")
    assert "2 of 3 pods" in found.message
    assert "chat-2: GreenContext (NoMpsBinary)" in found.message
    assert "chat-3: None (MpsGivenUp)" in found.message


def test_it_is_told_once_and_gone_when_all_have_what_they_should() -> None:
    well, fallen = status_of(fleet(MPS, MPS)), status_of(fleet(MPS, GREEN))
    [transition] = find_transitions(well, fallen)
    assert (transition.reason, transition.is_warning) == ("NotIsolationPreferred", True)
    assert list(find_transitions(fallen, fallen)) == []
    later = fleet(MPS, MPS)
    after = status_of(replace(later, service=replace(later.service, status=fallen)))
    assert told(after) is None


# --- what the class allows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "isolation", "told_to_pods"),
    [
        pytest.param(None, "Auto", None, id="all"),
        pytest.param(["MPS", "GreenContext", "None"], "Auto", None, id="all that Auto would choose"),
        pytest.param(["GreenContext", "MPS"], "Auto", "GreenContext,MPS", id="not without shares"),
        pytest.param(["GreenContext", "MPS"], "MPS", None, id="nothing is to choose"),
    ],
)
def test_pods_choose_among_what_the_class_allows(
    allowed: list[str] | None, isolation: str, told_to_pods: str | None
) -> None:
    limits = {} if allowed is None else {"allowedIsolations": allowed}
    found = observed(service=service(partition={"isolation": isolation}))
    effective = admit(found, [service_class(default=True, **limits)], INSTALLATION, 0).effective
    assert effective is not None
    [container] = pod_template(effective)["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables.get("SEMIPD_ISOLATIONS") == told_to_pods
    assert (
        json.loads(variables["SEMIPD_SERVICE"])["spec"].get("partition", {}).get("isolation", "Auto")
        == isolation
    )


def test_the_operators_loop_follows_what_the_pods_say_from_one_look_to_the_next() -> None:
    rounds = Rounds(None, 15.0, lambda _: [], lambda _: {}, lambda _: None, now_s=lambda: 5.0)  # type: ignore[arg-type]
    key = Key("team-a", "chat")
    seen = []
    for found in (fleet(None, None), fleet(MPS, GREEN), fleet(GREEN, NONE)):
        looped = rounds.follow(key, admit(found, [], INSTALLATION, 0), found)
        seen.append((looped.config.isolation, looped.wish.target, looped.without_shares))
    assert seen == [
        (Isolation.MPS, at(80), frozenset()),
        (Isolation.GREEN_CONTEXT, at(40, 60), frozenset()),
        (Isolation.GREEN_CONTEXT, at(40, 60), frozenset({"chat-2"})),
    ]
