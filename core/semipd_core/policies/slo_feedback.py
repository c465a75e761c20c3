"""semi-PD's Algorithm 1, repaired: react to a missed percentile by raising that lane's share.

Repairs: a window is due by time or by count, so that TTFT trouble alone triggers too; TPOT is also taken from the steps of open
requests, which no verdict shows yet; the raise stops at the first step that is predicted to suffice, and counts its steps; shares
are effective ones, not x/(x + y), so that (100, 100) and (50, 50) differ; a lane at its limit makes the other one shrink; both
targets missed is a case of its own (listing, text and code of the paper differ there): both caps open up, then the
relatively worse one is helped, and nothing moves where they are equally bad.
Source: semi-PD, arXiv 2504.19867, section 5 and Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.partition import Partition, Role
from semipd_core.policies.decision import (
    Decision,
    PolicyInputs,
    Reason,
    describe_window,
    hold_without_verdict,
)
from semipd_core.slo.pooled import WindowState


@dataclass(frozen=True, slots=True, kw_only=True)
class SloFeedback:
    step_percent: int = 10  # step_size
    max_steps: int = 3  # max_step
    min_window_s: float = 8.0  # a window is due after this long …
    min_window_requests: int = 40  # … or this many verdicts
    dominance: float = 1.25  # both missed: the worse one must miss this much more to be helped

    def decide(self, inputs: PolicyInputs) -> Decision:
        held = hold_without_verdict(inputs) or self._hold_until_due(inputs)
        if held is not None:
            return held
        misses_ttft, misses_tpot = inputs.window.misses_ttft(inputs.slo), _misses_tpot(inputs)
        seen = describe_window(inputs)
        if misses_ttft and misses_tpot:
            return self._relieve_worse(inputs, seen)
        if misses_ttft:
            return self._help(inputs, Role.PREFILL, Reason.TTFT_MISSED, seen)
        if misses_tpot:
            return self._help(inputs, Role.DECODE, Reason.TPOT_MISSED, seen)
        return inputs.hold(Reason.SLO_MET, f"{seen}: {inputs.current} holds")

    def _hold_until_due(self, inputs: PolicyInputs) -> Decision | None:
        window = inputs.window
        if inputs.window_state is WindowState.PENDING and not _misses_tpot(inputs):
            return inputs.hold(
                Reason.NOT_JUDGED_YET, f"{window.open_requests} requests open, none judged yet"
            )
        if window.seconds < self.min_window_s and window.judged < self.min_window_requests:
            return inputs.hold(
                Reason.WINDOW_TOO_SHORT,
                f"{window.seconds:.0f} s and {window.judged} verdicts, "
                f"due at {self.min_window_s:.0f} s or {self.min_window_requests}",
            )
        if inputs.window_state is WindowState.BAD and not inputs.is_bad and not _gap_misses(inputs):
            return inputs.hold(
                Reason.TOO_FEW_SAMPLES,
                f"{describe_window(inputs)}: so many misses are chance {window.chance_of_misses(inputs.slo):.0%} of the time",
            )
        return None

    def _relieve_worse(self, inputs: PolicyInputs, seen: str) -> Decision:
        widest = Partition(
            prefill_percent=max(split.prefill_percent for split in inputs.splits),
            decode_percent=max(split.decode_percent for split in inputs.splits),
        )
        current = inputs.current
        fits_beside = current.prefill_percent + current.decode_percent < 100
        if fits_beside and widest in inputs.splits and widest != current:
            return Decision(
                partition=widest, reason=Reason.BOTH_MISSED, message=f"{seen}: both caps open to {widest}"
            )
        ttft, tpot = _miss_ratios(inputs)
        if max(ttft, tpot) < self.dominance * min(ttft, tpot):
            return inputs.hold(
                Reason.BOTH_MISSED, f"{seen}: both miss alike, more capacity is needed, {current} holds"
            )
        return self._help(inputs, Role.PREFILL if ttft > tpot else Role.DECODE, Reason.BOTH_MISSED, seen)

    def _help(self, inputs: PolicyInputs, role: Role, reason: Reason, seen: str) -> Decision:
        """Raise the role's cap, or lower the other's once it is at its limit, by the fewest steps predicted to suffice."""
        path = self._path(inputs, role)
        if not path:
            return inputs.hold(
                reason, f"{seen}: {inputs.current} already gives {role} all that the bounds allow"
            )
        predicted = [(split, _predict_ms(inputs, role, split)) for split in path]
        target_ms = inputs.slo.ttft_ms if role is Role.PREFILL else inputs.slo.tpot_ms
        split, latency_ms = next(
            ((split, latency_ms) for split, latency_ms in predicted if latency_ms <= target_ms), predicted[-1]
        )
        name = "TTFT" if role is Role.PREFILL else "TPOT"
        return Decision(
            partition=split,
            reason=reason,
            message=f"{seen}: {inputs.current} -> {split}, {name} expected {latency_ms:.0f} ms",
        )

    def _path(self, inputs: PolicyInputs, role: Role) -> list[Partition]:
        """The next legal splits in favour of `role`, one per step: along its own cap first, then along the other's."""
        current = inputs.current
        favouring = sorted(
            (split for split in inputs.splits if _favour(split, role) > _favour(current, role)),
            key=lambda split: _favour(split, role),
        )
        own = [split for split in favouring if _other(split, role) == _other(current, role)]
        other = [split for split in favouring if split.percent(role) == current.percent(role)]
        if own:
            return self._steps(own, [abs(split.percent(role) - current.percent(role)) for split in own])
        if other:
            return self._steps(other, [abs(_other(split, role) - _other(current, role)) for split in other])
        return favouring[: self.max_steps]

    def _steps(self, splits: list[Partition], distances: list[int]) -> list[Partition]:
        """Of `splits`, nearest first, the farthest within each of 1..max_steps steps; the nearest where it is farther."""
        chosen = []
        for step in range(1, self.max_steps + 1):
            within = [
                split
                for split, distance in zip(splits, distances, strict=True)
                if distance <= step * self.step_percent
            ]
            chosen.append(within[-1] if within else splits[0])
        return list(dict.fromkeys(chosen))


def _other(split: Partition, role: Role) -> int:
    return split.percent(Role.DECODE if role is Role.PREFILL else Role.PREFILL)


def _favour(split: Partition, role: Role) -> float:
    """How much `split` favours `role`: larger own cap, then smaller other cap."""
    return split.percent(role) - _other(split, role)


def _misses_tpot(inputs: PolicyInputs) -> bool:
    """By the verdicts, or by the steps that open requests go through now."""
    return inputs.window.misses_tpot(inputs.slo) or _gap_misses(inputs)


def _gap_misses(inputs: PolicyInputs) -> bool:
    return inputs.load.token_gap_ms > inputs.slo.tpot_ms


def _miss_ratios(inputs: PolicyInputs) -> tuple[float, float]:
    """TTFT and TPOT over their targets, at least 1: an open request's miss has no value yet."""
    slo, window = inputs.slo, inputs.window
    ttft = (window.ttft_percentile_ms(slo.ttft_percentile) or 0.0) / slo.ttft_ms
    judged_tpot_ms = window.tpot_percentile_ms(slo.tpot_percentile) or 0.0
    tpot = max(judged_tpot_ms, inputs.load.token_gap_ms) / slo.tpot_ms
    return max(ttft, 1.0), max(tpot, 1.0)


def _predict_ms(inputs: PolicyInputs, role: Role, split: Partition) -> float:
    """Eq. 4 where it is fitted, else Eq. 1, from the window's percentile (at least the target, which is missed)."""
    ttft_ratio, tpot_ratio = _miss_ratios(inputs)
    at_percent, to_percent = (_effective_percent(inputs, place, role) for place in (inputs.current, split))
    if role is Role.PREFILL:
        observed_ms = ttft_ratio * inputs.slo.ttft_ms
        return inputs.curves.predict_ttft_ms(to_percent, observed_ms=observed_ms, observed_percent=at_percent)
    observed_ms = tpot_ratio * inputs.slo.tpot_ms
    return inputs.curves.predict_tpot_ms(to_percent, observed_ms=observed_ms, observed_percent=at_percent)


def _effective_percent(inputs: PolicyInputs, split: Partition, role: Role) -> float:
    """The share that `role` has of the device while both lanes are busy, in percent."""
    return 100 * inputs.steps.curve_of(role).contended_speed(split.percent(role), _other(split, role))
