"""What one step costs, learned from the steps that lanes report; needs no profile.

Lone time of a step is linear in its features: prefill in (1, tokens, tokens · context per row), decode in (1, rows, context
tokens). Shares and the other lane divide a lane's speed (`ShareCurve`); the memory bandwidth that they contend for is in the
observed speed. Where lanes take turns, a step's lone time is what it spent inside turns.
Source: Nexus, arXiv 2507.06608, cost model; features as in MuxWise, arXiv 2504.14489.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from semipd_core.latency.least_squares import LinearFit
from semipd_core.latency.share_curve import TURNS, ShareCurve
from semipd_core.partition import Role
from semipd_core.telemetry import StepSample

NUM_FEATURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Step costs of one kind of engine. Values are lone milliseconds: alone on the whole device."""

    curve: ShareCurve = TURNS
    takes_turns: bool = True  # `compute_us` of a sample is lone time; else wall time · speed is
    prefill: LinearFit = field(default_factory=lambda: LinearFit.empty(NUM_FEATURES))
    decode: LinearFit = field(default_factory=lambda: LinearFit.empty(NUM_FEATURES))
    seen_ns: Mapping[tuple[str, Role], int] = field(default_factory=dict)  # newest sample counted

    @property
    def is_trusted(self) -> bool:
        """Whether both phases have enough samples that agree."""
        return self.prefill.is_trusted and self.decode.is_trusted

    def missing(self) -> str:
        """Why the model is not trusted, for a decision's message."""
        return (
            f"prefill: {self.prefill.weight:.0f} steps, error {self.prefill.relative_error():.0%}; "
            f"decode: {self.decode.weight:.0f} steps, error {self.decode.relative_error():.0%}"
        )

    def observe(self, engine_id: str, samples: Iterable[StepSample]) -> StepModel:
        """Learn from the samples of `engine_id` that have not been seen; reports overlap."""
        model = self
        ordered = sorted(samples, key=lambda sample: sample.at_ns)
        for role in (Role.PREFILL, Role.DECODE):
            of_role = [sample for sample in ordered if sample.role is role]
            if of_role:
                model = model._observe_role((engine_id, role), of_role)
        return model

    def prefill_ms(self, *, tokens: float, context_tokens: float) -> float:
        """One chunk of `tokens` that reads `context_tokens` KV entries."""
        c = self.prefill.coefficients()
        return (c[0] + c[1] * tokens + c[2] * tokens * context_tokens) / 1000

    def decode_ms(self, *, rows: float, context_tokens: float) -> float:
        """One token for each of `rows` sequences that have `context_tokens` in the cache together."""
        c = self.decode.coefficients()
        return (c[0] + c[1] * rows + c[2] * context_tokens) / 1000

    def lone_us(self, sample: StepSample) -> float:
        """What `sample` would have taken alone on the whole device."""
        if self.takes_turns:
            return sample.compute_us
        return sample.wall_us * sample_speed(self.curve, sample)

    def _observe_role(self, key: tuple[str, Role], samples: list[StepSample]) -> StepModel:
        seen_ns = self.seen_ns.get(key, 0)
        if samples[-1].at_ns < seen_ns:  # the machine was started anew, and its clock with it
            seen_ns = 0
        fit = self.prefill if key[1] is Role.PREFILL else self.decode
        points = (
            (_features(sample), self.lone_us(sample))
            for sample in samples
            if sample.at_ns > seen_ns and sample.rows > 0
        )
        fit = fit.extended(point for point in points if point[1] > 0)
        seen = {**self.seen_ns, key: samples[-1].at_ns}
        return (
            replace(self, prefill=fit, seen_ns=seen)
            if key[1] is Role.PREFILL
            else replace(self, decode=fit, seen_ns=seen)
        )


def sample_speed(curve: ShareCurve, sample: StepSample) -> float:
    """The speed that `curve` expects for the conditions of `sample`."""
    caps = (sample.prefill_percent, sample.decode_percent)
    own, other = caps if sample.role is Role.PREFILL else caps[::-1]
    contended, lone = _speeds(curve, own, other)
    contention = sample.contended_permille / 1000
    return contention * contended + (1 - contention) * lone


@lru_cache(maxsize=4096)  # a report's samples were taken at one pair of caps, or two
def _speeds(curve: ShareCurve, own: int, other: int) -> tuple[float, float]:
    return curve.contended_speed(own, other), curve.lone_speed(own)


def _features(sample: StepSample) -> tuple[float, float, float]:
    if sample.role is Role.PREFILL:
        return (1.0, sample.tokens, sample.tokens * sample.context_tokens / sample.rows)
    return (1.0, sample.rows, sample.context_tokens)
