"""Each policy, in the cluster loop, against a small queueing plant whose traffic flips from prefill-heavy to decode-heavy."""

from __future__ import annotations

import random

import pytest
from queueing_plant import BOUNDS, SLO, Plant, decode_heavy, prefill_heavy

from semipd_core.cluster import loop as cluster
from semipd_core.partition import Isolation, Partition
from semipd_core.policies import POLICIES
from semipd_core.policies.decision import Decision, Reason
from semipd_core.policies.splits import legal_splits, nearest_split

FLIP_S, END_S = 60.0, 180.0
SEEDS = (1, 2, 3)


def run(phases, start: Partition, *, mode: str = "Auto", policy: str = "ModelPredictive", seed: int = 3):
    """The plant after the run, and the rounds of the cluster loop, every 5 s."""
    config = cluster.ClusterConfig(
        mode=mode,
        policy=policy,
        isolation=Isolation.MPS,
        initial=start,
        bounds=BOUNDS,
        slo=SLO,
        cooldown_s=15,
    )
    state, rounds = cluster.initial_state(config), []
    plant, rng = Plant(start), random.Random(seed)
    started_s = plant.now_s
    next_s, round_s = started_s + phases[0](rng)[0], started_s + 5
    while (at_s := plant.now_s - started_s) < END_S:
        if plant.now_s >= next_s:
            gap_s, prompt, output = phases[0 if at_s < FLIP_S else 1](rng)
            plant.submit(prompt, output)
            next_s += gap_s
        if plant.now_s >= round_s:
            round_s += 5
            state, result = cluster.step(state, config, {plant.engine_id: plant.report()}, plant.now_s)
            rounds.append((at_s, result))
            for wish in result.wishes.values():
                plant.ask(wish.target)
        plant.tick()
    return plant, rounds


def recovers(phases, start: Partition, policy: str, *, mode: str = "Auto") -> bool:
    """Whether the last half minute attains the SLO, at least as often as the one after the flip; over SEEDS runs."""
    plants = [run(phases, start, policy=policy, mode=mode, seed=seed)[0] for seed in SEEDS]
    flipped, last = (
        sum(plant.attainment(from_s, from_s + 30) for plant in plants) / len(plants)
        for from_s in (FLIP_S, END_S - 30)
    )
    return last >= 0.9 and last >= flipped


class Inverted:
    """Moves as far as the policy, the other way."""

    def __init__(self, policy) -> None:
        self._policy = policy

    def decide(self, inputs):
        decision = self._policy.decide(inputs)
        prefill, decode = inputs.current.prefill_percent, inputs.current.decode_percent
        mirrored = Partition(
            prefill_percent=min(100, max(1, 2 * prefill - decision.partition.prefill_percent)),
            decode_percent=min(100, max(1, 2 * decode - decision.partition.decode_percent)),
        )
        return Decision(
            partition=nearest_split(legal_splits(Isolation.MPS, BOUNDS), mirrored),
            reason=decision.reason,
            message=decision.message,
        )


TO_DECODE = pytest.param(
    (prefill_heavy, decode_heavy),
    Partition(prefill_percent=100, decode_percent=40),
    id="traffic turns decode-heavy while the decode cap is low",
)
TO_PREFILL = pytest.param(
    (decode_heavy, prefill_heavy),
    Partition(prefill_percent=25, decode_percent=100),
    id="traffic turns prefill-heavy while the prefill cap is low",
)


@pytest.mark.parametrize(("phases", "start"), [TO_DECODE, TO_PREFILL])
@pytest.mark.parametrize("policy", ["SLOFeedback", "ModelPredictive"])
def test_attainment_recovers_after_the_traffic_flips(phases, start, policy):
    assert recovers(phases, start, policy)


@pytest.mark.parametrize(("phases", "start"), [TO_DECODE, TO_PREFILL])
def test_a_split_that_stays_does_not_recover(phases, start):
    assert not recovers(phases, start, "Static", mode="Static")


@pytest.mark.parametrize(("phases", "start"), [TO_DECODE, TO_PREFILL])
@pytest.mark.parametrize("policy", ["SLOFeedback", "ModelPredictive"])
def test_an_inverted_policy_does_not_recover(monkeypatch, phases, start, policy):
    monkeypatch.setattr(cluster, "POLICIES", {**POLICIES, policy: Inverted(POLICIES[policy])})
    assert not recovers(phases, start, policy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_move_with_numbers_comes_within_fifteen_seconds_of_the_first_missed_tpot_after_the_flip(seed):
    start = Partition(prefill_percent=100, decode_percent=40)
    phases = (prefill_heavy, decode_heavy)
    unmoved, _ = run(phases, start, mode="Static", seed=seed)
    missed_s = min(at_s for at_s, attained in unmoved.verdicts if not attained and at_s > 1_000_000 + FLIP_S)
    _, rounds = run(phases, start, seed=seed)
    moves = [(at_s, result.decision) for at_s, result in rounds if result.changed and at_s > FLIP_S]
    at_s, decision = moves[0]
    assert at_s <= missed_s - 1_000_000 + 15
    assert decision.reason in (Reason.TPOT_MISSED, Reason.TPOT_PREDICTED_MISS)
    assert "of 250 ms" in decision.message


def test_advice_is_given_and_nothing_moves_in_advisory_mode():
    start = Partition(prefill_percent=100, decode_percent=40)
    plant, rounds = run((prefill_heavy, decode_heavy), start, mode="Advisory", seed=1)
    assert plant.split == start
    assert any(result.advice.partition != start for _, result in rounds)
    assert all(not result.wishes and result.decision.reason is Reason.ADVISORY for _, result in rounds)
