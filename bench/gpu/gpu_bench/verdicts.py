"""What the requests of one run say: who attained an SLO, by the client's clock, and whether the client was in time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semipd_bench.outcome import Outcome, percentiles
from semipd_core.telemetry import SloTargets

LATE_MAX_MS = 50.0  # of the client, p99: beyond it the client is what was measured


def describe(
    outcomes: list[Outcome], num_requests: int, slos: Mapping[str, SloTargets], cut_s: float
) -> dict[str, Any]:
    """`attained` by SLO, of all requests that were due, sent or not; `uncounted` where the client was late itself.

    `cut_s`: when what was open was cut off. TTFT counts from when a request was due.
    """
    judged = [(due_ttft_ms(o), tpot_so_far_ms(o, cut_s)) for o in outcomes]
    ttft = percentiles([ttft_ms for ttft_ms, _ in judged if ttft_ms is not None])
    tpot = percentiles([tpot_ms for _, tpot_ms in judged if tpot_ms is not None])
    late = percentiles([(o.sent_s - o.planned_s) * 1e3 for o in outcomes])
    found: dict[str, Any] = {
        "requests": num_requests,
        "sent": len(outcomes),
        "attained": {name: sum(attains(each, slo, cut_s) for each in outcomes) for name, slo in slos.items()},
        "failed": sum(not o.is_complete and not o.is_cancelled for o in outcomes),
        "cut": sum(o.is_cancelled for o in outcomes),
        "ttftP90Ms": None if ttft is None else ttft.p90,
        "tpotP90Ms": None if tpot is None else tpot.p90,
        "lateP99Ms": None if late is None else late.p99,
        "verdicts": [[o.index, *of, o.error] for o, of in zip(outcomes, judged, strict=True)],
    }
    if late is not None and late.p99 > LATE_MAX_MS:
        found |= {"uncounted": f"the client sent {late.p99:.0f} ms late (p99), allowed: {LATE_MAX_MS:.0f} ms"}
    return found


def attains(outcome: Outcome, slo: SloTargets, cut_s: float) -> bool:
    """Whoever has no first token by the end of the drain, which is longer than any TTFT target, has missed."""
    ttft_ms, tpot_ms = due_ttft_ms(outcome), tpot_so_far_ms(outcome, cut_s)
    if ttft_ms is None or not (outcome.is_complete or outcome.is_cancelled):
        return False
    return ttft_ms <= slo.ttft_ms and (tpot_ms is None or tpot_ms <= slo.tpot_ms)


def due_ttft_ms(outcome: Outcome) -> float | None:
    """From when the request was due: a client that sends late must not look like an engine that answers soon."""
    return (outcome.token_s[0] - outcome.planned_s) * 1e3 if outcome.token_s else None


def tpot_so_far_ms(outcome: Outcome, cut_s: float) -> float | None:
    """Of a request cut off at `cut_s`: at least the time since its first token over its tokens, as the next came later still."""
    tpot_ms, tokens = outcome.tpot_ms, outcome.output_tokens
    if not outcome.is_cancelled or not outcome.token_s or tokens >= outcome.wanted_tokens:
        return tpot_ms
    return max(tpot_ms or 0.0, (cut_s - outcome.token_s[0]) * 1e3 / max(1, tokens))
