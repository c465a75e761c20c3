"""A replay in numbers: what `report.json` holds. Pure; keys are part of the interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from semipd_bench import outcome
from semipd_bench.calibrate import HalfPrediction, Scaling
from semipd_bench.replay import Replay
from semipd_bench.verdict import Condition
from semipd_core.agent_config import PartitionWire, SwitchStatus


class Setup(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Seconds of each phase before the replay; None where it was not part of this run."""

    install_seconds: float | None = None
    load_seconds: float | None = None  # the agent answers → models are loaded and lanes attached
    ready_seconds: float | None = None  # start of `semipd up` → ready
    first_token_seconds: float | None = None  # start of the demo → first token of the chat answer
    calibration_seconds: float | None = None


def summarise(
    replay: Replay, *, setup: Setup, scaling: Scaling | None, conditions: Sequence[Condition]
) -> dict[str, Any]:
    """JSON-ready. Times in seconds since the replay's start unless the name says otherwise."""
    outcomes = replay.outcomes
    started = replay.timeline.started_unix_s
    return {
        "trace": {
            "name": replay.trace.name,
            "requests": len(replay.trace.requests),
            "durationSeconds": replay.trace.duration_s,
            "jointSeconds": replay.trace.joint_s,
        },
        "startedUnixSeconds": round(started, 3),
        "durationSeconds": round(replay.duration_s, 3),
        "interrupted": replay.interrupted,
        "requests": {
            "sent": replay.load.sent,
            "completed": sum(o.is_complete for o in outcomes),
            "failed": replay.failed,
            "cancelled": sum(o.is_cancelled for o in outcomes),
        },
        "slo": _summarise_slo(replay),
        "switches": [_summarise_switch(s, started) for s in replay.timeline.switches],
        "decisions": [
            {
                "atSeconds": round(d.at_s - started, 2),
                "loop": d.loop,
                "engine": d.engine_id,
                "partition": _caps(d.partition),
                "changed": d.changed,
                "reason": d.reason,
                "message": d.message,
            }
            for d in replay.timeline.decisions
        ],
        "setup": msgspec.to_builtins(setup),
        "calibration": None if scaling is None else _summarise_scaling(scaling),
        "errors": sorted({o.error for o in outcomes if o.error is not None})[:10],
        "verdict": {
            "holds": all(c.holds for c in conditions),
            "conditions": [{"name": c.name, "holds": c.holds, "found": c.found} for c in conditions],
        },
    }


def quarters_permille(replay: Replay) -> list[int | None]:
    """Attainment of each quarter of the trace, by when its requests were due; None for an empty one."""
    parts = outcome.quarters(replay.outcomes, replay.trace.duration_s)
    return [outcome.attainment_permille(part, replay.slo) for part in parts]


def _summarise_slo(replay: Replay) -> dict[str, Any]:
    outcomes, slo = replay.outcomes, replay.slo
    return {
        "ttft": {
            **_milliseconds(outcome.ttfts_ms(outcomes), slo.ttft_percentile),
            "percentile": slo.ttft_percentile,
            "targetMs": slo.ttft_ms,
        },
        "tpot": {
            **_milliseconds(outcome.tpots_ms(outcomes), slo.tpot_percentile),
            "percentile": slo.tpot_percentile,
            "targetMs": slo.tpot_ms,
        },
        "attainmentPermille": outcome.attainment_permille(outcomes, slo),
        "quartersPermille": quarters_permille(replay),
    }


def _milliseconds(values: list[float], target_percentile: int) -> dict[str, float | None]:
    wanted = {"p50Ms": 50, "p90Ms": 90, "p99Ms": 99, "atTargetPercentileMs": target_percentile}
    return {
        key: round(outcome.percentile(values, percent), 1) if values else None
        for key, percent in wanted.items()
    }


def _summarise_switch(switch: SwitchStatus, started_unix_s: float) -> dict[str, Any]:
    return {
        "atSeconds": round(switch.at_s - started_unix_s, 2),
        "from": _caps(switch.from_partition),
        "to": _caps(switch.to_partition),
        "reason": switch.reason,
        "message": switch.message,
        "seconds": None if switch.seconds is None else round(switch.seconds, 3),
        "outcome": switch.outcome,
    }


def _summarise_scaling(scaling: Scaling) -> dict[str, Any]:
    return {
        "lengthFactor": scaling.length_factor,
        "rateFactor": scaling.rate_factor,
        "requests": scaling.requests,
        "start": {
            "prefillPercent": scaling.start.prefill_percent,
            "decodePercent": scaling.start.decode_percent,
        },
        "conditionMet": scaling.is_met,
        "message": scaling.message,
        "predicted": {
            "first": _summarise_prediction(scaling.first),
            "second": _summarise_prediction(scaling.second),
            "better": _summarise_prediction(scaling.better),
        },
        "machine": {
            "engines": scaling.machine.engines,
            "prefillBaseMs": round(scaling.machine.prefill_base_ms, 2),
            "prefillMsPerToken": round(scaling.machine.prefill_ms_per_token, 4),
            "decodeBaseMs": round(scaling.machine.decode_base_ms, 2),
            "decodeMsPerRow": round(scaling.machine.decode_ms_per_row, 3),
        },
    }


def _summarise_prediction(prediction: HalfPrediction) -> dict[str, Any]:
    return {
        "prefillPercent": prediction.partition.prefill_percent,
        "decodePercent": prediction.partition.decode_percent,
        "ttftMs": round(prediction.ttft_ms, 1),
        "tpotMs": round(prediction.tpot_ms, 1),
    }


def _caps(partition: PartitionWire) -> dict[str, int]:
    return {"prefillPercent": partition.prefill_percent, "decodePercent": partition.decode_percent}
