"""An operator that dies at any point, also between two writes, is taken over from: nobody is asked for anything new by that."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fleet_objects import NOW, observed, partition, service, workload
from fleet_plant import ROUND_S, FleetPlant
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import ServiceStatus
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig
from semipd_core.partition import Band, Isolation, Partition, Wish
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.telemetry import SloTargets
from semipd_operator.plan.resume import resume_state
from semipd_operator.plan.status import Loop, build_status

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
START = Partition(prefill_percent=80, decode_percent=100)
WANTED = Partition(prefill_percent=50, decode_percent=100)
DEADLINE_S = 120.0
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
    canary_deadline_s=DEADLINE_S,
)


class Wants:
    def decide(self, inputs: PolicyInputs) -> Decision:
        wanted = WANTED if WANTED in inputs.splits and inputs.window.judged else inputs.current
        return Decision(partition=wanted, reason=Reason.TPOT_MISSED, message="90 of 60 ms")


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLICIES", {**cluster.POLICIES, "Wants": Wants()})


def as_object(name: str, wish: Wish) -> SemiPDPartition:
    band = wish.band
    return partition(
        name,
        split=(wish.target.prefill_percent, wish.target.decode_percent),
        band=(
            band.prefill_min_percent,
            band.prefill_max_percent,
            band.decode_min_percent,
            band.decode_max_percent,
        ),
        decision_id=wish.decision_id,
    )


def written(plant: FleetPlant, last: ServiceStatus | None) -> ServiceStatus:
    found = observed(service=replace(service(), status=last), workload=workload(len(plant.pods)))
    return build_status(found, Loop(state=plant.state, round=plant.rounds[-1], slo=SLO), None, NOW)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), pods=st.integers(1, 8), is_good=st.booleans())
def test_a_restart_at_any_point_changes_nothing_that_was_decided(
    data: st.DataObject, pods: int, is_good: bool
) -> None:
    plant = FleetPlant(
        config=CONFIG,
        state=cluster.initial_state(CONFIG),
        attains=lambda split, _: 970 if is_good or split == START else 200,
    )
    for number in range(pods):
        plant.add(f"chat-{number}")
    deaths = data.draw(st.sets(st.integers(0, 30), max_size=6), label="rounds after which the operator dies")
    status: ServiceStatus | None = None
    for number in range(2 * math.ceil(DEADLINE_S / ROUND_S) + 20):
        plant.decide()
        status = written(plant, status)
        if number not in deaths:
            plant.ask(plant.pods)
            continue
        asked = data.draw(st.sets(st.sampled_from(sorted(plant.pods))), label="pods that were asked yet")
        plant.ask(asked)
        before = {name: plant.state.wish_of(name).target for name in plant.pods}
        partitions = [as_object(name, pod.wish) for name, pod in plant.pods.items()]
        plant.state = resume_state(CONFIG, partitions, status, plant.now_s)
        assert {name: plant.state.wish_of(name).target for name in plant.pods} == before
        plant.ask(plant.pods)
        if not is_good:
            assert len(plant.running(WANTED)) <= 1
    expected = WANTED if is_good else START
    assert plant.state.canary is None
    assert {pod.wish.target for pod in plant.pods.values()} == {expected}
    assert len(plant.state.moves_s) == 1, "one move, however many operators saw it through"
