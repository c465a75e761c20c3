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
from semipd_engine.memory.client import attach
from semipd_engine.model.executor import Executor

STEPS = 10
OPERATIONS_SHOWN = 14


class _NoTurns:
    def turn(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def build_decode_plan(rows: int, context_tokens: int, block_tokens: int) -> messages.StepPlan:
    blocks = [0] * (context_tokens // block_tokens + 1)
    return messages.StepPlan(
        epoch=1,
        rows=[
            messages.Row(
                slot=slot,
                start=context_tokens,
                tokens=[0],
                blocks_from=0,
                blocks=blocks,
                sampling=messages.Sampling(),
            )
            for slot in range(rows)
        ],
        request_ids=[""] * rows,
    )


def build_prefill_plan(tokens: int, block_tokens: int) -> messages.StepPlan:
    blocks = [0] * (tokens // block_tokens + 1)
    row = messages.Row(
        slot=0, start=0, tokens=[0] * tokens, blocks_from=0, blocks=blocks, sampling=messages.Sampling()
    )
    return messages.StepPlan(epoch=1, rows=[row], request_ids=[""])


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
    plans = {
        f"decode, {args.rows} rows at {args.context} tokens": build_decode_plan(
            args.rows, args.context, config.block_tokens
        ),
        f"prefill, {config.prefill_budget_tokens} tokens": build_prefill_plan(
            config.prefill_budget_tokens, config.block_tokens
        ),
    }
    json.dump({name: profile_plan(executor, plan) for name, plan in plans.items()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
