"""The canary of a split: one pod, then a share, then all; what takes it back; and what no run ever shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from fleet_plant import ROUND_S, FleetPlant
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_core.api.service import CanaryStage
from semipd_core.cluster import loop
from semipd_core.cluster.canary import Refusal
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import HOUR_S, ClusterConfig
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.telemetry import SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
BOUNDS = Band(prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100)
WELL, BADLY = 970, 200  # permille
DEADLINE_S = 200.0


def at(prefill: int, decode: int = 100) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


START, GOOD, BAD = at(80), at(50), at(30)


def config(**changes: object) -> ClusterConfig:
    base = ClusterConfig(
        mode="Auto",
        policy="Says",
        isolation=Isolation.MPS,
        initial=START,
        bounds=BOUNDS,
        slo=SLO,
        cooldown_s=0,
        canary_percent=25,
        canary_deadline_s=DEADLINE_S,
    )
    return replace(base, **changes)


class Says:
    """A policy that wants what it is told to want, if there is anything to go by; None: what runs."""

    def __init__(self) -> None:
        self.wanted: Partition | None = None

    def decide(self, inputs: PolicyInputs) -> Decision:
        is_known = inputs.window.engines > 0 and inputs.window.judged > 0
        wanted = self.wanted if is_known and self.wanted in inputs.splits else None
        return Decision(
            partition=wanted or inputs.current, reason=Reason.TPOT_MISSED, message="240 of 250 ms"
        )


@pytest.fixture(autouse=True)
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    policy = Says()
    monkeypatch.setattr(loop, "POLICIES", {**loop.POLICIES, "Says": policy})
    return policy


def by_split(split: Partition, _: float) -> int:
    return BADLY if split.prefill_percent <= BAD.prefill_percent else WELL


def plant(
    pods: int, attains: Callable[[Partition, float], int] = by_split, requests: int = 4, **changes: object
) -> FleetPlant:
    settled = config(**changes)
    fleet = FleetPlant(config=settled, state=initial_state(settled), attains=attains, requests=requests)
    for number in range(pods):
        fleet.add(f"chat-{number}")
    return fleet


def stages(fleet: FleetPlant, rounds: int) -> list[int]:
    """How many pods are asked for something else than at the start, each time that it changes."""
    seen = [0]
    for _ in range(rounds):
        fleet.look()
        count = sum(pod.wish.target != START for pod in fleet.pods.values())
        if count != seen[-1]:
            seen.append(count)
    return seen


def reasons(fleet: FleetPlant) -> list[Reason]:
    return [timed.decision.reason for timed in reversed(fleet.state.decisions)]


@pytest.mark.parametrize(
    ("pods", "percent", "expected"),
    [
        pytest.param(8, 25, [0, 1, 2, 8], id="one, a quarter, all"),
        pytest.param(9, 25, [0, 1, 3, 9], id="a quarter is rounded up"),
        pytest.param(4, 25, [0, 1, 4], id="a quarter is the one that has it already"),
        pytest.param(8, 100, [0, 1, 8], id="all are no stage of their own"),
        pytest.param(2, 25, [0, 1, 2], id="two pods"),
        pytest.param(1, 25, [0, 1], id="one pod is all of them"),
    ],
)
def test_a_good_split_goes_to_one_pod_then_to_a_share_then_to_all(
    says: Says, pods: int, percent: int, expected: list[int]
) -> None:
    fleet = plant(pods, canary_percent=percent)
    says.wanted = GOOD
    assert stages(fleet, 60) == expected
    assert fleet.state.target == GOOD
    assert fleet.state.canary is None
    assert Reason.CANARY_PASSED in reasons(fleet)
    assert fleet.state.proven is not None
    assert fleet.state.proven.holds(GOOD)


@pytest.mark.parametrize("pods", [1, 2, 8])
def test_a_bad_split_is_taken_back_from_its_first_pod_with_both_numbers(says: Says, pods: int) -> None:
    fleet = plant(pods)
    fleet.look()
    says.wanted = BAD
    assert stages(fleet, 60) == [0, 1, 0]
    failed = next(timed for timed in fleet.state.decisions if timed.decision.reason is Reason.CANARY_FAILED)
    assert failed.decision.partition == START
    assert "(30, 100) is taken back to (80, 100): chat-0: " in failed.decision.message
    assert ("before " if pods == 1 else "the others ") in failed.decision.message
    assert failed.decision.message.count(" % of ") == 2


def test_what_failed_is_not_asked_for_again_for_a_while_nor_what_is_farther_that_way(says: Says) -> None:
    fleet = plant(4, refused_for_s=120.0)
    fleet.look()
    says.wanted = BAD
    stages(fleet, 20)
    [refusal] = fleet.state.refusals
    says.wanted = at(20)
    while fleet.now_s < refusal.at_s + 116:
        assert fleet.look().decision.partition == START
    assert stages(fleet, 3) == [0, 1]


@pytest.mark.parametrize(
    ("split", "held"),
    [
        (at(60), True),
        (at(55), True),
        (at(65), False),
        (at(100), False),
        (at(60, 60), True),
        (at(85, 60), False),
    ],
)
def test_a_refusal_holds_back_what_lies_as_far_the_same_way(split: Partition, held: bool) -> None:
    refusal = Refusal(split=at(60), base=START, decision_id="cluster-1", at_s=0.0, until_s=10.0)
    assert refusal.holds_back(split, 5.0) is held
    assert not refusal.holds_back(split, 10.0)


def test_traffic_that_hits_all_pods_alike_takes_nothing_back(says: Says) -> None:
    fleet = plant(8, attains=lambda _, now_s: BADLY if now_s > 1_000_020 else WELL)
    fleet.look()
    says.wanted = GOOD
    assert stages(fleet, 60) == [0, 1, 2, 8]


def test_a_move_inside_what_is_proven_goes_to_all_pods_at_once(says: Says) -> None:
    fleet = plant(8)
    says.wanted = GOOD
    stages(fleet, 60)
    says.wanted = at(65)
    fleet.look()
    assert fleet.state.canary is None
    assert len(fleet.running(at(65))) == 8


def test_a_canary_is_one_move_of_the_hour(says: Says) -> None:
    fleet = plant(8, moves_per_hour=1)
    says.wanted = GOOD
    stages(fleet, 60)
    says.wanted = at(100)
    assert fleet.look().decision.reason is Reason.MOVES_SPENT


def test_a_split_that_is_never_granted_is_taken_back_at_the_deadline(says: Says) -> None:
    fleet = plant(4)
    says.wanted = GOOD
    fleet.look()
    fleet.grants = False
    rounds = math.ceil(DEADLINE_S / ROUND_S)
    assert stages(fleet, rounds - 1) == [0, 1]
    assert stages(fleet, 1) == [0]
    assert fleet.rounds[-1].decision.reason is Reason.CANARY_EXPIRED
    assert "was not granted within 200 s" in fleet.rounds[-1].decision.message


def test_without_requests_it_waits_and_is_taken_back_at_the_deadline(says: Says) -> None:
    fleet = plant(4)
    fleet.look()
    says.wanted = GOOD
    fleet.look()
    fleet.requests = 0
    assert stages(fleet, math.ceil(DEADLINE_S / ROUND_S) - 1) == [0, 1]
    assert stages(fleet, 1) == [0]
    assert fleet.rounds[-1].decision.reason is Reason.CANARY_EXPIRED


def test_few_requests_without_harm_let_it_pass_at_the_deadline(says: Says) -> None:
    fleet = plant(4, canary_requests=10_000)
    says.wanted = GOOD
    assert stages(fleet, 2 * math.ceil(DEADLINE_S / ROUND_S)) == [0, 1, 4]


def test_a_canary_that_falls_silent_in_a_larger_stage_is_not_waited_for(says: Says) -> None:
    fleet = plant(12)
    says.wanted = GOOD
    while len(fleet.running(GOOD)) < 3:
        fleet.look()
    fleet.pods["chat-1"].is_silent = True
    assert stages(fleet, 20)[-1] == 12


def test_harm_that_only_many_requests_can_show_takes_nothing_back(says: Says) -> None:
    hardly_worse = {START: 880, GOOD: 870}
    fleet = plant(8, attains=lambda split, _: hardly_worse[split], requests=1000)
    fleet.look()
    says.wanted = GOOD
    assert stages(fleet, 60) == [0, 1, 2, 8]


def test_a_new_pod_is_asked_for_what_the_majority_runs(says: Says) -> None:
    fleet = plant(4)
    says.wanted = GOOD
    fleet.look()
    fleet.add("chat-00")
    fleet.look()
    assert fleet.running(GOOD) == ["chat-0"]
    assert fleet.pods["chat-00"].wish.target == START


def test_a_canary_that_dies_hands_over_to_the_next_pod(says: Says) -> None:
    fleet = plant(4)
    says.wanted = GOOD
    fleet.look()
    del fleet.pods["chat-0"]
    fleet.look()
    assert fleet.running(GOOD) == ["chat-1"]
    assert stages(fleet, 60)[-1] == 3


def test_a_service_scaled_to_its_canary_judges_it_by_what_was_before(says: Says) -> None:
    fleet = plant(4)
    fleet.look()
    says.wanted = BAD
    fleet.look()
    fleet.pods = {"chat-0": fleet.pods["chat-0"]}
    assert stages(fleet, 30)[-1] == 0
    assert Reason.CANARY_FAILED in reasons(fleet)


def test_a_pause_freezes_the_canary(says: Says) -> None:
    fleet = plant(4)
    says.wanted = GOOD
    fleet.look()
    fleet.config = replace(fleet.config, paused=True)
    assert stages(fleet, 30) == [0, 1]
    assert fleet.rounds[-1].decision.reason is Reason.PAUSED
    fleet.config = replace(fleet.config, paused=False)
    assert stages(fleet, 60)[-1] == 4


def test_advice_is_recorded_with_the_split_that_it_names_and_again_when_it_changes(says: Says) -> None:
    fleet = plant(2, mode="Advisory")
    fleet.look()
    says.wanted = GOOD
    fleet.look()
    newest = fleet.state.decisions[0].decision
    assert (newest.reason, newest.partition, fleet.state.target) == (Reason.ADVISORY, GOOD, START)
    assert "240 of 250 ms" in newest.message
    assert stages(fleet, 10) == [0]


# --- what holds in every run --------------------------------------------------------------------------------

WANTS = st.lists(st.sampled_from([None, START, GOOD, BAD, at(100), at(55, 60)]), min_size=1, max_size=6)
HAPPENINGS = st.lists(
    st.sampled_from(["nothing", "silent", "speaks", "dies", "appears", "quiet", "busy", "pause", "go on"]),
    max_size=12,
)


def happen(fleet: FleetPlant, what: str, number: int) -> None:
    names = sorted(fleet.pods)
    match what:
        case "silent" if names:
            fleet.pods[names[0]].is_silent = True
        case "dies" if len(names) > 1:
            del fleet.pods[names[0]]
        case "appears":
            fleet.add(f"new-{number}")
        case "speaks":
            for pod in fleet.pods.values():
                pod.is_silent = False
        case "quiet" | "busy":
            fleet.requests = 4 if what == "busy" else 0
        case "pause" | "go on":
            fleet.config = replace(fleet.config, paused=what == "pause")


def check_stage(fleet: FleetPlant) -> None:
    canary = fleet.state.canary
    others = [pod for name, pod in fleet.pods.items() if canary is None or name not in canary.pods]
    assert {pod.wish.decision_id for pod in others} <= {fleet.state.decision_id}
    if canary is not None:
        share = math.ceil(len(fleet.pods) * 25 / 100)
        assert len(canary.pods) <= (1 if canary.stage is CanaryStage.ONE_POD else max(1, share))


@settings(max_examples=20, deadline=None)
@given(pods=st.integers(1, 9), wants=WANTS, happenings=HAPPENINGS)
def test_every_run_ends_with_all_pods_on_one_split_and_no_stage_is_ever_exceeded(
    pods: int, wants: Sequence[Partition | None], happenings: Sequence[str]
) -> None:
    policy = loop.POLICIES["Says"]
    assert isinstance(policy, Says)
    policy.wanted = None
    fleet = plant(pods)
    for number in range(10 * max(len(wants), len(happenings))):
        if number % 10 == 0:
            policy.wanted = wants[number // 10 % len(wants)]
            if number // 10 < len(happenings):
                happen(fleet, happenings[number // 10], number)
        fleet.look()
        check_stage(fleet)
    policy.wanted = None
    happen(fleet, "go on", 0)
    for _ in range(2 * math.ceil(DEADLINE_S / ROUND_S) + 2):
        fleet.look()
        check_stage(fleet)
    assert fleet.state.canary is None
    assert len({pod.wish.target for pod in fleet.pods.values()}) == 1


@settings(max_examples=20, deadline=None)
@given(pods=st.integers(1, 12), requests=st.integers(1, 20))
def test_a_bad_split_never_gets_beyond_the_first_stage(pods: int, requests: int) -> None:
    policy = loop.POLICIES["Says"]
    assert isinstance(policy, Says)
    policy.wanted = None
    fleet = plant(pods, requests=requests)
    for _ in range(5):
        fleet.look()
    policy.wanted = BAD
    for _ in range(2 * math.ceil(DEADLINE_S / ROUND_S)):
        fleet.look()
        assert len(fleet.running(BAD)) <= 1
    assert fleet.state.target == START


@settings(max_examples=8, deadline=None)
@given(pods=st.integers(1, 5), per_hour=st.integers(1, 4), wants=WANTS)
def test_moves_per_hour_hold_whatever_the_policy_wants(
    pods: int, per_hour: int, wants: Sequence[Partition | None]
) -> None:
    policy = loop.POLICIES["Says"]
    assert isinstance(policy, Says)
    fleet = plant(pods, moves_per_hour=per_hour, refused_for_s=40.0)
    started: list[float] = []
    for number in range(500):
        policy.wanted = wants[number // 25 % len(wants)]
        round_ = fleet.look()
        if round_.changed and round_.decision.reason is Reason.TPOT_MISSED:
            started.append(fleet.now_s)
            assert len([at_s for at_s in started if fleet.now_s - at_s < HOUR_S]) <= per_hour


@settings(max_examples=10, deadline=None)
@given(pods=st.integers(0, 5), wanted=st.sampled_from([GOOD, BAD, at(100)]))
def test_no_data_never_moves(pods: int, wanted: Partition) -> None:
    policy = loop.POLICIES["Says"]
    assert isinstance(policy, Says)
    policy.wanted = wanted
    fleet = plant(pods)
    for pod in fleet.pods.values():
        pod.is_silent = True
    for _ in range(60):
        assert not fleet.look().changed
    assert fleet.state.target == START
