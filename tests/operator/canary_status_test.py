"""What people see of a canary, a pin and a pause: status, conditions, Events and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from fleet_objects import NOW, observed, service, workload
from fleet_plant import FleetPlant
from prometheus_client import CollectorRegistry, generate_latest

from semipd_core.api.conditions import find_condition
from semipd_core.api.service import CanaryStage, ServiceStatus
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig, ClusterRound, ClusterState
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.telemetry import SloTargets
from semipd_operator.loop_metrics import Tally, add_loop_metrics
from semipd_operator.plan.status import Loop, build_status
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout
from semipd_operator.plan.transitions import Transition, find_transitions
from semipd_shell.informer import Key

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
START = Partition(prefill_percent=80, decode_percent=100)
WANTED = Partition(prefill_percent=50, decode_percent=100)
CONFIG = ClusterConfig(
    mode="Auto",
    policy="Wants",
    isolation=Isolation.MPS,
    initial=START,
    bounds=Band(
        prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
    ),
    slo=SLO,
    cooldown_s=0,
    canary_percent=25,
)


class Wants:
    def decide(self, inputs: PolicyInputs) -> Decision:
        wanted = WANTED if WANTED in inputs.splits else inputs.current
        return Decision(partition=wanted, reason=Reason.TPOT_MISSED, message="90 of 60 ms")


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLICIES", {**cluster.POLICIES, "Wants": Wants()})


def statuses(*, well: bool, rounds: int = 30) -> tuple[list[ServiceStatus], FleetPlant]:
    """Of eight pods, after each round of a move that goes well, or does not."""
    plant = FleetPlant(
        config=CONFIG,
        state=cluster.initial_state(CONFIG),
        attains=lambda split, _: 970 if well or split == START else 200,
    )
    for number in range(8):
        plant.add(f"chat-{number}")
    found = observed(workload=workload(8))
    seen: list[ServiceStatus] = []
    for _ in range(rounds):
        round_ = plant.look()
        said = Loop(state=plant.state, round=round_, slo=SLO)
        seen.append(build_status(found, said, None, NOW))
        found = replace(found, service=replace(found.service, status=seen[-1]))
    return seen, plant


def told(seen: Sequence[ServiceStatus]) -> list[Transition]:
    pairs = pairwise(seen)
    return [each for old, new in pairs for each in find_transitions(old, new)]


def test_a_canary_is_in_the_status_from_its_first_pod_to_its_end() -> None:
    seen, _ = statuses(well=True)
    trials = [status.canary for status in seen if status.canary is not None]
    assert [(len(trial.pods), trial.stage) for trial in (trials[0], trials[-1])] == [
        (1, CanaryStage.ONE_POD),
        (2, CanaryStage.PERCENT),
    ]
    assert seen[0].requested is not None
    assert seen[0].requested.prefill_percent == 80, "the others keep what they have"
    last = seen[-1]
    assert (last.canary, last.requested) == (None, trials[0].partition)
    assert last.proven is not None
    assert last.proven.prefill_min_percent == 35
    [begun] = [each for each in last.decisions if each.reason == "TPOTMissed" and "first to" in each.message]
    assert begun.decision_id == trials[0].decision_id


def test_each_stage_is_one_event_and_a_roll_back_is_a_warning() -> None:
    well, _ = statuses(well=True)
    start = replace(well[0], canary=None)
    assert [each.reason for each in told([start, *well])][:3] == [
        "CanaryStarted",
        "CanaryWidened",
        "SplitMoved",
    ]
    badly, _ = statuses(well=False)
    events = told([start, *badly])
    assert [(each.reason, each.is_warning) for each in events] == [
        ("CanaryStarted", False),
        ("CanaryFailed", True),
    ]
    assert "(50, 100) is taken back to (80, 100): chat-0: " in events[-1].note


def test_a_canary_makes_the_service_progress_and_stay_ready() -> None:
    seen, _ = statuses(well=True)
    found = find_condition(seen[0].conditions, "Progressing")
    assert found is not None
    assert (found.status.value, found.reason) == ("True", "Canary")
    assert found.message == "(50, 100) is on trial in 1 of 8 pods"
    ready = find_condition(seen[0].conditions, "Ready")
    assert ready is not None
    assert ready.status.value == "True"


def test_rounds_in_which_a_canary_waits_write_nothing() -> None:
    seen, _ = statuses(well=True, rounds=4)
    first, *others = [replace(status, slo=None) for status in seen[1:]]
    assert others == [first, first]


def test_an_operator_that_has_not_looked_yet_keeps_what_the_last_one_said_of_a_canary() -> None:
    seen, _ = statuses(well=True, rounds=2)
    found = observed(service=replace(service(replicas=8), status=seen[-1]), workload=workload(8))
    kept = build_status(found, None, None, NOW)
    assert (kept.canary, kept.proven, kept.decisions) == (
        seen[-1].canary,
        seen[-1].proven,
        seen[-1].decisions,
    )


def test_a_pause_is_a_condition_that_blocks_nothing() -> None:
    paused = observed(service=service(replicas=1, annotations={"semipd.io/paused": "true"}))
    status = build_status(paused, None, None, NOW)
    conditions = {each.type: (each.status.value, each.reason) for each in status.conditions}
    assert conditions["Progressing"] == ("Unknown", "Paused")
    assert conditions["Ready"] == ("True", "AllReady")


def test_an_annotation_that_is_no_pin_is_a_condition_that_blocks_nothing() -> None:
    defect = InvalidSpec("metadata.annotations[semipd.io/pinned-split]", "7/60", "prefill 20..100")
    status = build_status(observed(), None, None, NOW, pin_defect=defect)
    found = find_condition(status.conditions, "Degraded")
    assert found is not None
    assert (found.status.value, found.reason) == ("True", "PinInvalid")
    assert "7/60" in found.message
    assert "prefill 20..100" in found.message
    ready = find_condition(status.conditions, "Ready")
    assert ready is not None
    assert ready.status.value == "True"


@dataclass
class Reading:
    state: ClusterState
    round: ClusterRound | None = None
    tally: Tally = field(default_factory=Tally)
    rollout: Rollout = NO_ROLLOUT


def test_metrics_count_moves_roll_backs_and_decisions_and_show_the_stage() -> None:
    state = cluster.initial_state(CONFIG)
    reading = Reading(state)
    registry = CollectorRegistry()
    add_loop_metrics(registry, {Key("team-a", "chat"): reading})
    lines: list[list[str]] = []
    plant = FleetPlant(config=CONFIG, state=state, attains=lambda split, _: 970 if split == START else 200)
    for number in range(4):
        plant.add(f"chat-{number}")
    for _ in range(10):
        before, round_ = plant.state, plant.look()
        reading.tally.note(before, plant.state, round_)
        reading.state, reading.round = plant.state, round_
        lines.append(generate_latest(registry).decode().splitlines())
    labels = 'name="chat",namespace="team-a"'
    assert f"semipd_service_canary_stage{{{labels}}} 1.0" in lines[0]
    assert f"semipd_service_canary_stage{{{labels}}} 0.0" in lines[-1]
    assert f"semipd_service_moves_total{{{labels}}} 1.0" in lines[-1]
    assert f"semipd_service_canary_roll_backs_total{{{labels}}} 1.0" in lines[-1]
    assert f'semipd_service_decisions_total{{{labels},reason="CanaryFailed"}} 1.0' in lines[-1]
