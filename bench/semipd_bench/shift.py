"""`python -m semipd_bench.shift plan|run`: the bundled trace, whose traffic changes its kind in the middle, against any service.

`plan` measures a service that nobody else uses, and prints as one JSON object how to scale the trace to it and which split to
start from (`calibrate`). `run` replays the trace and prints a JSON object for each request as it ends, like `steady`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from semipd_bench.calibrate import Bounds, HalfPrediction, Scaling, plan_scaling
from semipd_bench.load import Load, Target, open_client
from semipd_bench.measure import measure_machine
from semipd_bench.printed_load import run_printed
from semipd_bench.trace import Limits, Trace, bundled_trace, read_trace, repeat_second_half, scale
from semipd_core.telemetry import SloTargets

SURE_MISS_RATIO = (
    1.3  # of the start's latency to its target: a machine that gets faster by a quarter still misses
)


def main(argv: Sequence[str] | None = None) -> int:
    """0: no request failed; 1: one did. Raises: MeasurementFailed."""
    arguments = _parse(argv)
    target = Target(url=arguments.url, model=arguments.model, vocabulary_tokens=arguments.vocabulary)
    return asyncio.run((_plan if arguments.command == "plan" else _run)(arguments, target))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    service = argparse.ArgumentParser(add_help=False)
    service.add_argument("--url", required=True, help="without /v1")
    service.add_argument("--model", required=True)
    service.add_argument("--vocabulary", type=int, required=True, help="token ids that the model has")
    service.add_argument("--context-tokens", type=int, default=2048, help="of a prompt and its answer")
    parser = argparse.ArgumentParser(prog="semipd_bench.shift", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", parents=[service])
    plan.add_argument("--engines", type=int, required=True)
    plan.add_argument("--ttft-ms", type=int, required=True)
    plan.add_argument("--tpot-ms", type=int, required=True)
    plan.add_argument("--percentile", type=int, default=90)
    plan.add_argument(
        "--slo-factors",
        type=float,
        nargs="+",
        default=[1.0],
        help="of both targets; the first with which the replay shows a policy at work by far is taken",
    )
    plan.add_argument("--prefill-min", type=int, default=20, help="percent")
    plan.add_argument("--decode-min", type=int, default=20, help="percent")
    plan.add_argument("--chunk-tokens", type=int, default=128, help="of a prefill step")
    plan.add_argument("--max-rows", type=int, default=32, help="of a decode step")
    run = commands.add_parser("run", parents=[service])
    run.add_argument("--length-factor", type=float, required=True)
    run.add_argument("--rate-factor", type=float, required=True)
    run.add_argument("--second-half", type=int, default=1, help="how often it is played")
    return parser.parse_args(argv)


async def _plan(arguments: argparse.Namespace, target: Target) -> int:
    machine = await measure_machine(
        target,
        engines=arguments.engines,
        chunk_tokens=arguments.chunk_tokens,
        max_rows=arguments.max_rows,
        say=lambda line: print(line, file=sys.stderr),
    )
    trace, limits = read_trace(bundled_trace()), _limits(arguments)
    bounds = Bounds(prefill_min_percent=arguments.prefill_min, decode_min_percent=arguments.decode_min)
    slos = [_targets(arguments, factor) for factor in arguments.slo_factors]
    slo, scaling = choose_slo((slo, plan_scaling(machine, trace, slo, bounds, limits)) for slo in slos)
    print(json.dumps(describe_scaling(scaling, slo)))
    return 0


def choose_slo(planned: Iterable[tuple[SloTargets, Scaling]]) -> tuple[SloTargets, Scaling]:
    """The first that meets the condition by far, else the one that meets it with the largest miss, else the last."""
    met: list[tuple[SloTargets, Scaling]] = []
    for choice in planned:
        _, scaling = choice
        if scaling.is_met and scaling.second.ratio >= SURE_MISS_RATIO:
            return choice
        if scaling.is_met:
            met.append(choice)
    return max(met, key=lambda choice: choice[1].second.ratio) if met else choice


def _targets(arguments: argparse.Namespace, factor: float) -> SloTargets:
    return SloTargets(
        ttft_percentile=arguments.percentile,
        ttft_ms=round(factor * arguments.ttft_ms),
        tpot_percentile=arguments.percentile,
        tpot_ms=round(factor * arguments.tpot_ms),
    )


def describe_scaling(scaling: Scaling, slo: SloTargets) -> dict[str, object]:
    return {
        "isMet": scaling.is_met,
        "ttftMs": slo.ttft_ms,
        "tpotMs": slo.tpot_ms,
        "lengthFactor": scaling.length_factor,
        "rateFactor": scaling.rate_factor,
        "requests": scaling.requests,
        "start": _split(scaling.first),
        "better": _split(scaling.better),
        "message": scaling.message,
        "machine": asdict(scaling.machine),
    }


def _split(prediction: HalfPrediction) -> str:
    """As a pin is written."""
    return f"{prediction.partition.prefill_percent}/{prediction.partition.decode_percent}"


async def _run(arguments: argparse.Namespace, target: Target) -> int:
    trace = _trace(arguments)
    about = {"startedS": time.time(), "jointS": trace.middle_s, "durationS": trace.duration_s}
    print(json.dumps(about), flush=True)
    async with open_client(target) as client:
        return await run_printed(Load(target, seed="shift", clock=time.monotonic), client, trace.requests)


def _trace(arguments: argparse.Namespace) -> Trace:
    scaled = scale(
        read_trace(bundled_trace()),
        length_factor=arguments.length_factor,
        rate_factor=arguments.rate_factor,
        limits=_limits(arguments),
    )
    return repeat_second_half(scaled, arguments.second_half)


def _limits(arguments: argparse.Namespace) -> Limits:
    return Limits(context_tokens=arguments.context_tokens)


if __name__ == "__main__":
    sys.exit(main())
