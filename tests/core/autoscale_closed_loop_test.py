"""Replicas and the split together, against replicas of the queueing plant: who answers what, and how fast."""

from __future__ import annotations

import itertools
import random

from scaled_fleet import ScaledFleet

from semipd_core.cluster.autoscale import DOWN_PERIOD_S, UP_PERIOD_S
from semipd_core.partition import Partition

GOOD, BAD = (
    Partition(prefill_percent=80, decode_percent=100),
    Partition(prefill_percent=100, decode_percent=40),
)


def decode_heavy(rate_per_s):
    """`rate_per_s` of the seconds since the start; one pod serves about one request a second within its SLO."""

    def traffic(at_s: float, rng: random.Random) -> tuple[float, int, int]:
        return rng.expovariate(rate_per_s(at_s)), rng.randint(30, 80), rng.randint(40, 80)

    return traffic


def test_what_a_split_can_answer_costs_few_replicas_and_what_it_may_not_costs_many():
    """A bad split and a load that one pod can carry: where the split may move, it does; where it may not, pods must do."""
    load = decode_heavy(lambda _: 0.8)
    moves, fixed = ScaledFleet(split=BAD), ScaledFleet(split=BAD, mode="Static")
    for fleet in (moves, fixed):
        fleet.run(400, load)
    assert moves.state.target != BAD
    assert max(replicas for _, replicas in moves.moves) <= 2
    assert max(replicas for _, replicas in fixed.moves) >= 6
    assert moves.attainment(200, 400) >= 0.95


def test_a_load_that_rises_fourfold_is_served_again_within_minutes_and_given_back():
    fleet = ScaledFleet(split=GOOD)
    fleet.run(1500, decode_heavy(lambda at_s: 4.0 if 200 <= at_s < 800 else 0.5))
    before = [replicas for at_s, replicas in fleet.moves if at_s < 200]
    assert before == [], "half of what a pod can carry is no reason"
    assert fleet.attainment(500, 800) >= 0.95
    peak = max(replicas for _, replicas in fleet.moves)
    assert peak >= 4
    assert fleet.moves[-1][1] <= peak - 3
    assert fleet.attainment(800, 1500) >= 0.95, "nobody misses when pods go"
    gaps = [
        (later[0] - earlier[0], UP_PERIOD_S if later[1] > earlier[1] else DOWN_PERIOD_S)
        for earlier, later in itertools.pairwise(fleet.moves)
    ]
    assert all(gap_s >= period_s for gap_s, period_s in gaps)
