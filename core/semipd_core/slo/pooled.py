"""Many front ends' slots as one window, and what that window says: idle, no data, pending, met or bad."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import add, attrgetter
from statistics import NormalDist
from typing import Any

from semipd_core.slo import histogram
from semipd_core.telemetry import SLOT_SECONDS, EngineReport, SloTargets, WindowSlot

NORMAL_FROM_VARIANCE = 100.0

# Of a WindowSlot, and likewise of a PooledWindow. A fleet has a hundred thousand slots in a round.
_COUNTED = (
    "arrived",
    "completed",
    "attained",
    "missed",
    "missed_ttft",
    "missed_tpot",
    "rejected",
    "errored",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
)
_counts_of = attrgetter(*_COUNTED)


class WindowState(StrEnum):
    """What a window says of a service's SLO. Only the last two are a judgement."""

    NO_DATA = "NoData"  # no report, or only stale ones: nothing is known
    IDLE = "Idle"  # reports are there; nothing arrived and nothing is open
    PENDING = "Pending"  # requests are open, none is judged yet
    MET = "Met"
    BAD = "Bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledWindow:
    """Sums of slots over [since_s, until_s) in unix seconds. Fields as in WindowSlot; histograms in milliseconds."""

    since_s: float
    until_s: float
    engines: int = 0  # front ends with a fresh report
    open_requests: int = 0
    queued_requests: int = 0
    arrived: int = 0
    completed: int = 0
    attained: int = 0
    missed: int = 0
    missed_ttft: int = 0
    missed_tpot: int = 0
    rejected: int = 0
    errored: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_ms: Mapping[int, int] = field(default_factory=dict)
    tpot_ms: Mapping[int, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Its length, at least one slot, so that rates are finite."""
        return max(self.until_s - self.since_s, SLOT_SECONDS)

    @property
    def judged(self) -> int:
        return self.attained + self.missed

    @property
    def attainment_permille(self) -> int | None:
        """Attained among judged requests, rounded down; None if none is judged."""
        return self.attained * 1000 // self.judged if self.judged else None

    @property
    def arrival_rate_per_s(self) -> float:
        """Of all engines together, refused requests included."""
        return self.arrived / self.seconds

    @property
    def output_rate_per_s(self) -> float:
        """Tokens sent per second, of all engines together."""
        return self.output_tokens / self.seconds

    @property
    def prompt_tokens_mean(self) -> float | None:
        """Prompt tokens to compute per accepted request, prefix hits not counted; None if none was accepted."""
        accepted = self.arrived - self.rejected
        return max(0.0, self.prompt_tokens - self.cached_tokens) / accepted if accepted > 0 else None

    def ttft_percentile_ms(self, percent: float) -> float | None:
        return histogram.percentile(self.ttft_ms, percent)

    def tpot_percentile_ms(self, percent: float) -> float | None:
        return histogram.percentile(self.tpot_ms, percent)

    def chance_of_misses(self, slo: SloTargets) -> float:
        """How likely a service that just keeps its percentiles shows at least this many misses, in [0, 1].

        The tail of a binomial distribution with the requests judged and the misses allowed.
        """
        allowed = 1 - min(slo.ttft_percentile, slo.tpot_percentile) / 100
        return binomial_tail(self.missed, self.judged, allowed)

    def misses_ttft(self, slo: SloTargets) -> bool:
        """Whether more requests missed the TTFT target than its percentile allows; certain misses of open ones count."""
        return self.missed_ttft * 100 > (100 - slo.ttft_percentile) * self.judged

    def misses_tpot(self, slo: SloTargets) -> bool:
        """Likewise for TPOT."""
        return self.missed_tpot * 100 > (100 - slo.tpot_percentile) * self.judged


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P(X >= successes); by the normal distribution where its variance is above 100."""
    if successes <= 0:
        return 1.0
    variance = trials * probability * (1 - probability)
    if variance > NORMAL_FROM_VARIANCE:
        return 1 - NormalDist(trials * probability, math.sqrt(variance)).cdf(successes - 0.5)
    less = math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes)
    )
    return max(0.0, 1 - less)


def pool(slots: Iterable[WindowSlot], *, since_s: float, until_s: float) -> PooledWindow:
    """The slots that start in [since_s, until_s), of one or many front ends, as one window.

    The window begins at the first whole slot, so that what happened before `since_s` (a switch, say) stays out.
    """
    first_s = math.ceil(since_s / SLOT_SECONDS) * SLOT_SECONDS
    counts = [0] * len(_COUNTED)
    ttft_ms: dict[int, int] = {}
    tpot_ms: dict[int, int] = {}
    for slot in slots:
        if first_s <= slot.start_s < until_s:
            counts = list(map(add, counts, _counts_of(slot)))
            for total, part in ((ttft_ms, slot.ttft_ms), (tpot_ms, slot.tpot_ms)):
                for bucket, count in part.items():
                    total[bucket] = total.get(bucket, 0) + count
    sums: dict[str, Any] = dict(zip(_COUNTED, counts, strict=True))
    return PooledWindow(
        since_s=min(first_s, until_s), until_s=until_s, ttft_ms=ttft_ms, tpot_ms=tpot_ms, **sums
    )


def is_fresh(report: EngineReport | None, *, now_s: float, stale_after_s: float) -> bool:
    """Whether `report` carries a front end's window that is not older than `stale_after_s`."""
    return (
        report is not None and report.front_end is not None and now_s - report.front_end.at_s <= stale_after_s
    )


def pool_reports(
    reports: Iterable[EngineReport | None], *, since_s: float, now_s: float, stale_after_s: float
) -> PooledWindow:
    """The windows of all engines whose report is fresh, as one window up to `now_s`."""
    front_ends = [
        report.front_end
        for report in reports
        if report is not None
        and report.front_end is not None
        and is_fresh(report, now_s=now_s, stale_after_s=stale_after_s)
    ]
    window = pool((slot for front in front_ends for slot in front.slots), since_s=since_s, until_s=now_s)
    return replace(
        window,
        engines=len(front_ends),
        open_requests=sum(front.open_requests for front in front_ends),
        queued_requests=sum(front.queued_requests for front in front_ends),
    )


def classify(window: PooledWindow, slo: SloTargets) -> WindowState:
    """The SLO is met while attainment is at or above the lower of its two percentiles."""
    if window.engines == 0:
        return WindowState.NO_DATA
    attainment_permille = window.attainment_permille
    if attainment_permille is None:
        is_idle = window.arrived == 0 and window.open_requests == 0
        return WindowState.IDLE if is_idle else WindowState.PENDING
    needed_permille = 10 * min(slo.ttft_percentile, slo.tpot_percentile)
    return WindowState.MET if attainment_permille >= needed_permille else WindowState.BAD
