"""What an engine carries now, from the coordinators' reports: queues, batch, contention. Means over a service's engines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semipd_core.latency.nexus import StepModel, sample_speed
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, StepSample

RECENT_NS = 10_000_000_000  # steps this close to the engine's newest one describe the present
PACE_RANGE = (0.5, 1.5)  # measured speed over expected speed; beyond it, something else is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """Of one engine of a service, on average. Contention: part of a lane's busy time with the other lane busy too, 0..1."""

    waiting_tokens: float = 0.0  # prompt tokens not yet computed
    oldest_wait_ms: float = 0.0  # the worst of all engines
    kv_used_permille: float = 0.0  # the worst of all engines
    decode_rows: float = 0.0  # as a token meets them: weighted by rows
    token_gap_ms: float = (
        0.0  # wall time of a decode step, as a token meets it: TPOT of the requests still open
    )
    context_tokens_per_row: float = 0.0
    chunk_tokens: float = 0.0  # of a prefill step, as a token meets them
    chunk_context_tokens: float = 0.0
    decode_contention: float = 1.0
    prefill_contention: float = 1.0
    decode_pace: float = 1.0  # measured speed of the lane over what its share curve expects
    prefill_pace: float = 1.0


def measure_load(reports: Sequence[CoordinatorReport], model: StepModel) -> EngineLoad:
    """The worst case (both lanes always busy) where no recent step says otherwise."""
    if not reports:
        return EngineLoad()
    recent = [sample for report in reports for sample in _recent(report.samples)]
    prefill = [sample for sample in recent if sample.role is Role.PREFILL]
    decode = [sample for sample in recent if sample.role is Role.DECODE]
    decoding = sum(report.decoding for report in reports) / len(reports)
    rows = sum(sample.rows for sample in decode)
    tokens = sum(sample.tokens for sample in prefill)
    return EngineLoad(
        waiting_tokens=sum(report.waiting_tokens for report in reports) / len(reports),
        oldest_wait_ms=max(report.oldest_wait_ms for report in reports),
        kv_used_permille=max(_kv_used_permille(report) for report in reports),
        decode_rows=sum(sample.rows**2 for sample in decode) / rows if rows else decoding,
        token_gap_ms=sum(sample.rows * sample.wall_us for sample in decode) / rows / 1000 if rows else 0.0,
        context_tokens_per_row=sum(sample.context_tokens for sample in decode) / rows if rows else 0.0,
        chunk_tokens=sum(sample.tokens**2 for sample in prefill) / tokens if tokens else 0.0,
        chunk_context_tokens=_per_token(prefill, tokens),
        decode_contention=_contention(decode),
        prefill_contention=_contention(prefill),
        decode_pace=_pace(decode, model),
        prefill_pace=_pace(prefill, model),
    )


def _recent(samples: Iterable[StepSample]) -> list[StepSample]:
    samples = list(samples)
    newest_ns = max((sample.at_ns for sample in samples), default=0)
    return [sample for sample in samples if newest_ns - sample.at_ns <= RECENT_NS]


def _kv_used_permille(report: CoordinatorReport) -> float:
    return 1000 * report.kv_blocks_used / report.kv_blocks_total if report.kv_blocks_total else 0.0


def _per_token(prefill: Sequence[StepSample], tokens: int) -> float:
    """KV entries read per row by the step that a prompt token is computed in, on average over tokens."""
    if not tokens:
        return 0.0
    weighted = sum(sample.tokens * sample.context_tokens / max(1, sample.rows) for sample in prefill)
    return weighted / tokens


def _contention(samples: Sequence[StepSample]) -> float:
    wall_us = sum(sample.wall_us for sample in samples)
    if wall_us == 0:
        return 1.0
    return min(1.0, sum(sample.wall_us * sample.contended_permille for sample in samples) / wall_us / 1000)


def _pace(samples: Sequence[StepSample], model: StepModel) -> float:
    """Measured over expected speed, where the two are independent (lanes that take turns); 1 elsewhere."""
    if not model.takes_turns:
        return 1.0
    expected_us = sum(
        sample.wall_us * sample_speed(model.curve_of(sample.role), sample) for sample in samples
    )
    if expected_us == 0:
        return 1.0
    low, high = PACE_RANGE
    return min(max(sum(sample.compute_us for sample in samples) / expected_us, low), high)
