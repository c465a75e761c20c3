"""Choose by forecast: the largest prefill cap whose TPOT is expected to meet its absolute target, decode at its largest cap.

Only if TTFT still misses at the largest prefill cap does the decode cap shrink. Disjoint splits are the same rule: the smallest
decode share that meets TPOT. Where no split meets both targets, the one with the highest expected attainment is taken, and the
message says which target is lost. Guards: an almost full KV cache turns the question round (decode first), small moves
are not made, and a split that meets both targets is left only for a much better expected attainment.
Source: design of Nexus, arXiv 2507.06608 (KV switch, hysteresis), with absolute targets instead of its relative slacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from semipd_core.latency.forecast import Forecast, Forecaster
from semipd_core.partition import Partition
from semipd_core.policies.decision import (
    Decision,
    PartitionPolicy,
    PolicyInputs,
    Reason,
    describe_window,
    hold_without_verdict,
)
from semipd_core.policies.slo_feedback import SloFeedback
from semipd_core.slo.pooled import WindowState
from semipd_core.telemetry import SloTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPredictive:
    margin: float = (
        0.9  # of a target, that a split must keep to be moved to; the present one may use all of it
    )
    kv_switch_permille: int = 700  # Nexus' KV_switch
    kv_ttft_slack: float = 1.3  # Nexus' α: where no split meets TTFT, what decode first may cost
    hysteresis_percent: int = 10  # δ: moves of both caps below this are not made while the SLO is met
    min_gain_permille: int = (
        100  # expected attainment that a move must bring where no split meets both targets …
    )
    min_room_gain_permille: int = 100  # … and where the present one is expected to meet both
    min_verdicts: int = 20  # before a forecast alone, without a missed SLO, moves a split
    fallback: PartitionPolicy = field(default_factory=SloFeedback)  # until the step model is trusted

    def decide(self, inputs: PolicyInputs) -> Decision:
        held = hold_without_verdict(inputs)
        if held is not None:
            return held
        if not inputs.steps.is_trusted:
            return self._decide_unmodelled(inputs)
        forecaster = inputs.forecaster()
        current = forecaster.forecast(inputs.current)
        if inputs.load.kv_used_permille > self.kv_switch_permille:
            return self._decode_first(
                inputs, current, [forecaster.forecast(split) for split in inputs.splits]
            )
        window = inputs.window
        if not inputs.is_bad and window.judged < self.min_verdicts:
            is_chance = inputs.window_state is WindowState.BAD
            return inputs.hold(
                Reason.TOO_FEW_SAMPLES if is_chance else Reason.SLO_MET,
                f"{describe_window(inputs)}; {self.min_verdicts} verdicts are due before a forecast alone moves a split",
            )
        return self._prefill_first(inputs, current, forecaster)

    def _decide_unmodelled(self, inputs: PolicyInputs) -> Decision:
        missing = f"no step model yet ({inputs.steps.missing()})"
        if not inputs.is_bad:
            return inputs.hold(Reason.TOO_FEW_SAMPLES, f"{missing}: {inputs.current} holds")
        decision = self.fallback.decide(inputs)
        return replace(decision, message=f"{missing}, by feedback: {decision.message}")

    def _prefill_first(self, inputs: PolicyInputs, current: Forecast, forecaster: Forecaster) -> Decision:
        slo = inputs.slo
        meets_both = current.meets_ttft(slo) and current.meets_tpot(slo)
        # What is seen of the present split counts for more than what is forecast of it.
        seen_permille = max(current.attainment_permille, inputs.window.attainment_permille or 0)
        if (
            meets_both and seen_permille + self.min_room_gain_permille > 1000
        ):  # more than any split can be expected to have
            return self._stay(inputs, current)
        forecasts = [forecaster.forecast(split) for split in inputs.splits]
        best = best_feasible(forecasts, slo, self.margin)
        if meets_both and (
            best is None or best.attainment_permille < seen_permille + self.min_room_gain_permille
        ):
            return self._stay(inputs, current)
        if best is None:
            return self._least_bad(inputs, current, forecasts)
        return self._move(inputs, current, best, _reason_to_move(inputs, current, best))

    def _stay(self, inputs: PolicyInputs, current: Forecast) -> Decision:
        return inputs.hold(
            Reason.NO_BETTER_SPLIT if inputs.is_bad else Reason.SLO_MET,
            f"{_describe(current, inputs.slo)}, both targets are expected to be met; {describe_window(inputs)}",
        )

    def _least_bad(self, inputs: PolicyInputs, current: Forecast, forecasts: Sequence[Forecast]) -> Decision:
        """No split meets both targets: the highest expected attainment, and which target it gives up."""
        best = max(forecasts, key=lambda forecast: forecast.attainment_permille)
        lost = _lost(best, inputs.slo)
        if not _gains(current, best, self.min_gain_permille):
            return inputs.hold(
                Reason.INFEASIBLE,
                f"no split meets both targets; none is better than {_describe(current, inputs.slo)}, {lost}",
            )
        decision = self._move(inputs, current, best, _reason_to_move(inputs, current, best))
        return replace(decision, message=f"{decision.message}; no split meets both targets, {lost}")

    def _decode_first(
        self, inputs: PolicyInputs, current: Forecast, forecasts: Sequence[Forecast]
    ) -> Decision:
        """The lowest TPOT, hence the fewest requests in the cache, among splits whose TTFT is still good enough."""
        least_ttft_ms = min(forecast.ttft_ms for forecast in forecasts)
        limit_ms = self.margin * inputs.slo.ttft_ms
        if least_ttft_ms > limit_ms:
            limit_ms = self.kv_ttft_slack * least_ttft_ms
        allowed = [forecast for forecast in forecasts if forecast.ttft_ms <= limit_ms]
        best = min(allowed, key=lambda forecast: (forecast.tpot_ms, forecast.ttft_ms))
        kv = f"KV cache {inputs.load.kv_used_permille / 10:.0f} % full"
        if best.tpot_ms >= current.tpot_ms:
            return inputs.hold(Reason.KV_PRESSURE, f"{kv}: no split drains it faster than {inputs.current}")
        decision = self._move(inputs, current, best, Reason.KV_PRESSURE)
        return replace(decision, message=f"{kv}: {decision.message}")

    def _move(self, inputs: PolicyInputs, current: Forecast, best: Forecast, reason: Reason) -> Decision:
        change = f"{_describe(current, inputs.slo)} -> {_describe(best, inputs.slo)}"
        if not inputs.is_bad and _distance(inputs.current, best.split) < self.hysteresis_percent:
            return inputs.hold(
                Reason.WITHIN_HYSTERESIS, f"{change} is less than {self.hysteresis_percent} points"
            )
        if best.split == inputs.current:
            return self._stay(inputs, current)
        return Decision(
            partition=best.split, reason=reason, message=f"{change}; now {describe_window(inputs)}"
        )


def best_feasible(forecasts: Sequence[Forecast], slo: SloTargets, margin: float) -> Forecast | None:
    """The widest decode cap, then the largest prefill cap, of those that keep `margin` of both targets; None if none does.

    Within one decode cap the largest prefill cap that meets TPOT has the lowest TTFT, so that it alone decides.
    """
    feasible = [
        forecast
        for forecast in forecasts
        if forecast.meets_tpot(slo, margin) and forecast.meets_ttft(slo, margin)
    ]
    if not feasible:
        return None
    if all(forecast.split.prefill_percent + forecast.split.decode_percent <= 100 for forecast in forecasts):
        return max(feasible, key=lambda forecast: forecast.split.prefill_percent)
    return max(feasible, key=lambda forecast: (forecast.split.decode_percent, forecast.split.prefill_percent))


def _gains(current: Forecast, best: Forecast, permille: int) -> bool:
    return best.attainment_permille >= current.attainment_permille + permille


def _reason_to_move(inputs: PolicyInputs, current: Forecast, best: Forecast) -> Reason:
    """The target that the move helps: missed already, or expected to be."""
    slo, window = inputs.slo, inputs.window
    if best.tpot_ms < current.tpot_ms:
        if window.misses_tpot(slo):
            return Reason.TPOT_MISSED
        return Reason.TPOT_NEAR_TARGET if current.meets_tpot(slo) else Reason.TPOT_PREDICTED_MISS
    if window.misses_ttft(slo):
        return Reason.TTFT_MISSED
    return Reason.TTFT_NEAR_TARGET if current.meets_ttft(slo) else Reason.TTFT_PREDICTED_MISS


def _lost(forecast: Forecast, slo: SloTargets) -> str:
    lost = [
        name
        for name, is_met in (("TTFT", forecast.meets_ttft(slo)), ("TPOT", forecast.meets_tpot(slo)))
        if not is_met
    ]
    given_up = " and ".join(lost) + " given up" if lost else "no margin left"
    return f"{given_up}, attainment expected {forecast.attainment_permille / 10:.0f} %"


def _distance(a: Partition, b: Partition) -> int:
    return max(abs(a.prefill_percent - b.prefill_percent), abs(a.decode_percent - b.decode_percent))


def _describe(forecast: Forecast, slo: SloTargets) -> str:
    return (
        f"{forecast.split} (TTFT {forecast.ttft_ms:.0f} of {slo.ttft_ms} ms, "
        f"TPOT {forecast.tpot_ms:.0f} of {slo.tpot_ms} ms)"
    )
