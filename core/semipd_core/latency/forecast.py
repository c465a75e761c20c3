"""TTFT and TPOT that a service would have at another split, from its step model, its load and its latest window.

TPOT: step time at the batch that the split leads to (Little's law: the token rate stays), over the decode lane's speed.
TTFT: M/M/1 sojourn with the prompt's lone time over the prefill lane's speed (semi-PD, Eq. 2–3), grown by the excess
of arrivals over a horizon where the lane is overloaded. Both are brought to the target's percentile by what the window
shows at the present split. Both are monotone: TTFT falls in the prefill cap, TPOT rises in it; conversely for the decode cap.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from statistics import NormalDist

from semipd_core.latency.load import EngineLoad
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.share_curve import ShareCurve
from semipd_core.partition import Partition, Role
from semipd_core.slo import histogram
from semipd_core.slo.pooled import PooledWindow
from semipd_core.telemetry import SloTargets

HORIZON_S = 30.0  # how long an overload is taken to last: about one cooldown
MAX_UTILISATION = 0.95  # of the stationary formula; beyond it the queue grows with time
BATCH_TRUST = 2.0  # the batch is taken to change by this factor at most
MIN_OBSERVED = 5  # requests in a histogram before its percentile counts
TTFT_CORRECTION = (0.25, 4.0)  # observed over modelled, at most
TPOT_CORRECTION = (1.0, 2.0)  # never below the model: an open request's TPOT is not in the window yet
TTFT_SPREAD = (0.2, 0.7, 1.2)  # σ of the logarithm: least, without data, most
TPOT_SPREAD = (0.1, 0.25, 0.6)

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """At one split; latencies at the percentiles of the targets."""

    split: Partition
    ttft_ms: float
    tpot_ms: float
    attainment_permille: float

    def meets_ttft(self, slo: SloTargets, margin: float = 1.0) -> bool:
        return self.ttft_ms <= margin * slo.ttft_ms

    def meets_tpot(self, slo: SloTargets, margin: float = 1.0) -> bool:
        return self.tpot_ms <= margin * slo.tpot_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """Everything a forecast needs; `forecast(split)` is then a function of the split alone. Make it with `calibrate`."""

    curve: ShareCurve  # of prefill
    decode_curve: ShareCurve
    load: EngineLoad
    slo: SloTargets
    prompt_token_ms: float  # lone, per prompt token
    prompt_lone_ms: float  # of a mean prompt
    step_base_ms: float  # lone, of a decode step without rows
    step_row_ms: float  # lone, of one more row with its context
    arrival_rate_per_s: float  # per engine
    token_load: float  # decode rows per millisecond of TPOT: the token rate of one engine
    decode_contention: float  # at the present split, in the percentile's requests
    prefill_work: float  # done at the present split per unit of decode time: lone speed times contention
    ttft_correction: float = 1.0
    tpot_correction: float = 1.0
    ttft_spread: float = TTFT_SPREAD[1]
    tpot_spread: float = TPOT_SPREAD[1]

    def forecast(self, split: Partition) -> Forecast:
        ttft_ms, tpot_ms = self.latencies_ms(split)
        meets_ttft = _share_within(ttft_ms, self.slo.ttft_ms, self.slo.ttft_percentile, self.ttft_spread)
        meets_tpot = _share_within(tpot_ms, self.slo.tpot_ms, self.slo.tpot_percentile, self.tpot_spread)
        return Forecast(
            split=split,
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            attainment_permille=1000 * meets_ttft * meets_tpot,
        )

    def latencies_ms(self, split: Partition) -> tuple[float, float]:
        """TTFT and TPOT of the forecast alone, which is the lesser part of its cost."""
        return self.ttft_correction * self._ttft_ms(split), self.tpot_correction * self._tpot_ms(split)

    def _ttft_ms(self, split: Partition) -> float:
        """Uncorrected, at the target's percentile of an exponential sojourn; at least what the backlog takes."""
        speed = self.load.prefill_pace * self.curve.speed(
            split.prefill_percent, split.decode_percent, self.load.prefill_contention
        )
        service_ms = self.prompt_lone_ms / speed
        utilisation = self.arrival_rate_per_s * service_ms / 1000
        growth_ms = HORIZON_S * 1000 * max(0.0, utilisation - MAX_UTILISATION)
        sojourn_ms = service_ms / (1 - min(utilisation, MAX_UTILISATION))
        backlog_ms = self.prompt_token_ms * self.load.waiting_tokens / speed
        tail = math.log(100 / (100 - self.slo.ttft_percentile))
        return max(tail * sojourn_ms + growth_ms, service_ms + backlog_ms)

    def _tpot_ms(self, split: Partition) -> float:
        speed = self.load.decode_pace * self.decode_curve.speed(
            split.decode_percent, split.prefill_percent, self._contention(split)
        )
        return self._step_ms(self._rows(speed)) / speed

    def _contention(self, split: Partition) -> float:
        """A slower prefill lane is busy for longer with the same work. A faster one may find more work: it gets no credit."""
        prefill_speed = self.curve.contended_speed(split.prefill_percent, split.decode_percent)
        return max(self.decode_contention, min(1.0, self.prefill_work / prefill_speed))

    def _rows(self, speed: float) -> float:
        """The batch at which the lane delivers the present token rate: rows = rate · (base + rows · per_row)/speed."""
        low, high = self.load.decode_rows / BATCH_TRUST, self.load.decode_rows * BATCH_TRUST
        spare = speed - self.token_load * self.step_row_ms
        return min(max(self.token_load * self.step_base_ms / spare, low), high) if spare > 0 else high

    def _step_ms(self, rows: float) -> float:
        return self.step_base_ms + rows * self.step_row_ms


def least_ratio(forecaster: Forecaster, splits: Sequence[Partition]) -> float:
    """max(TTFT/target, TPOT/target) at the split where it is least.

    Of the splits with one prefill cap that is where the two cross: TTFT rises with the decode cap, TPOT falls.
    """
    slo = forecaster.slo

    def ratios(split: Partition) -> tuple[float, float]:
        ttft_ms, tpot_ms = forecaster.latencies_ms(split)
        return ttft_ms / slo.ttft_ms, tpot_ms / slo.tpot_ms

    def is_beyond(split: Partition) -> bool:
        ttft, tpot = ratios(split)
        return ttft >= tpot

    by_prefill: dict[int, list[Partition]] = {}
    for split in sorted(splits, key=attrgetter("decode_percent")):
        by_prefill.setdefault(split.prefill_percent, []).append(split)
    least = float("inf")
    for column in by_prefill.values():
        crossing = bisect_left(column, True, key=is_beyond)
        least = min(least, *(max(ratios(split)) for split in column[max(0, crossing - 1) : crossing + 1]))
    return least


def calibrate(
    *,
    model: StepModel,
    load: EngineLoad,
    window: PooledWindow,
    demand: PooledWindow,
    slo: SloTargets,
    current: Partition,
) -> Forecaster:
    """A forecaster whose forecast at `current` agrees with what `window` shows there, within the corrections allowed.

    `window` holds latencies at `current` alone; `demand` says what arrives, whatever the split was.
    """
    load = replace(load, decode_rows=max(load.decode_rows, 1.0))  # at least the request that is asked about
    base_ms = model.decode_ms(rows=0, context_tokens=0)
    step_ms = model.decode_ms(
        rows=load.decode_rows, context_tokens=load.decode_rows * load.context_tokens_per_row
    )
    tpot_ms = _observed(window.tpot_ms, slo.tpot_percentile, slo.tpot_ms, is_missed=window.misses_tpot(slo))
    contention = max(load.decode_contention, _tail_contention(model, load, step_ms, tpot_ms, current))
    decode_curve = model.curve_of(Role.DECODE)
    speed = load.decode_pace * decode_curve.speed(current.decode_percent, current.prefill_percent, contention)
    prompt_token_ms = _prompt_token_ms(model, load)
    prompt_tokens = demand.prompt_tokens_mean or load.chunk_tokens
    plain = Forecaster(
        curve=model.curve_of(Role.PREFILL),
        decode_curve=decode_curve,
        load=load,
        slo=slo,
        prompt_token_ms=prompt_token_ms,
        prompt_lone_ms=prompt_token_ms * prompt_tokens,
        step_base_ms=base_ms,
        step_row_ms=(step_ms - base_ms) / load.decode_rows,
        arrival_rate_per_s=demand.arrival_rate_per_s / max(1, demand.engines),
        token_load=load.decode_rows * speed / step_ms if step_ms > 0 else 0.0,
        decode_contention=contention,
        prefill_work=contention
        * model.curve_of(Role.PREFILL).contended_speed(current.prefill_percent, current.decode_percent),
        ttft_spread=_spread(window.ttft_ms, TTFT_SPREAD),
        tpot_spread=_spread(window.tpot_ms, TPOT_SPREAD),
    )
    return _corrected(plain, window, tpot_ms, current)


def _corrected(
    plain: Forecaster, window: PooledWindow, tpot_ms: float | None, current: Partition
) -> Forecaster:
    slo, at_current = plain.slo, plain.forecast(current)
    ttft_ms = _observed(window.ttft_ms, slo.ttft_percentile, slo.ttft_ms, is_missed=window.misses_ttft(slo))
    return replace(
        plain,
        ttft_correction=_correction(ttft_ms, at_current.ttft_ms, TTFT_CORRECTION),
        tpot_correction=_correction(tpot_ms, at_current.tpot_ms, TPOT_CORRECTION),
    )


def _prompt_token_ms(model: StepModel, load: EngineLoad) -> float:
    tokens = max(load.chunk_tokens, 1.0)
    return model.prefill_ms(tokens=tokens, context_tokens=load.chunk_context_tokens) / tokens


def _observed(counts: Mapping[int, int], percent: int, target_ms: int, *, is_missed: bool) -> float | None:
    """The percentile; above the target where misses of open requests, whose latency is unknown yet, say so."""
    if sum(counts.values()) < MIN_OBSERVED:
        return None
    observed_ms = histogram.percentile(counts, percent)
    assert observed_ms is not None
    return max(observed_ms, 1.01 * target_ms) if is_missed else observed_ms


def _tail_contention(
    model: StepModel, load: EngineLoad, step_ms: float, tpot_ms: float | None, current: Partition
) -> float:
    """The part of time with prefill busy that explains the observed TPOT percentile; 0 where it explains nothing."""
    curve = model.curve_of(Role.DECODE)
    lone = curve.lone_speed(current.decode_percent)
    contended = curve.contended_speed(current.decode_percent, current.prefill_percent)
    if tpot_ms is None or lone - contended < 0.05 * lone:
        return 0.0
    speed = step_ms / tpot_ms / load.decode_pace
    return min(max((lone - speed) / (lone - contended), 0.0), 1.0)


def _correction(observed_ms: float | None, modelled_ms: float, allowed: tuple[float, float]) -> float:
    if observed_ms is None or modelled_ms <= 0:
        return 1.0
    return min(max(observed_ms / modelled_ms, allowed[0]), allowed[1])


def _spread(counts: Mapping[int, int], allowed: tuple[float, float, float]) -> float:
    """σ of the logarithm, from the median and the 90th percentile."""
    least, default, most = allowed
    median, high = histogram.percentile(counts, 50), histogram.percentile(counts, 90)
    if median is None or high is None or sum(counts.values()) < MIN_OBSERVED:
        return default
    return min(max(math.log(high / median) / _NORMAL.inv_cdf(0.9), least), most)


def _share_within(percentile_ms: float, target_ms: float, percent: int, spread: float) -> float:
    """The part of requests at or under the target, of a log-normal latency whose `percent` percentile is given."""
    if percentile_ms <= 0:
        return 1.0
    return _NORMAL.cdf(_NORMAL.inv_cdf(percent / 100) + math.log(target_ms / percentile_ms) / spread)
