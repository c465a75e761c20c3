"""From points to costs: lone time by phase, speed by share, the price of sharing.

The fit is the one that learns from traffic (`StepModel`): points become the samples that a coordinator would have reported. So
profile and traffic can be added up, and a profile is wrong where and only where the model is.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from semipd_core.latency.curve_learning import CurveLearner
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import FIG10_TPOT, FIG10_TTFT, LatencyPoint, fit_tpot
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, ShareCurve, fit_share_curve
from semipd_core.partition import Role
from semipd_core.profile.format import CostFit, Curve, Fits, Point
from semipd_core.telemetry import StepSample

SLOWDOWN_MAX = 4.0  # of bandwidth: what a fit may say at most
ROUNDS = 4  # of the points before traffic: 8 points alone would not be trusted, and outweigh little of it
OUTLIER_FACTOR = 2.0  # a point this far from the fit is left out of the next one …
KEPT_MIN = 0.7  # … unless that would leave out more than the rest of the points
ENGINE_ID = "profile"


def fit_points(points: Sequence[Point], *, takes_turns: bool) -> tuple[StepModel, Fits | None]:
    """The step model that the points make, and its numbers; None until it is trusted.

    Where lanes take turns, speed is the share: the curve is not fitted. Elsewhere each phase has its own curve; a phase that was
    measured at too few shares has the assumed one, and goes on learning it (`learners`).
    """
    model = _fit_all(points, takes_turns=takes_turns)
    kept = [point for point in points if not is_outlier(model, point)]
    if len(points) > len(kept) >= KEPT_MIN * len(points):
        model = _fit_all(kept, takes_turns=takes_turns)
    else:
        kept = list(points)
    if not model.is_trusted:
        return model, None
    return model, Fits(
        prefill=_cost(model, kept, Role.PREFILL),
        decode=_cost(model, kept, Role.DECODE),
        outliers=[str(point.setting) for point in points if is_outlier(model, point)],
    )


def is_outlier(model: StepModel, point: Point) -> bool:
    """Whether something else than its load explains the point: a machine that was busy for a second, say.

    Chance makes steps slower; one that is too fast pulls the fit towards itself, errors being relative, and is not found.
    """
    load = point.setting.load
    if load.role is Role.PREFILL:
        expected_ms = model.prefill_ms(tokens=load.total_tokens, context_tokens=load.entries_read / load.rows)
    else:
        expected_ms = model.decode_ms(rows=load.rows, context_tokens=load.entries_read)
    ratio = model.lone_us(_sample(point, 1)) / 1000 / expected_ms if expected_ms > 0 else 1.0
    return not 1 / OUTLIER_FACTOR <= ratio <= OUTLIER_FACTOR


def _fit_all(points: Sequence[Point], *, takes_turns: bool) -> StepModel:
    model = StepModel() if takes_turns else _with_curves(points)
    return model.observe(ENGINE_ID, to_samples(points))


def _with_curves(points: Sequence[Point]) -> StepModel:
    """The curves that `points` allow, the assumed ones in place of the others."""
    measured = {role: _fit_curve(points, role) for role in (Role.PREFILL, Role.DECODE)}
    assumed = {role: ASSUMED_GPU_CURVES.of(role) for role, curve in measured.items() if curve is None}
    return StepModel(
        curve=measured[Role.PREFILL] or assumed[Role.PREFILL],
        decode_curve=measured[Role.DECODE] or assumed[Role.DECODE],
        takes_turns=False,
        learners={role: CurveLearner.starting_at(curve) for role, curve in assumed.items()},
    )


def to_samples(points: Sequence[Point]) -> list[StepSample]:
    """Each point `ROUNDS` times, interleaved, so that none fades before the others."""
    times = itertools.count(1)
    return [_sample(point, next(times)) for _ in range(ROUNDS) for point in points]


def fit_eq1(points: Sequence[Point], model: StepModel, role: Role) -> tuple[float, float] | None:
    """semi-PD's Eq. 1 for one phase: (scale, offset) with time(share) / time(1) = scale / share + offset.

    A share is the effective one, as the loops use it. None where the points do not allow a curve.
    """
    curve = model.curve_of(role)
    typical = _most_common_load(points, role)
    observed = [
        LatencyPoint(share_percent=100 * curve.lone_speed(_own(point)), latency_ms=point.wall_us / 1000)
        for point in points
        if point.setting.load == typical and point.setting.beside is None
    ]
    fit = fit_tpot(observed)
    if fit is None:
        return None
    whole_ms = fit.scale / 100 + fit.offset_ms
    return fit.scale / 100 / whole_ms, fit.offset_ms / whole_ms


def _cost(model: StepModel, points: Sequence[Point], role: Role) -> CostFit:
    fit = model.prefill if role is Role.PREFILL else model.decode
    base_us, per_token_us, per_entry_us = fit.coefficients()
    curve = model.curve_of(role)
    scale, offset = fit_eq1(points, model, role) or (FIG10_TTFT if role is Role.PREFILL else FIG10_TPOT)
    return CostFit(
        base_us=base_us,
        per_token_us=per_token_us,
        per_entry_us=per_entry_us,
        relative_error=fit.relative_error(),
        curve=Curve(
            saturation_percent=curve.saturation_percent,
            slope_beyond=curve.slope_beyond,
            bandwidth_slowdown=curve.bandwidth_slowdown,
        ),
        eq1_scale=scale,
        eq1_offset=offset,
    )


def _fit_curve(points: Sequence[Point], role: Role) -> ShareCurve | None:
    """From the lone points of one load at several shares; None where they are too few."""
    typical = _most_common_load(points, role)
    lone = [
        (float(_own(point)), float(point.wall_us))
        for point in points
        if point.setting.load == typical and point.setting.beside is None
    ]
    curve = fit_share_curve(lone)
    if curve is None:
        return None
    return replace(curve, bandwidth_slowdown=_slowdown(points, role, curve))


def _slowdown(points: Sequence[Point], role: Role, curve: ShareCurve) -> float:
    """What the lane beside costs where the caps leave each its own share: the median over such points, else over all."""
    disjoint: list[float] = []
    overlapping: list[float] = []
    for point in points:
        lone_us = _lone_wall_us(points, point.setting.load)
        if point.setting.load.role is not role or point.setting.beside is None or lone_us is None:
            continue
        own, other = _own(point), _other(point)
        expected_us = lone_us / curve.contended_speed(own, other)
        extra = (point.wall_us / expected_us - 1) * 1000 / max(1, point.contended_permille)
        (disjoint if own + other <= 100 else overlapping).append(extra)
    found = disjoint or overlapping
    return min(max(statistics.median(found), 0.0), SLOWDOWN_MAX) if found else 0.0


def _lone_wall_us(points: Iterable[Point], load: object) -> int | None:
    """Of the load alone on the whole device."""
    return next(
        (
            point.wall_us
            for point in points
            if point.setting.load == load and point.setting.beside is None and _own(point) == 100
        ),
        None,
    )


def _most_common_load(points: Iterable[Point], role: Role) -> object:
    """The load that was measured at the most shares."""
    loads = [p.setting.load for p in points if p.setting.load.role is role and p.setting.beside is None]
    return max(loads, key=loads.count) if loads else None


def _own(point: Point) -> int:
    return point.setting.caps.percent(point.setting.load.role)


def _other(point: Point) -> int:
    is_prefill = point.setting.load.role is Role.PREFILL
    return point.setting.caps.percent(Role.DECODE if is_prefill else Role.PREFILL)


def _sample(point: Point, at_ns: int) -> StepSample:
    load = point.setting.load
    return StepSample(
        role=load.role,
        at_ns=at_ns,
        rows=load.rows,
        tokens=load.total_tokens,
        context_tokens=load.entries_read,
        wall_us=point.wall_us,
        compute_us=point.compute_us,
        prefill_percent=point.setting.prefill_percent,
        decode_percent=point.setting.decode_percent,
        contended_permille=point.contended_permille,
    )
