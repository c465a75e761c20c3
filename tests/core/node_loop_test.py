"""The node loop obeys wishes, waits between its own moves, and holds on faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semipd_core.node import loop
from semipd_core.node.loop import NodeConfig, initial_state, step
from semipd_core.partition import Band, Isolation, Partition, Wish
from semipd_core.policies.decision import Decision, Reason
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
BAND = Band(prefill_min_percent=65, prefill_max_percent=95, decode_min_percent=85, decode_max_percent=100)


def at(prefill, decode=100):
    return Partition(prefill_percent=prefill, decode_percent=decode)


CONFIG = NodeConfig(mode="Auto", policy="ModelPredictive", isolation=Isolation.MPS, initial=at(80), slo=SLO)
WISH = Wish(target=at(80), band=BAND, decision_id="1", reason="TPOTMissed", message="240 of 250 ms")


def report(split=(80, 100), at_s=0.0, phase="Steady", granted=None):
    front = FrontEndReport(at_s=at_s, ready=True, slo=SLO, open_requests=1, queued_requests=0, slots=[])
    return EngineReport(
        engine_id="a", at_s=at_s, phase=phase, requested=split, granted=granted or split, front_end=front,
        coordinator=None,
    )  # fmt: skip


@pytest.fixture
def say(monkeypatch):
    class Says:
        def __init__(self, wanted) -> None:
            self.wanted = wanted

        def decide(self, inputs):
            assert all(BAND.holds(split) for split in inputs.splits)
            return Decision(partition=self.wanted, reason=Reason.TPOT_PREDICTED_MISS, message="260 of 250 ms")

    def set_policy(wanted):
        monkeypatch.setattr(loop, "POLICIES", {"ModelPredictive": Says(wanted)})

    return set_policy


def obeyed(split=(80, 100)):
    """The state after the wish was obeyed at 0 s."""
    state, _ = step(initial_state(CONFIG), CONFIG, report(split), WISH, 0.0)
    return state


@pytest.mark.parametrize(
    ("seen", "wish", "config", "partition", "reason"),
    [
        pytest.param(None, WISH, CONFIG, at(80), Reason.NO_DATA, id="without a report the last split holds"),
        pytest.param(report(), None, CONFIG, at(80), Reason.NO_WISH, id="without a wish it holds"),
        pytest.param(report(phase="Preparing"), WISH, CONFIG, at(80), Reason.NOT_STEADY, id="during a switch it holds"),
        pytest.param(report(phase="Recovering"), WISH, CONFIG, at(80), Reason.NOT_STEADY, id="on a fault it holds"),
        pytest.param(report((50, 100)), WISH, CONFIG, at(80), Reason.CLUSTER_WISH, id="a new wish is obeyed at once"),
        pytest.param(
            report((50, 100)), WISH, replace(CONFIG, mode="Static"), at(80), Reason.CLUSTER_WISH,
            id="a wish is obeyed in every mode",
        ),
        pytest.param(
            report((50, 100)), replace(WISH, pinned=True), CONFIG, at(80), Reason.PINNED, id="a pinned wish is obeyed too"
        ),
        pytest.param(
            report((80, 100), granted=(0, 100), phase="Recovering"), WISH, CONFIG, at(80), Reason.NOT_STEADY,
            id="a lane that grants nothing is not a split",
        ),
    ],
)  # fmt: skip
def test_a_fresh_node(seen, wish, config, partition, reason):
    _, decision = step(initial_state(config), config, seen, wish, 100.0)
    assert (decision.partition, decision.reason) == (partition, reason)


def test_inside_the_band_it_moves_by_itself(say):
    say(at(65))
    _, decision = step(obeyed(), CONFIG, report(at_s=20.0), WISH, 20.0)
    assert (decision.partition, decision.reason) == (at(65), Reason.TPOT_PREDICTED_MISS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"mode": "Static"}, Reason.STATIC), ({"mode": "Advisory"}, Reason.STATIC)],
)
def test_by_itself_it_moves_in_auto_mode_alone(say, changes, reason):
    say(at(65))
    _, decision = step(obeyed(), replace(CONFIG, **changes), report(at_s=20.0), WISH, 20.0)
    assert (decision.partition, decision.reason) == (at(80), reason)


def test_it_waits_twice_the_measured_duration_of_a_switch(say):
    say(at(65))
    state, _ = step(obeyed(), CONFIG, report(at_s=20.0), WISH, 20.0)
    state, held = step(state, CONFIG, report(at_s=21.0, phase="Swapping"), WISH, 21.0)
    assert held.reason is Reason.NOT_STEADY
    state, held = step(state, CONFIG, report((65, 100), at_s=25.0), WISH, 25.0)
    assert (held.reason, state.switch_s) == (Reason.COOLDOWN, 5.0)
    say(at(80))
    _, held = step(state, CONFIG, report((65, 100), at_s=34.0), WISH, 34.0)
    assert held.reason is Reason.COOLDOWN
    _, moved = step(state, CONFIG, report((65, 100), at_s=36.0), WISH, 36.0)
    assert moved.partition == at(80)


def test_a_duration_that_the_caller_measured_counts(say):
    say(at(65))
    _, held = step(obeyed((50, 100)), CONFIG, report(at_s=9.0), WISH, 9.0, switch_s=5.0)
    assert held.reason is Reason.COOLDOWN


def test_a_wish_that_did_not_come_true_is_tried_again_but_not_at_once():
    state = obeyed((50, 100))
    state, held = step(state, CONFIG, report((50, 100), at_s=5.0), WISH, 5.0)
    assert (held.partition, held.reason) == (at(50), Reason.OUTSIDE_BAND)
    _, again = step(state, CONFIG, report((50, 100), at_s=31.0), WISH, 31.0)
    assert (again.partition, again.reason) == (at(80), Reason.OUTSIDE_BAND)


def test_a_pin_keeps_the_policy_out(say):
    say(at(65))
    pinned = replace(WISH, pinned=True)
    state, _ = step(initial_state(CONFIG), CONFIG, report(), pinned, 0.0)
    _, decision = step(state, CONFIG, report(at_s=50.0), pinned, 50.0)
    assert (decision.partition, decision.reason) == (at(80), Reason.PINNED)


def test_a_band_without_a_legal_split_leaves_the_target_alone():
    wish = replace(WISH, target=at(83, 97), band=Band.only(at(83, 97)))
    state, first = step(initial_state(CONFIG), CONFIG, report(), wish, 0.0)
    assert first.partition == at(83, 97)
    _, held = step(state, CONFIG, report((83, 97), at_s=60.0), wish, 60.0)
    assert held.partition == at(83, 97)
