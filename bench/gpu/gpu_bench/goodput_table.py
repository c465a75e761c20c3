"""What the runs say, mode by mode, and what they do not say. Pure.

A goodput is given only where 60 s runs stand on both sides of the crossing. Else the entry tells what there is: a bound, a
bracket by short runs, a refusal, or that nothing was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_bench.crossing import Attained, bootstrap, find_crossing
from gpu_bench.goodput_plan import (
    LONG_S,
    MODES,
    SCENES,
    SHORT_S,
    STAGES,
    STATIC,
    UNIFIED,
    Row,
    Stage,
    curve,
    is_refused,
    tried,
    winners,
)
from gpu_bench.rate_search import rate_of

DYNAMIC = ("dynamic MPS", "dynamic GreenContext")
LONE_STATIC = tuple(stage for stage in STAGES if stage.name in ("MPS (100, 100)", "MPS (80, 100)"))
TARGETS: tuple[tuple[str, tuple[Stage, ...], float], ...] = (
    (UNIFIED.name, (UNIFIED,), 1.2),
    ("MPS (100, 100)", LONE_STATIC[:1], 1.1),
    (STATIC.name, (*LONE_STATIC, STATIC), 0.97),
)


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """One entry for every mode of the plan, measured or not; then the moving splits against their targets."""
    modes = [_describe(rows, slo, workload, mode) for slo, workload in SCENES for mode in MODES]
    return {"modes": modes, "targets": _compare(rows, modes), "spentSeconds": round(spent_s(rows), 1)}


def spent_s(rows: Sequence[Row]) -> float:
    return float(sum(row.get("spentSeconds", 0.0) for row in rows))


def _describe(rows: Sequence[Row], slo: str, workload: str, mode: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"slo": slo, "workload": workload, "mode": mode, "goodputPerS": None}
    short, long = (curve(rows, slo, workload, mode, seconds) for seconds in (SHORT_S, LONG_S))
    entry |= {"runs": len(long), "shortRuns": len(short)}
    seen = tried(rows, slo, workload, mode)
    if not short and not long:
        refused = is_refused(rows, mode)
        return entry | {"state": "refused" if refused else "not measured"}
    if not long:
        return entry | {"state": "short runs only", **_bracket(seen.keeps_at, seen.loses_at)}
    points = [
        Attained(rate_per_s=row["ratePerS"], attained=row["attained"][slo], requests=row["requests"])
        for row in long
    ]
    crossing = find_crossing(points)
    if crossing.rate_per_s is None:
        return entry | {"state": "below the rates measured", "belowPerS": min(p.rate_per_s for p in points)}
    if crossing.is_open:
        return entry | {"state": "at least", "atLeastPerS": crossing.rate_per_s}
    interval = bootstrap(points)
    return entry | {
        "state": "measured" if seen.is_decided() else "measured coarsely",
        "goodputPerS": crossing.rate_per_s,
        "low95PerS": interval.low_per_s,
        "high95PerS": interval.high_per_s,
    }


def _bracket(keeps_at: int | None, loses_at: int | None) -> dict[str, float | None]:
    return {
        "keepsPerS": None if keeps_at is None else rate_of(keeps_at),
        "losesPerS": None if loses_at is None else rate_of(loses_at),
    }


def _compare(rows: Sequence[Row], modes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {(each["slo"], each["workload"], each["mode"]): each["goodputPerS"] for each in modes}
    decided = {key for key, each in zip(by_name, modes, strict=True) if each["state"] == "measured"}
    found = []
    for slo, workload in SCENES:
        for name, stages, target in TARGETS:
            names = winners(rows, slo, workload, stages)
            measured = {
                mode.name: goodput
                for stage in stages
                for mode in stage.modes
                if (goodput := by_name[slo, workload, mode.name]) is not None
            }
            is_known = bool(names) and all((slo, workload, name) in decided for name in names or [])
            best = max(measured, key=lambda mode: measured[mode], default=None)
            found += [
                {"slo": slo, "workload": workload, "mode": dynamic, "against": name, "best": best}
                | _judge(
                    by_name[slo, workload, dynamic],
                    measured.get(best or ""),
                    target,
                    is_known=is_known and (slo, workload, dynamic) in decided,
                )
                for dynamic in DYNAMIC
            ]
    return found


def _judge(own: float | None, best: float | None, target: float, *, is_known: bool) -> dict[str, Any]:
    """`ratio` is None where either side was not measured; `meets` too while it, or what won the sweep, is not decided."""
    ratio = None if own is None or best is None else own / best
    return {
        "target": target,
        "ratio": ratio,
        "meets": ratio >= target if ratio is not None and is_known else None,
    }
