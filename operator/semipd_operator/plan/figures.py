"""The figures in a service's status: they move by more than chance alone moves them, so that a quiet service is not written.

A window of n requests is a sample: with attainment p its standard error is sqrt(p(1 − p)/n), and about 0.7/sqrt(n) of its value
for a 90th percentile of latencies as spread as a log-normal with σ = 0.4. Two windows differ by sqrt(2) times that.
"""

from __future__ import annotations

import math

from semipd_core.api.service import SloStatus
from semipd_core.slo.pooled import PooledWindow
from semipd_core.telemetry import SloTargets

ATTAINMENT_STEP_PERMILLE = 10
LATENCY_STEP_PERMILLE = 100  # of the value
CERTAINTY = 4.0  # standard errors; 1,000 services look 6,000 times an hour, at three figures each
LATENCY_ERROR = 0.7  # of the value, of one request


def slo_status(window: PooledWindow, slo: SloTargets, old: SloStatus | None) -> SloStatus | None:
    """A value moves only by a step. None: nothing was measured."""
    last = old or SloStatus()
    latency_step_permille = _latency_step_permille(window)
    found = SloStatus(
        attainment_permille=_stepped(
            last.attainment_permille, window.attainment_permille, _attainment_step_permille(window)
        ),
        ttft_milliseconds=_near(
            last.ttft_milliseconds, window.ttft_percentile_ms(slo.ttft_percentile), latency_step_permille
        ),
        tpot_milliseconds=_near(
            last.tpot_milliseconds, window.tpot_percentile_ms(slo.tpot_percentile), latency_step_permille
        ),
    )
    return None if found == SloStatus() else found


def _attainment_step_permille(window: PooledWindow) -> int:
    """Of at least half a miss, so that a window without one is no certainty."""
    judged = max(window.judged, 1)
    missed = min(max(window.missed, 0.5), judged - 0.5) / judged
    error = math.sqrt(2 * missed * (1 - missed) / judged)
    return max(ATTAINMENT_STEP_PERMILLE, round(1000 * CERTAINTY * error))


def _latency_step_permille(window: PooledWindow) -> int:
    error = LATENCY_ERROR * math.sqrt(2 / max(window.completed, 1))
    return max(LATENCY_STEP_PERMILLE, round(1000 * CERTAINTY * error))


def _stepped(old: int | None, new: int | None, step: int) -> int | None:
    return old if old is not None and new is not None and abs(new - old) < step else new


def _near(old: int | None, new: float | None, step_permille: int) -> int | None:
    if new is None:
        return None
    return _stepped(old, round(new), max(1, round(new) * step_permille // 1000))
