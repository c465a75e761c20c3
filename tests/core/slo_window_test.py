"""What windows count, how they pool, and what they say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.slo.attainment import Judgement
from semipd_core.slo.pooled import PooledWindow, WindowState, binomial_tail, classify, pool, pool_reports
from semipd_core.slo.window import WindowRecorder
from semipd_core.telemetry import SLOT_SECONDS, SLOTS_KEPT, EngineReport, FrontEndReport, SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=1000, tpot_percentile=95, tpot_ms=100)
START_S = 1_000_000.0


def test_counts_fall_into_the_slot_of_their_time():
    recorder = WindowRecorder()
    recorder.arrived(START_S, 10)
    recorder.arrived(START_S + 1.9, 20)
    recorder.tokens(START_S + 2.0, 3)
    recorder.cached(START_S + 2.5, 4)
    recorder.rejected(START_S + 4)
    recorder.errored(START_S + 4)
    recorder.record(START_S + 4, Judgement(attained=True, completed=True, ttft_ms=5.0, tpot_ms=7.0))
    recorder.record(START_S + 4, None)
    first, second, third = recorder.slots(START_S + 5)
    assert (first.start_s, first.arrived, first.prompt_tokens) == (1_000_000, 2, 30)
    assert (second.start_s, second.output_tokens, second.cached_tokens) == (1_000_002, 3, 4)
    assert (third.arrived, third.rejected, third.errored, third.missed, third.attained) == (1, 1, 1, 2, 1)
    assert (sum(third.ttft_ms.values()), sum(third.tpot_ms.values())) == (1, 1)


def test_only_the_kept_slots_are_handed_out():
    recorder = WindowRecorder()
    for slot in range(SLOTS_KEPT + 5):
        recorder.arrived(START_S + slot * SLOT_SECONDS, 1)
    slots = recorder.slots(START_S + (SLOTS_KEPT + 4) * SLOT_SECONDS)
    assert len(slots) == SLOTS_KEPT
    assert slots[0].start_s == START_S + 5 * SLOT_SECONDS


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100), st.booleans()), max_size=40))
def test_pooling_engines_is_the_same_as_one_engine_that_saw_everything(events):
    many, one = [WindowRecorder() for _ in range(4)], WindowRecorder()
    for engine, at_s, attained in sorted(events, key=lambda event: event[1]):
        judgement = Judgement(attained=attained, missed=not attained, ttft_ms=1 + at_s)
        for recorder in (many[engine], one):
            recorder.arrived(START_S + at_s, 7)
            recorder.record(START_S + at_s, judgement)
    now_s = START_S + 100
    pooled = pool([slot for each in many for slot in each.slots(now_s)], since_s=START_S, until_s=now_s)
    assert pooled == pool(one.slots(now_s), since_s=START_S, until_s=now_s)


def test_a_slot_that_began_before_the_window_stays_out():
    recorder = WindowRecorder()
    recorder.arrived(START_S + 2, 1)
    recorder.arrived(START_S + 4, 1)
    window = pool(recorder.slots(START_S + 10), since_s=START_S + 2.5, until_s=START_S + 10)
    assert (window.arrived, window.since_s, window.seconds) == (1, START_S + 4, 6)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        pytest.param({}, WindowState.NO_DATA, id="without a report nothing is known"),
        pytest.param({"engines": 1}, WindowState.IDLE, id="a report without arrivals is idle"),
        pytest.param(
            {"engines": 1, "open_requests": 1}, WindowState.PENDING, id="an open request is not idle"
        ),
        pytest.param(
            {"engines": 1, "arrived": 1}, WindowState.PENDING, id="an arrival without a verdict is not idle"
        ),
        pytest.param(
            {"engines": 1, "attained": 9, "missed": 1},
            WindowState.MET,
            id="at the lower percentile it is met",
        ),
        pytest.param(
            {"engines": 1, "attained": 8, "missed": 1},
            WindowState.BAD,
            id="under the lower percentile it is bad",
        ),
        pytest.param(
            {"engines": 1, "rejected": 1, "missed": 1}, WindowState.BAD, id="refusals alone are bad"
        ),
    ],
)
def test_a_window_says(fields, state):
    assert classify(PooledWindow(since_s=0, until_s=10, **fields), SLO) is state


@pytest.mark.parametrize(
    ("missed", "judged", "chance"),
    [(0, 5, 1.0), (1, 5, 0.40951), (2, 5, 0.08146), (3, 10, 0.07019), (1, 1, 0.1), (5, 20, 0.04317)],
)
def test_the_chance_of_misses_is_the_tail_of_a_binomial_distribution(missed, judged, chance):
    """Values of R's `pbinom(missed - 1, judged, 0.1, lower.tail = FALSE)`."""
    window = PooledWindow(since_s=0, until_s=10, missed=missed, attained=judged - missed)
    assert window.chance_of_misses(SLO) == pytest.approx(chance, abs=1e-5)


@given(st.integers(1200, 5000), st.data())
def test_the_normal_distribution_agrees_with_the_exact_tail(trials, data):
    missed = data.draw(st.integers(int(0.08 * trials), int(0.13 * trials)))
    exact = 1 - math.fsum(
        math.exp(
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(0.1) + (trials - k) * math.log(0.9)
        )
        for k in range(missed)
    )  # fmt: skip
    assert binomial_tail(missed, trials, 0.1) == pytest.approx(exact, abs=0.01)


def test_a_stale_report_is_no_data():
    def report(at_s):
        front = FrontEndReport(
            at_s=at_s, ready=True, slo=SLO, open_requests=2, queued_requests=1, slots=[]
        )  # fmt: skip
        return EngineReport(
            engine_id="e", at_s=at_s, phase="Steady", requested=(80, 100), granted=(80, 100),
            front_end=front, coordinator=None,
        )  # fmt: skip

    window = pool_reports([report(90.0), report(99.0), None], since_s=80, now_s=100.0, stale_after_s=5)
    assert (window.engines, window.open_requests, window.queued_requests) == (1, 2, 1)
    stale = pool_reports([report(90.0), None], since_s=80, now_s=100.0, stale_after_s=5)
    assert classify(stale, SLO) is WindowState.NO_DATA


def test_misses_of_open_requests_count_before_any_latency_is_known():
    window = PooledWindow(since_s=0, until_s=10, engines=1, attained=8, missed=2, missed_ttft=2)
    assert window.misses_ttft(SLO)
    assert not window.misses_tpot(SLO)
    assert window.ttft_percentile_ms(90) is None


def test_rates_and_means():
    window = PooledWindow(
        since_s=0, until_s=10, arrived=5, rejected=1, prompt_tokens=100, cached_tokens=20, output_tokens=50
    )
    assert (window.arrival_rate_per_s, window.output_rate_per_s, window.prompt_tokens_mean) == (
        0.5,
        5.0,
        20.0,
    )
