"""When do the figures in a status move?"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.api.service import SloStatus
from semipd_core.slo import histogram
from semipd_core.slo.pooled import PooledWindow
from semipd_core.telemetry import SloTargets
from semipd_operator.plan.figures import slo_status

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
OLD = SloStatus(attainment_permille=970, ttft_milliseconds=300, tpot_milliseconds=50)


def window(attained, missed, ttft_ms=300.0, tpot_ms=50.0):
    judged = attained + missed
    return PooledWindow(
        since_s=0,
        until_s=60,
        engines=1,
        completed=judged,
        attained=attained,
        missed=missed,
        ttft_ms={histogram.bucket_of(ttft_ms): judged},
        tpot_ms={histogram.bucket_of(tpot_ms): judged},
    )


@pytest.mark.parametrize(
    ("attained", "missed", "shown"),
    [
        pytest.param(950, 50, 970, id="two points of a thousand requests may be luck"),
        pytest.param(920, 80, 920, id="five points of a thousand are not"),
        pytest.param(92, 8, 970, id="five points of a hundred are"),
        pytest.param(60, 40, 600, id="forty points of a hundred are not"),
        pytest.param(98_500, 1_500, 985, id="a hundred thousand requests tell one point and a half"),
        pytest.param(97_500, 2_500, 970, id="half a point is never worth a write"),
        pytest.param(0, 3, 970, id="three requests tell nothing"),
        pytest.param(0, 40, 0, id="forty misses in a row do"),
    ],
)
def test_attainment_moves_by_what_chance_does_not_explain(attained, missed, shown):
    assert slo_status(window(attained, missed), SLO, OLD).attainment_permille == shown


@pytest.mark.parametrize(
    ("requests", "ttft_ms", "moves"),
    [
        pytest.param(450, 340.0, False, id="13 % of 450 requests may be luck"),
        pytest.param(450, 400.0, True, id="a third is not"),
        pytest.param(20, 500.0, False, id="two thirds of 20 requests may be"),
        pytest.param(100_000, 340.0, True, id="13 % of a hundred thousand is not"),
        pytest.param(100_000, 320.0, False, id="less than a tenth is never worth a write"),
    ],
)
def test_latencies_move_by_what_chance_does_not_explain(requests, ttft_ms, moves):
    shown = slo_status(window(requests, 0, ttft_ms=ttft_ms), SLO, OLD).ttft_milliseconds
    assert (shown != OLD.ttft_milliseconds) == moves


def test_the_first_window_is_shown_as_it_is():
    assert slo_status(window(9, 1), SLO, None).attainment_permille == 900


def test_a_window_without_requests_shows_nothing():
    assert slo_status(PooledWindow(since_s=0, until_s=60, engines=1), SLO, OLD) is None


@given(st.integers(0, 5_000), st.integers(0, 5_000), st.floats(1, 10_000), st.floats(1, 1_000))
def test_what_is_shown_stays_while_the_window_stays(attained, missed, ttft_ms, tpot_ms):
    found = window(attained, missed, ttft_ms, tpot_ms)
    shown = slo_status(found, SLO, OLD)
    assert slo_status(found, SLO, shown) == shown


def test_an_hour_of_steady_traffic_moves_one_service_in_five_at_most():
    source = random.Random(7)
    services, looks, moves = 40, 60, 0
    for _ in range(services):
        shown = None
        for _ in range(looks):
            missed = sum(source.random() < 0.03 for _ in range(450))
            now = slo_status(window(450 - missed, missed), SLO, shown)
            moves += shown is not None and now != shown
            shown = now
    assert moves <= services / 5
