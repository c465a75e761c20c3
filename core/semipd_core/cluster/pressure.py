"""How near is a service to its SLO, as far as more replicas could help? One number for every way to scale.

Per look: max(TTFT/target, TPOT/target), each at the SLO's own percentile, over what the present engines have served at the
present split since the look before; at most CLAMP. The split answers before replicas do: where the step model expects a legal
split to do better, what is left at that split counts. TPOT close to its target, say, is how a good split looks (prefill has all
that decode can spare) and says nothing about load. A forecast that a missed SLO contradicts for PATIENCE_S is not believed.

Over time: the mean over `average_s`, and None until that time has been seen whole with the same engines and the same split: what
another fleet did is no measure of this one. None is also what no data gives; idle gives 0.
Source of ratio, clamp and mean: llm-d, guides/workload-autoscaling, SLO-aware (https://github.com/llm-d/llm-d/pull/2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from semipd_core.latency.forecast import least_ratio
from semipd_core.policies.decision import MIN_REQUESTS, PolicyInputs
from semipd_core.slo.pooled import PooledWindow, WindowState, classify, pool_reports
from semipd_core.telemetry import SLOT_SECONDS, EngineReport

CLAMP = 2.0
MISSED = 1.0  # the target itself
UP_PRESSURE, DOWN_PRESSURE = 0.55, 0.40  # llm-d's band, in which the number of replicas stays
PATIENCE_S = 90.0  # three default cooldowns: as many moves of the split as cross the whole band
SAME_FLEET_OF = 10
MIN_SAMPLES = 3  # windows in a mean
WHOLE_SLOT_S = 2 * SLOT_SECONDS  # within it one slot begins and ends, wherever a look falls
KV_FULL_PERMILLE = 800.0  # no split makes room in a full cache; llm-d WVA calls 0.8 saturated


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLoad:
    """What the engines that report carry at one look, all together."""

    engines: int
    open_requests: int
    queued_requests: int  # open, no token yet
    kv_used_ratio: float | None  # mean over engines; None: no coordinator reports


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureSample:
    at_s: float  # unix time
    observed: float  # 0..CLAMP
    relieved: float  # what is left of it at the best legal split, at most `observed`
    load: FleetLoad
    tokens_per_s: float  # prompt tokens to compute and tokens sent


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureTrack:
    """Of one fleet at one split: `engines` and `settled_s` say which; another one begins anew."""

    engines: int = 0  # that reported when it began
    settled_s: float = float("-inf")  # as in ClusterState
    since_s: float = float("inf")  # when it began
    looked_s: float = float("-inf")
    missed_since_s: float | None = None  # outlives a fleet and a split
    load: FleetLoad | None = None  # of the last look; None: no data
    samples: tuple[PressureSample, ...] = ()  # oldest first

    def is_refuted(self, now_s: float) -> bool:
        """Whether the SLO has been missed for so long that no split can be hoped for."""
        return self.missed_since_s is not None and now_s - self.missed_since_s >= PATIENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureReading:
    pressure: float  # what replicas should answer, 0..CLAMP
    latest: float  # the same of the last look alone
    observed: float  # before the split's part is taken off
    open_per_engine: float
    engines: int  # that report
    tokens_per_s: float  # of all engines

    @property
    def rising(self) -> float:
        """What both say at least: a backlog that has been worked off since asks for nobody any more."""
        return min(self.pressure, self.latest)

    @property
    def falling(self) -> float:
        return max(self.pressure, self.latest)

    @property
    def is_left_to_split(self) -> bool:
        return self.observed > UP_PRESSURE >= self.pressure


def look(
    track: PressureTrack,
    inputs: PolicyInputs,
    fresh: Mapping[str, EngineReport],
    *,
    since_s: float,
    settled_s: float,
    average_s: float,
    split_moves: bool,
) -> PressureTrack:
    """`track` after one more look.

    `since_s`: no window begins before it; `settled_s`: the split's last move; `split_moves`: whether it may move.
    """
    now_s, engines = inputs.now_s, len(fresh)
    waits_for_split = settled_s != track.settled_s and not track.is_refuted(now_s)  # it may move for ever
    if _is_another_fleet(track.engines, engines) or waits_for_split:
        track = PressureTrack(
            engines=engines,
            settled_s=settled_s,
            since_s=now_s,
            looked_s=track.looked_s,
            missed_since_s=track.missed_since_s,
        )
    if not engines:
        return replace(track, looked_s=now_s, missed_since_s=None)
    shortest_s = max(average_s / MIN_SAMPLES, WHOLE_SLOT_S)  # looks closer to each other share requests
    window = pool_reports(
        fresh.values(),
        since_s=max(since_s, track.since_s, min(track.looked_s, now_s - shortest_s)),
        now_s=now_s,
        stale_after_s=float("inf"),
    )
    is_short = now_s - track.since_s < WHOLE_SLOT_S  # then the window may be empty, which is not idle
    load, observed = _load(window, fresh), None if is_short else observe(window, inputs)
    samples = tuple(sample for sample in track.samples if now_s - sample.at_s <= average_s)
    if observed is not None:
        relieved = _relieved(observed, inputs) if split_moves else observed
        tokens = window.prompt_tokens - window.cached_tokens + window.output_tokens
        sample = PressureSample(
            at_s=now_s,
            observed=observed,
            relieved=relieved,
            load=load,
            tokens_per_s=max(0, tokens) / window.seconds,
        )
        samples = (*samples, sample)
    missed_since_s = track.missed_since_s
    if observed is not None:
        missed_since_s = None if observed < MISSED else missed_since_s or now_s
    return replace(
        track,
        settled_s=settled_s,
        looked_s=now_s,
        missed_since_s=missed_since_s,
        load=load,
        samples=samples,
    )


def read(track: PressureTrack, average_s: float) -> PressureReading | None:
    """None: no data, or not seen for long enough."""
    samples = track.samples
    if not samples or samples[-1].at_s != track.looked_s:
        return None
    if track.looked_s - track.since_s < average_s:
        return None
    observed = _mean([sample.observed for sample in samples])
    relieved = _mean([sample.relieved for sample in samples])
    is_refuted = track.is_refuted(track.looked_s)
    return PressureReading(
        pressure=observed if is_refuted else relieved,
        latest=samples[-1].observed if is_refuted else samples[-1].relieved,
        observed=observed,
        open_per_engine=_mean([sample.load.open_requests / sample.load.engines for sample in samples]),
        engines=samples[-1].load.engines,
        tokens_per_s=_mean([sample.tokens_per_s for sample in samples]),
    )


def observe(window: PooledWindow, inputs: PolicyInputs) -> float | None:
    """Of one window; None if nothing in it says anything.

    Requests that were refused or hang have no latency: where more miss than chance explains, the SLO is missed, whatever the
    others took. Fewer than MIN_REQUESTS are no percentile: they may calm, not alarm.
    """
    slo = inputs.slo
    state = classify(window, slo)
    if state is WindowState.NO_DATA:
        return None
    if state is WindowState.IDLE:
        return 0.0
    ttft_ms = window.ttft_percentile_ms(slo.ttft_percentile)
    tpot_ms = window.tpot_percentile_ms(slo.tpot_percentile)
    if tpot_ms is None and window.open_requests and inputs.load.token_gap_ms > 0:
        tpot_ms = inputs.load.token_gap_ms  # long answers: none has ended yet
    ratios = [
        value_ms / target_ms
        for value_ms, target_ms in ((ttft_ms, slo.ttft_ms), (tpot_ms, slo.tpot_ms))
        if value_ms is not None
    ]
    is_missed = state is WindowState.BAD and window.chance_of_misses(slo) <= inputs.miss_chance_max + 1e-9
    if is_missed:
        ratios.append(MISSED)
    if not ratios:
        return None
    limit = CLAMP if window.judged + window.open_requests >= MIN_REQUESTS else UP_PRESSURE
    return min(limit, max(ratios))


def _is_another_fleet(before: int, now: int) -> bool:
    """One in SAME_FLEET_OF may come, go or be silent for a look: in a large fleet somebody always is."""
    return abs(now - before) * SAME_FLEET_OF > before


def _relieved(observed: float, inputs: PolicyInputs) -> float:
    """Only asked for where it decides something: a forecast over all splits is the dearest part of a round."""
    if (
        observed < DOWN_PRESSURE
        or not inputs.steps.is_trusted
        or inputs.load.kv_used_permille > KV_FULL_PERMILLE
    ):
        return observed
    return min(observed, least_ratio(inputs.forecaster(), inputs.splits))


def _load(window: PooledWindow, fresh: Mapping[str, EngineReport]) -> FleetLoad:
    shares = [
        report.coordinator.kv_blocks_used / report.coordinator.kv_blocks_total
        for report in fresh.values()
        if report.coordinator is not None and report.coordinator.kv_blocks_total > 0
    ]
    return FleetLoad(
        engines=window.engines,
        open_requests=window.open_requests,
        queued_requests=window.queued_requests,
        kv_used_ratio=_mean(shares) if shares else None,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
