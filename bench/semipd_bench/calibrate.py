"""How to scale a trace to this machine, and which split to start from.

Pure. Condition (the replay must show a policy at work): the starting split meets the SLO in the first half of the trace and is
predicted to miss TTFT or TPOT in the second by at least `MISS_MIN_PERMILLE`, while another split is predicted to meet both
there. Where no scaling does that, the closest is taken and said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semipd_bench.lanes_model import MachineModel, simulate
from semipd_bench.outcome import percentile
from semipd_bench.trace import Limits, Trace, scale
from semipd_core.partition import Partition
from semipd_core.telemetry import SloTargets

MISS_MIN_PERMILLE = 100
REQUESTS_PER_HALF_MIN = 40  # fewer make no 90th percentile
OUTPUT_TOKENS_MIN = 4.0  # mean of the half with the longer answers; shorter ones make no TPOT
LENGTH_FACTORS = (0.016, 0.025, 0.035, 0.05, 0.065, 0.08, 0.1, 0.15, 0.22, 0.35, 0.6, 1.0)
RATE_FACTORS = (0.25, 0.3, 0.36, 0.45, 0.52, 0.6, 0.8, 1.0)
# What is said to meet must meet on a machine this much slower: steps of two busy lanes took 1.15 to 1.2 times as long as alone.
CAUTION = 1.2
ROOM_ENOUGH = 0.06  # of a target: what the prediction may be wrong by, beside the caution
UTILISATION_ROWS = 2  # of a decode step at loads that leave room
# Of either half, lane time alone over its length. The second limit is for machines on which the first leaves nothing: near it
# queues grow whatever the split.
UTILISATION_LIMITS = (0.6, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The caps that the service allows, in percent, inclusive."""

    prefill_min_percent: int = 20
    prefill_max_percent: int = 100
    decode_min_percent: int = 40
    decode_max_percent: int = 100

    def splits(self) -> list[Partition]:
        """A grid of allowed splits that contains the upper bounds, finer where a few points decide about TPOT."""
        return [
            Partition(prefill_percent=p, decode_percent=d)
            for p in range(self.prefill_max_percent, self.prefill_min_percent - 1, -20)
            for d in range(self.decode_max_percent, self.decode_min_percent - 1, -10)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPrediction:
    """One split in one half: latencies at the SLO's percentiles, and their larger ratio to the targets.

    `cautious_ratio`, on a slower machine, ≤ 1 is said to meet; `ratio` > 1 is said to miss.
    """

    partition: Partition
    ttft_ms: float
    tpot_ms: float
    ratio: float
    cautious_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What to replay and how to start. `is_met` says whether the condition holds."""

    length_factor: float
    rate_factor: float
    requests: int
    start: Partition
    first: HalfPrediction  # the start in the first half
    second: HalfPrediction  # the start in the second half
    better: HalfPrediction  # the best split in the second half
    machine: MachineModel
    limits: Limits
    is_met: bool
    message: str

    def apply(self, trace: Trace) -> Trace:
        return scale(
            trace, length_factor=self.length_factor, rate_factor=self.rate_factor, limits=self.limits
        )


def plan_scaling(
    machine: MachineModel,
    trace: Trace,
    slo: SloTargets,
    bounds: Bounds,
    limits: Limits,
    *,
    length_factors: Sequence[float] = LENGTH_FACTORS,
    rate_factors: Sequence[float] = RATE_FACTORS,
) -> Scaling:
    """Search the grid of factors and splits for the longest requests with enough room on all three sides of the condition.

    Where no length has `ROOM_ENOUGH`, the scaling with the most room is taken. A higher load is looked at only where a lower one
    cannot meet the condition at all.

    Raises: ValueError if the trace leaves one of its halves empty.
    """
    best: tuple[float, Scaling] | None = None
    for utilisation_max in UTILISATION_LIMITS:
        search = _Search(
            machine=machine, slo=slo, bounds=bounds, limits=limits, utilisation_max=utilisation_max
        )
        for length_factor in sorted(length_factors, reverse=True):
            for rate_factor in rate_factors:
                factors = _Factors(length=length_factor, rate=rate_factor)
                found = search.best_start(trace, factors, floor=-math.inf if best is None else best[0])
                best = found or best
            if best is not None and best[0] >= ROOM_ENOUGH:
                return best[1]
        if best is not None and best[0] >= 0:
            return best[1]
    if best is not None:
        return best[1]
    lightest = _Factors(length=min(length_factors), rate=min(rate_factors))
    return search.closest_start(trace, lightest)


def predict_half(machine: MachineModel, partition: Partition, half: Trace, slo: SloTargets) -> HalfPrediction:
    """What `half` would feel like under `partition`.

    Raises: ValueError if it holds no requests.
    """
    ttft_ms, tpot_ms = _predict_latencies(machine, partition, half, slo)
    ratio = max(ttft_ms / slo.ttft_ms, tpot_ms / slo.tpot_ms)
    cautious_ratio = CAUTION * ratio
    if ratio <= 1:  # else it misses already, and by how much is of no interest
        ttft, tpot = _predict_latencies(machine.slower(CAUTION), partition, half, slo)
        cautious_ratio = max(ttft / slo.ttft_ms, tpot / slo.tpot_ms)
    return HalfPrediction(
        partition=partition, ttft_ms=ttft_ms, tpot_ms=tpot_ms, ratio=ratio, cautious_ratio=cautious_ratio
    )


def _predict_latencies(
    machine: MachineModel, partition: Partition, half: Trace, slo: SloTargets
) -> tuple[float, float]:
    """TTFT and TPOT at the SLO's percentiles; TPOT is 0 where every answer has one token."""
    predicted = simulate(machine, partition, half)
    ttft_ms = percentile([p.ttft_ms for p in predicted], slo.ttft_percentile)
    tpots = [p.tpot_ms for p in predicted if p.tpot_ms is not None]
    return ttft_ms, percentile(tpots, slo.tpot_percentile) if tpots else 0.0


def utilisation(machine: MachineModel, half: Trace) -> float:
    """Lane time that `half` needs over its length, prefill in full chunks and decode in small batches."""
    per_token_ms = machine.prefill_ms(machine.chunk_tokens) / machine.chunk_tokens
    per_output_ms = machine.decode_ms(UTILISATION_ROWS) / UTILISATION_ROWS
    work_ms = sum(r.prompt_tokens * per_token_ms + r.output_tokens * per_output_ms for r in half.requests)
    return work_ms / 1e3 / half.duration_s / machine.engines


def _is_telling(*halves: Trace) -> bool:
    """Whether each half has enough requests to be judged by percentiles, and one has answers long enough for TPOT."""
    return (
        min(len(half.requests) for half in halves) >= REQUESTS_PER_HALF_MIN
        and max(map(mean_output, halves)) >= OUTPUT_TOKENS_MIN
    )


def mean_output(half: Trace) -> float:
    """Output tokens per request of a half that holds some."""
    return sum(request.output_tokens for request in half.requests) / len(half.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    length: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What stays the same over all factors."""

    machine: MachineModel
    slo: SloTargets
    bounds: Bounds
    limits: Limits
    utilisation_max: float

    def best_start(self, trace: Trace, factors: _Factors, *, floor: float) -> tuple[float, Scaling] | None:
        """(room, scaling) with the most room, if that is more than `floor`; room ≥ 0 meets the condition."""
        scaled = self._scale(trace, factors)
        first_half, second_half = scaled.halves()
        if not _is_telling(first_half, second_half):
            return None
        if max(utilisation(self.machine, half) for half in (first_half, second_half)) > self.utilisation_max:
            return None
        if self._largest_miss(second_half) <= floor:
            return None
        firsts = sorted(self._predict(first_half), key=lambda p: p.cautious_ratio)
        best = None
        better: HalfPrediction | None = None
        for first in firsts:
            if 1 - first.cautious_ratio <= floor:
                break
            second = predict_half(self.machine, first.partition, second_half, self.slo)
            miss = second.ratio - 1 - MISS_MIN_PERMILLE / 1000
            if miss <= floor:
                continue
            better = better or min(self._predict(second_half), key=lambda p: p.cautious_ratio)
            room = min(1 - first.cautious_ratio, miss, 1 - better.cautious_ratio)
            if room > floor:
                floor = room
                best = room, self._conclude(factors, scaled, first, second, better, is_met=room >= 0)
        return best

    def _largest_miss(self, second_half: Trace) -> float:
        """By how much a target can be missed at all: where one lane has its largest cap and the other its smallest."""
        bounds = self.bounds
        extremes = (
            (bounds.prefill_max_percent, bounds.decode_min_percent),
            (bounds.prefill_min_percent, bounds.decode_max_percent),
        )
        ratios = (
            predict_half(
                self.machine, Partition(prefill_percent=p, decode_percent=d), second_half, self.slo
            ).ratio
            for p, d in extremes
        )
        return max(ratios) - 1 - MISS_MIN_PERMILLE / 1000

    def closest_start(self, trace: Trace, factors: _Factors) -> Scaling:
        """The best split for each half under a load that no grid point fits."""
        scaled = self._scale(trace, factors)
        first_half, second_half = scaled.halves()
        first = min(self._predict(first_half), key=lambda p: p.cautious_ratio)
        second = predict_half(self.machine, first.partition, second_half, self.slo)
        better = min(self._predict(second_half), key=lambda p: p.cautious_ratio)
        return self._conclude(factors, scaled, first, second, better, is_met=False)

    def _scale(self, trace: Trace, factors: _Factors) -> Trace:
        return scale(trace, length_factor=factors.length, rate_factor=factors.rate, limits=self.limits)

    def _predict(self, half: Trace) -> Iterator[HalfPrediction]:
        return (predict_half(self.machine, split, half, self.slo) for split in self.bounds.splits())

    def _conclude(
        self,
        factors: _Factors,
        scaled: Trace,
        first: HalfPrediction,
        second: HalfPrediction,
        better: HalfPrediction,
        *,
        is_met: bool,
    ) -> Scaling:
        return Scaling(
            length_factor=factors.length,
            rate_factor=factors.rate,
            requests=len(scaled.requests),
            start=first.partition,
            first=first,
            second=second,
            better=better,
            machine=self.machine,
            limits=self.limits,
            is_met=is_met,
            message=_describe(first, second, better, self.slo, is_met=is_met),
        )


def _describe(
    first: HalfPrediction, second: HalfPrediction, better: HalfPrediction, slo: SloTargets, *, is_met: bool
) -> str:
    claim = (
        f"start at {first.partition}: first half TTFT p{slo.ttft_percentile} {first.ttft_ms:.0f} ms, "
        f"TPOT p{slo.tpot_percentile} {first.tpot_ms:.0f} ms; second half {second.ttft_ms:.0f} and "
        f"{second.tpot_ms:.0f} ms, where {better.partition} would give {better.ttft_ms:.0f} and "
        f"{better.tpot_ms:.0f} ms (targets {slo.ttft_ms} and {slo.tpot_ms} ms)"
    )
    if is_met:
        return claim
    return f"this machine cannot meet the condition of the replay; the closest is: {claim}"
