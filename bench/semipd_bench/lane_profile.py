"""Where does the time of a lane's step go? `python -m semipd_bench.lane_profile --config engine.json`

Attaches to the memory server of a running, idle engine as a lane does, and runs decode steps and a prompt chunk under
torch's profiler. All rows write to the null block, so that the engine's cache stays as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import msgspec
from torch.profiler import ProfilerActivity, profile

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Role
from semipd_core.profile.format import StepLoad
from semipd_engine.memory.client import attach
from semipd_engine.model.executor import Executor
from semipd_engine.profiling.plans import build_plans

STEPS = 10
OPERATIONS_SHOWN = 14


class _NoTurns:
    def turn(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def build_plan(load: StepLoad, block_tokens: int) -> messages.StepPlan:
    """All of its blocks are the null block."""
    return next(build_plans(load, blocks=[0], block_tokens=block_tokens, vocab_size=1))


def profile_plan(executor: Executor, plan: messages.StepPlan) -> list[dict[str, object]]:
    """The operations with the most time of their own, in milliseconds per step."""
    executor.execute(plan, _NoTurns())
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            executor.execute(plan, _NoTurns())
    averages = sorted(found.key_averages(), key=lambda a: a.self_cpu_time_total, reverse=True)
    total_us = sum(a.self_cpu_time_total for a in averages)
    return [
        {
            "operation": a.key,
            "callsPerStep": a.count / STEPS,
            "msPerStep": round(a.self_cpu_time_total / 1e3 / STEPS, 3),
            "permille": round(1000 * a.self_cpu_time_total / total_us),
        }
        for a in averages[:OPERATIONS_SHOWN]
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=288)
    args = parser.parse_args()
    config = msgspec.json.decode(Path(args.config).read_bytes(), type=EngineConfig)
    executor = Executor.build(config, attach(config.memory_socket))
    decode = StepLoad(role=Role.DECODE, rows=args.rows, tokens=1, context_tokens=args.context)
    prefill = StepLoad(role=Role.PREFILL, rows=1, tokens=config.prefill_budget_tokens, context_tokens=0)
    plans = {
        f"decode, {args.rows} rows at {args.context} tokens": build_plan(decode, config.block_tokens),
        f"prefill, {config.prefill_budget_tokens} tokens": build_plan(prefill, config.block_tokens),
    }
    json.dump({name: profile_plan(executor, plan) for name, plan in plans.items()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
