"""Which split for the steps at hand? Pure: what both lanes are about to compute in, a split with its reason out.

Prefill first: the fastest prefill whose decode step keeps its limit. Decode first, once the KV cache is almost full: the fastest
decode whose prefill chunk keeps its limit. A limit is Nexus' slack over the time alone on the whole device, or the time that the
SLO leaves where that is more: a relative slack alone gives decode more than its users can tell.
Nexus searches by steps of one percent without a floor; here the legal splits are few, so each is asked, and where none keeps the
limit the one that comes closest is taken.
Hysteresis is in time gained, for a share's last points may be worth much (turns) or nothing (saturated SMs); Nexus' δ is in
shares, and its value is not stated.
Source: Nexus, arXiv 2507.06608, objective and KV switch; α, β, KV_switch are its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.latency.share_curve import RoleCurves
from semipd_core.partition import Partition

NEXUS_ALPHA = 1.3  # slack of a prefill chunk over its time alone
NEXUS_BETA = 1.1  # slack of a decode step
NEXUS_KV_SWITCH_PERMILLE = 700
MIN_GAIN_PERCENT = 5  # of the target's time, for which a split that keeps its limit is left


class StepReason(StrEnum):
    ONE_SPLIT = "OneSplit"  # the band leaves no choice
    IDLE = "Idle"
    PREFILL_ALONE = "PrefillAlone"  # nothing decodes: prefill has the largest share
    DECODE_ALONE = "DecodeAlone"
    NOT_MODELLED = "NotModelled"  # too few steps seen: the wish's target
    PREFILL_FIRST = "PrefillFirst"
    DECODE_FIRST = "DecodeFirst"  # the KV cache is almost full
    INFEASIBLE = "Infeasible"  # no split keeps the limit: the one that comes closest
    WITHIN_HYSTERESIS = "WithinHysteresis"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """The steps in flight or about to start. Lone times: alone on the whole device, ms; None: not known."""

    has_prefill: bool
    has_decode: bool
    prefill_lone_ms: float | None
    decode_lone_ms: float | None
    kv_used_permille: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChoice:
    split: Partition
    reason: StepReason
    prefill_ms: float | None = None  # predicted at `split`
    decode_ms: float | None = None

    @property
    def message(self) -> str:
        if self.prefill_ms is None or self.decode_ms is None:
            return f"{self.split}: {self.reason}"
        return (
            f"{self.split}: {self.reason}, prefill {self.prefill_ms:.1f} ms, decode {self.decode_ms:.1f} ms"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """Limits in ms of one step, from the SLO; 0: Nexus' relative slack alone."""

    prefill_limit_ms: float = 0.0
    decode_limit_ms: float = 0.0
    alpha: float = NEXUS_ALPHA
    beta: float = NEXUS_BETA
    kv_switch_permille: float = NEXUS_KV_SWITCH_PERMILLE
    min_gain_percent: float = MIN_GAIN_PERCENT

    def choose(
        self,
        load: StepLoad,
        splits: Sequence[Partition],
        current: Partition,
        target: Partition,
        curves: RoleCurves,
    ) -> StepChoice:
        """One of `splits`; they are legal, inside the band, and never empty. `target` holds where nothing is known."""
        assert splits, "no legal split"
        if len(splits) == 1:
            return StepChoice(split=splits[0], reason=StepReason.ONE_SPLIT)
        if not load.has_prefill and not load.has_decode:
            return StepChoice(split=current, reason=StepReason.IDLE)
        if not load.has_decode:
            return StepChoice(split=_most_prefill(splits), reason=StepReason.PREFILL_ALONE)
        if not load.has_prefill:
            return StepChoice(split=_most_decode(splits), reason=StepReason.DECODE_ALONE)
        if not load.prefill_lone_ms or not load.decode_lone_ms:
            return StepChoice(split=target, reason=StepReason.NOT_MODELLED)
        forecasts = [_forecast(split, load.prefill_lone_ms, load.decode_lone_ms, curves) for split in splits]
        return self._choose_among(forecasts, load, current)

    def _choose_among(self, forecasts: Sequence[_Forecast], load: StepLoad, current: Partition) -> StepChoice:
        assert load.prefill_lone_ms is not None
        assert load.decode_lone_ms is not None
        decode_first = load.kv_used_permille > self.kv_switch_permille
        if decode_first:
            limit_ms = max(self.alpha * load.prefill_lone_ms, self.prefill_limit_ms)
        else:
            limit_ms = max(self.beta * load.decode_lone_ms, self.decode_limit_ms)
        kept = [each for each in forecasts if each.guarded_ms(decode_first) <= limit_ms]
        if not kept:
            best = min(forecasts, key=lambda each: each.guarded_ms(decode_first))
            return best.chosen(StepReason.INFEASIBLE)
        best = min(kept, key=lambda each: (each.target_ms(decode_first), each.guarded_ms(decode_first)))
        held = next((each for each in kept if each.split == current), None)
        if held is not None and _gain_percent(held, best, decode_first=decode_first) < self.min_gain_percent:
            return held.chosen(StepReason.WITHIN_HYSTERESIS)
        return best.chosen(StepReason.DECODE_FIRST if decode_first else StepReason.PREFILL_FIRST)


@dataclass(frozen=True, slots=True)
class _Forecast:
    split: Partition
    prefill_ms: float
    decode_ms: float

    def target_ms(self, decode_first: bool) -> float:
        return self.decode_ms if decode_first else self.prefill_ms

    def guarded_ms(self, decode_first: bool) -> float:
        return self.prefill_ms if decode_first else self.decode_ms

    def chosen(self, reason: StepReason) -> StepChoice:
        return StepChoice(
            split=self.split, reason=reason, prefill_ms=self.prefill_ms, decode_ms=self.decode_ms
        )


def _forecast(
    split: Partition, prefill_lone_ms: float, decode_lone_ms: float, curves: RoleCurves
) -> _Forecast:
    prefill_speed = curves.prefill.contended_speed(split.prefill_percent, split.decode_percent)
    decode_speed = curves.decode.contended_speed(split.decode_percent, split.prefill_percent)
    return _Forecast(split, prefill_lone_ms / prefill_speed, decode_lone_ms / decode_speed)


def _most_prefill(splits: Sequence[Partition]) -> Partition:
    return max(splits, key=lambda split: (split.prefill_percent, -split.decode_percent))


def _most_decode(splits: Sequence[Partition]) -> Partition:
    return max(splits, key=lambda split: (split.decode_percent, -split.prefill_percent))


def _gain_percent(held: _Forecast, best: _Forecast, *, decode_first: bool) -> float:
    held_ms = held.target_ms(decode_first)
    return 100 * (held_ms - best.target_ms(decode_first)) / held_ms
