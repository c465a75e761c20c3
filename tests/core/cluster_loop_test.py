"""The cluster loop's guards, wishes and memory, with policies that always say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semipd_core.cluster import loop
from semipd_core.cluster.loop import initial_state, step
from semipd_core.cluster.state import DECISIONS_KEPT, ClusterConfig, band_around
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition, Role, Wish
from semipd_core.policies.decision import Decision, Reason
from semipd_core.slo.pooled import WindowState
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
BOUNDS = Band(prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100)
NOW_S = 1_000_000.0


def at(prefill, decode=100):
    return Partition(prefill_percent=prefill, decode_percent=decode)


def config(**changes):
    base = ClusterConfig(
        mode="Auto", policy="ModelPredictive", isolation=Isolation.MPS, initial=at(80), bounds=BOUNDS, slo=SLO
    )
    return replace(base, **changes)


def report(engine_id="a", split=(80, 100), at_s=NOW_S, phase="Steady", slots=(), open_requests=0):
    front = FrontEndReport(
        at_s=at_s, ready=True, slo=SLO, open_requests=open_requests, queued_requests=0, slots=list(slots)
    )
    return EngineReport(
        engine_id=engine_id,
        at_s=at_s,
        phase=phase,
        requested=split,
        granted=split,
        front_end=front,
        coordinator=None,
    )


def manual(target, *, pinned):
    return Wish(
        target=target,
        band=Band.only(target),
        decision_id="manual-1",
        reason="Manual",
        message="",
        pinned=pinned,
    )


class Says:
    """A policy that always wants the same split; None: hold."""

    def __init__(self, wanted) -> None:
        self.wanted = wanted

    def decide(self, inputs):
        return Decision(
            partition=self.wanted or inputs.current, reason=Reason.TPOT_MISSED, message="240 of 250 ms"
        )


@pytest.fixture
def say(monkeypatch):
    def set_policy(wanted):
        policies = {**loop.POLICIES, "ModelPredictive": Says(wanted)}
        monkeypatch.setattr(loop, "POLICIES", policies)

    return set_policy


def rounds(state, settings, times):
    """Rounds of one engine that runs whatever it was last told."""
    split, results = (state.target.prefill_percent, state.target.decode_percent), []
    for now_s in times:
        state, result = step(state, settings, {"a": report(split=split, at_s=now_s)}, now_s)
        for wish in result.wishes.values():
            split = (wish.target.prefill_percent, wish.target.decode_percent)
        results.append(result)
    return state, results


def test_engines_are_told_the_initial_target_once(say):
    say(None)
    _, (first, second) = rounds(initial_state(config()), config(), [NOW_S, NOW_S + 5])
    assert first.wishes["a"].target == at(80)
    assert first.wishes["a"].band == band_around(at(80), config())
    assert not second.wishes


def test_a_move_goes_to_every_engine_with_its_reason_and_a_band_around_it(say):
    say(at(50))
    reports = {"a": report("a"), "b": report("b"), "lost": None}
    _, result = step(initial_state(config()), config(), reports, NOW_S)
    assert result.changed
    assert set(result.wishes) == {"a", "b"}
    wish = result.wishes["b"]
    assert (wish.target, wish.reason, wish.message, wish.pinned) == (
        at(50),
        "TPOTMissed",
        "240 of 250 ms",
        False,
    )
    assert (wish.band.prefill_min_percent, wish.band.prefill_max_percent) == (35, 65)
    assert (wish.band.decode_min_percent, wish.band.decode_max_percent) == (85, 100)


def test_an_engine_that_joins_later_is_told_alone(say):
    say(None)
    state, _ = step(initial_state(config()), config(), {"a": report("a")}, NOW_S)
    _, result = step(state, config(), {"a": report("a"), "b": report("b")}, NOW_S + 1)
    assert set(result.wishes) == {"b"}


def test_what_is_known_of_engines_goes_with_them_and_not_with_their_silence(say):
    say(None)
    settings = config()
    state = initial_state(settings)
    steps = {("pod-1/engine-0", Role.DECODE): 7, ("pod-2/engine-0", Role.DECODE): 7}
    state = replace(state, steps=replace(state.steps, seen_ns=steps))
    both = {name: report(name) for name in ("pod-1/engine-0", "pod-2/engine-0")}
    state, _ = step(state, settings, both, NOW_S)
    assert state.wished.keys() == both.keys()
    silent, _ = step(state, settings, {"pod-1/engine-0": report(at_s=NOW_S + 1), "pod-2": None}, NOW_S + 1)
    assert (silent.wished, silent.steps.seen_ns) == (state.wished, steps)
    gone, _ = step(silent, settings, {"pod-2/engine-0": report(at_s=NOW_S + 2)}, NOW_S + 2)
    assert gone.wished.keys() == {"pod-2/engine-0"}
    assert gone.steps.seen_ns.keys() == {("pod-2/engine-0", Role.DECODE)}


def test_the_cooldown_holds_a_second_move_and_says_for_how_long(say):
    say(at(50))
    state, _ = rounds(initial_state(config()), config(), [NOW_S])
    say(at(30))
    state, (held,) = rounds(state, config(), [NOW_S + 10])
    assert (held.decision.reason, held.decision.partition, held.wishes) == (Reason.COOLDOWN, at(50), {})
    assert "20 s of cooldown left" in held.decision.message
    assert held.advice.partition == at(30)
    _, (moved,) = rounds(state, config(), [NOW_S + 31])
    assert moved.wishes["a"].target == at(30)


def test_moves_per_hour_are_limited_and_given_back_after_an_hour(say):
    settings = config(moves_per_hour=1)
    say(at(50))
    state, _ = rounds(initial_state(settings), settings, [NOW_S])
    say(at(30))
    state, (held,) = rounds(state, settings, [NOW_S + 600])
    assert held.decision.reason is Reason.MOVES_SPENT
    _, (moved,) = rounds(state, settings, [NOW_S + 3601])
    assert moved.changed


@pytest.mark.parametrize(
    ("settings", "pinned", "reason"),
    [
        pytest.param(config(mode="Advisory"), False, Reason.ADVISORY, id="advisory"),
        pytest.param(config(mode="Static"), False, Reason.STATIC, id="static"),
        pytest.param(config(), True, Reason.PINNED, id="pinned by hand"),
    ],
)
def test_no_wishes_go_out_while(say, settings, pinned, reason):
    say(at(50))
    state = initial_state(settings)
    after, result = step(
        state, settings, {"a": report()}, NOW_S, in_force=manual(at(80), pinned=True) if pinned else None
    )
    assert (result.wishes, result.decision.reason, after.target) == ({}, reason, state.target)
    if reason is not Reason.STATIC:
        assert result.advice.partition == at(50)
        assert "(50, 100)" in result.decision.message


def test_a_wish_of_somebody_else_becomes_the_target_before_engines_run_it(say):
    say(None)
    state, _ = rounds(initial_state(config()), config(), [NOW_S])
    foreign = manual(at(40), pinned=False)
    state, result = step(state, config(), {"a": report(at_s=NOW_S + 20)}, NOW_S + 20, in_force=foreign)
    assert (state.target, state.decisions[0].changed) == (at(40), False)
    assert (result.wishes["a"].target, result.wishes["a"].reason) == (at(40), Reason.ADOPTED)
    assert result.wishes["a"].band == band_around(at(40), config())
    after, again = step(
        state, config(), {"a": report(at_s=NOW_S + 25)}, NOW_S + 25, in_force=result.wishes["a"]
    )
    assert (after.target, again.wishes) == (at(40), {})


def test_a_pinned_wish_is_known_but_not_repeated(say):
    say(at(50))
    pinned = manual(at(30), pinned=True)
    state, result = step(initial_state(config()), config(), {"a": report()}, NOW_S, in_force=pinned)
    assert (state.target, result.decision.partition, result.wishes) == (at(30), at(30), {})


def test_an_engine_that_alone_left_the_band_is_told_again(say):
    say(None)
    reports = {name: report(name) for name in "abc"}
    state, _ = step(initial_state(config()), config(), reports, NOW_S)
    later = {name: report(name, at_s=NOW_S + 20) for name in "ab"} | {"c": report("c", (20, 100), NOW_S + 20)}
    state, result = step(state, config(), later, NOW_S + 20)
    assert state.target == at(80)
    assert set(result.wishes) == {"c"}


def test_stale_reports_are_no_data_and_hold():
    state, result = step(initial_state(config()), config(), {"a": report(at_s=NOW_S - 60)}, NOW_S)
    assert (result.window_state, result.decision.reason) == (WindowState.NO_DATA, Reason.NO_DATA)
    assert (result.decision.partition, result.wishes) == (state.target, {})


def test_a_failed_engine_is_not_told(say):
    say(at(50))
    _, result = step(initial_state(config()), config(), {"a": report(phase="Failed")}, NOW_S)
    assert not result.wishes


def test_windows_of_all_engines_are_pooled():
    slot = WindowSlot(start_s=int(NOW_S) - 4, arrived=3, attained=2, missed=1)
    _, result = step(
        initial_state(config()), config(), {name: report(name, slots=[slot]) for name in "ab"}, NOW_S
    )
    assert (result.window.engines, result.window.arrived, result.window.judged) == (2, 6, 6)
    assert result.window_state is WindowState.BAD


def test_the_last_decisions_are_kept_newest_first_and_repeated_holds_are_one():
    settings = config()
    state, _ = rounds(initial_state(settings), settings, [NOW_S + 5 * index for index in range(30)])
    assert len(state.decisions) == 1
    assert state.decisions[0].at_s == NOW_S


def test_moves_push_old_decisions_out(say):
    settings = config(cooldown_s=0)
    state = initial_state(settings)
    for index in range(DECISIONS_KEPT + 3):
        say(at(30 + 5 * (index % 2)))
        state, _ = rounds(state, settings, [NOW_S + 5 * index])
    assert len(state.decisions) == DECISIONS_KEPT
    assert all(timed.changed for timed in state.decisions)


def test_it_starts_at_the_legal_split_nearest_to_the_initial_one():
    assert initial_state(config(initial=at(83, 97))).target == at(85, 95)
    assert initial_state(config(isolation=Isolation.UNIFIED)).target == at(100)
    with pytest.raises(InvalidSpec):
        initial_state(config(bounds=replace(BOUNDS, prefill_min_percent=41, prefill_max_percent=42)))


@pytest.mark.parametrize("target", [at(20, 40), at(100), at(60, 70), at(5, 5)])
def test_the_band_lies_inside_the_bounds_and_holds_the_target_if_they_do(target):
    band = band_around(target, config())
    assert BOUNDS.clamp(target) == band.clamp(BOUNDS.clamp(target))
    assert BOUNDS.holds(at(band.prefill_min_percent, band.decode_min_percent))
    assert BOUNDS.holds(at(band.prefill_max_percent, band.decode_max_percent))
