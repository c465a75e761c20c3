"""What one step costs, learned from the steps that lanes report; needs no profile.

Lone time of a step is linear in its features: prefill in (1, tokens, tokens · context per row), decode in (1, rows, context
tokens). Shares and the other lane divide a lane's speed (`ShareCurve`); the memory bandwidth that they contend for is in the
observed speed. Where lanes take turns, a step's lone time is what it spent inside turns.
Source: Nexus, arXiv 2507.06608, cost model; features as in MuxWise, arXiv 2504.14489.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from semipd_core.latency.curve_learning import LEVELS, Condition, CurveLearner
from semipd_core.latency.least_squares import LinearFit
from semipd_core.latency.share_curve import TURNS, RoleCurves, ShareCurve
from semipd_core.partition import Role
from semipd_core.telemetry import StepSample

NUM_FEATURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Step costs of one kind of engine. Values are lone milliseconds: alone on the whole device."""

    curve: ShareCurve = TURNS
    decode_curve: ShareCurve | None = None  # None: as `curve`
    takes_turns: bool = True  # `compute_us` of a sample is lone time; else wall time · speed is
    prefill: LinearFit = field(default_factory=lambda: LinearFit.empty(NUM_FEATURES))
    decode: LinearFit = field(default_factory=lambda: LinearFit.empty(NUM_FEATURES))
    seen_ns: Mapping[tuple[str, Role], int] = field(default_factory=dict)  # newest sample counted
    learners: Mapping[Role, CurveLearner] = field(default_factory=dict)  # of the curves that are assumed

    @classmethod
    def learning(cls, assumed: RoleCurves) -> StepModel:
        """For lanes that run side by side, whose curves nobody has measured yet."""
        return cls(
            curve=assumed.prefill,
            decode_curve=assumed.decode,
            takes_turns=False,
            learners={
                Role.PREFILL: CurveLearner.starting_at(assumed.prefill),
                Role.DECODE: CurveLearner.starting_at(assumed.decode),
            },
        )

    def curve_of(self, role: Role) -> ShareCurve:
        return self.decode_curve or self.curve if role is Role.DECODE else self.curve

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

    def observe(self, engine_id: str, samples: Iterable[StepSample], most: int | None = None) -> StepModel:
        """As `observe_all`, of one engine."""
        return self.observe_all({engine_id: samples}, most)

    def observe_all(self, samples: Mapping[str, Iterable[StepSample]], most: int | None = None) -> StepModel:
        """Learn from the samples of each engine that have not been seen; reports overlap.

        `most`: of each engine and role, taken evenly from all.
        """
        ordered = {
            engine_id: sorted(each, key=lambda sample: sample.at_ns) for engine_id, each in samples.items()
        }
        model = self
        for role in (Role.PREFILL, Role.DECODE):
            fresh, seen = model._unseen(role, ordered, most)
            if seen:
                model = replace(model._learned(role, fresh), seen_ns={**model.seen_ns, **seen})
        return model

    def of_engines(self, is_there: Callable[[str], bool]) -> StepModel:
        """Without the memory of engines that are gone: which of their samples were counted."""
        seen = {key: at_ns for key, at_ns in self.seen_ns.items() if is_there(key[0])}
        return self if len(seen) == len(self.seen_ns) else replace(self, seen_ns=seen)

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
        return sample.wall_us * sample_speed(self.curve_of(sample.role), sample)

    def _unseen(
        self, role: Role, ordered: Mapping[str, list[StepSample]], most: int | None
    ) -> tuple[list[StepSample], dict[tuple[str, Role], int]]:
        """Samples to learn from, and the newest of each engine that has any."""
        fresh: list[StepSample] = []
        newest: dict[tuple[str, Role], int] = {}
        for engine_id, samples in ordered.items():
            of_role = [sample for sample in samples if sample.role is role]
            if not of_role:
                continue
            key = (engine_id, role)
            seen_ns, newest[key] = self.seen_ns.get(key, 0), of_role[-1].at_ns
            if newest[key] < seen_ns:  # the machine was started anew, and its clock with it
                seen_ns = 0
            fresh += _evenly(
                [sample for sample in of_role if sample.at_ns > seen_ns and sample.rows > 0], most
            )
        return fresh, newest

    def _learned(self, role: Role, fresh: list[StepSample]) -> StepModel:
        fit = self.prefill if role is Role.PREFILL else self.decode
        points = ((_features(sample), self.lone_us(sample)) for sample in fresh)
        fit = fit.extended(point for point in points if point[1] > 0)
        model = replace(self, prefill=fit) if role is Role.PREFILL else replace(self, decode=fit)
        return with_learned_curve(model, role, fresh) if role in self.learners else model


def with_learned_curve(model: StepModel, role: Role, samples: Iterable[StepSample]) -> StepModel:
    """A curve that turns out otherwise takes the costs with it: they were wall times at the speeds of the old one."""
    learner = model.learners[role].extended(
        (_condition(sample), _features(sample), float(sample.wall_us))
        for sample in samples
        if sample.wall_us > 0
    )
    learner = learner.fitted() if learner.is_due else learner
    model = replace(model, learners={**model.learners, role: learner})
    if learner.curve == model.curve_of(role):
        return model
    costs = learner.costs(learner.curve)
    if role is Role.PREFILL:
        return replace(model, curve=learner.curve, decode_curve=model.curve_of(Role.DECODE), prefill=costs)
    return replace(model, decode_curve=learner.curve, decode=costs)


def sample_speed(curve: ShareCurve, sample: StepSample) -> float:
    """The speed that `curve` expects for the conditions of `sample`."""
    caps = (sample.prefill_percent, sample.decode_percent)
    own, other = caps if sample.role is Role.PREFILL else caps[::-1]
    contended, lone = _speeds(curve, own, other)
    contention = sample.contended_permille / 1000
    return contention * contended + (1 - contention) * lone


def _evenly(samples: list[StepSample], most: int | None) -> list[StepSample]:
    """`most` of them, the last among them."""
    count = len(samples)
    if most is None or count <= most:
        return samples
    return [samples[(number + 1) * count // most - 1] for number in range(most)]


def _condition(sample: StepSample) -> Condition:
    caps = (sample.prefill_percent, sample.decode_percent)
    own, other = caps if sample.role is Role.PREFILL else caps[::-1]
    return Condition(own=own, other=other, level=round(sample.contended_permille * LEVELS / 1000))


@lru_cache(maxsize=4096)  # a report's samples were taken at one pair of caps, or two
def _speeds(curve: ShareCurve, own: int, other: int) -> tuple[float, float]:
    return curve.contended_speed(own, other), curve.lone_speed(own)


def _features(sample: StepSample) -> tuple[float, float, float]:
    if sample.role is Role.PREFILL:
        return (1.0, sample.tokens, sample.tokens * sample.context_tokens / sample.rows)
    return (1.0, sample.rows, sample.context_tokens)
