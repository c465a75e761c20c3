"""Nodes whose clocks disagree with the operator's."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from played_cluster import SLO, engine_report

from semipd_core.slo.pooled import WindowState, classify, pool_reports
from semipd_core.telemetry import SLOT_SECONDS
from semipd_operator.observe.clocks import find_lag_s, moved

NOW_S = 1_000_000.0


@pytest.mark.parametrize(
    ("date", "lag_s"),
    [
        pytest.param(formatdate(NOW_S, usegmt=True), 0, id="they agree"),
        pytest.param(formatdate(NOW_S - 2, usegmt=True), 0, id="whole seconds, and the answer's way"),
        pytest.param(formatdate(NOW_S - 31, usegmt=True), 32, id="behind, in whole slots"),
        pytest.param(formatdate(NOW_S + 20, usegmt=True), -20, id="ahead"),
        pytest.param(None, 0, id="no date"),
        pytest.param("yesterday", 0, id="none that can be read"),
    ],
)
def test_how_far_a_clock_lags(date: str | None, lag_s: int) -> None:
    assert find_lag_s(date, NOW_S, NOW_S) == lag_s


@pytest.mark.parametrize(
    ("written_s", "lag_s"),
    [(0, 0), (5, 0), (10, 0), (-2, 0), (12, 0), (-4, 4), (16, -6)],
)
def test_an_answer_that_is_read_late_is_no_clock_that_lags(written_s: float, lag_s: int) -> None:
    """`written_s`: after the question; ten seconds lie between that and the answer's arrival."""
    assert find_lag_s(formatdate(NOW_S + written_s, usegmt=True), NOW_S, NOW_S + 10) == lag_s


@pytest.mark.parametrize("skew_s", [-3600, -31, -3, 0, 3, 20, 3600])
def test_a_pod_is_judged_alike_whatever_its_clock_says(skew_s: int) -> None:
    """Stale it would be no data, and of the future idle."""
    report = engine_report(now_s=NOW_S + skew_s)
    assert report.front_end is not None
    lag_s = find_lag_s(formatdate(NOW_S + skew_s, usegmt=True), NOW_S, NOW_S)
    found = moved(report, lag_s)
    assert found.front_end is not None
    assert all(slot.start_s % SLOT_SECONDS == 0 for slot in found.front_end.slots)
    window = pool_reports([found], since_s=NOW_S - 60, now_s=NOW_S, stale_after_s=30.0)
    assert classify(window, SLO) is WindowState.MET
