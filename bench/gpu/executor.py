"""Hold the executor on a GPU to the one on CPU, and time its steps on the shapes of Llama 3.1 8B and DeepSeek-V2-Lite.

    PYTHONPATH=engine:core python bench/gpu/executor.py --out out/gpu/executor.jsonl

Needs torch, triton, msgspec, structlog and numpy. Prints one JSON line per case; a case that is right is not run again. Exit
codes: 0 all cases are right, 1 one is wrong or failed, 2 no GPU, 3 time is up, or CUDA failed: run it again. `--tiny` under
TRITON_INTERPRET=1, with `tests/fixtures` on PYTHONPATH, checks a tiny model without a GPU and times nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case_results import Case, describe_machine, run_cases
from executor_steps import Sequenced, TimedStep, build_plan, engine_config, run
from random_model import BLOCK_TOKENS, DEEPSEEK_EXPERTS, RandomArenas, build_arenas

from semipd_core import messages
from semipd_core.partition import Role
from semipd_engine.cuda_model.arenas import kv_tensor, weight_tensors
from semipd_engine.cuda_model.device import CudaStepDevice, StepDevice
from semipd_engine.cuda_model.executor import CudaExecutor
from semipd_engine.model.block_tables import BlockTables
from semipd_engine.model.decoder import Decoder
from semipd_engine.model.executor import Executor
from semipd_engine.model.experts import compute_grouped, compute_looped, is_grouped, route
from semipd_engine.model.ranks import LoneRank
from semipd_shell import log

DECODE_ROWS = (1, 8, 64, 256)
DECODE_CONTEXT_TOKENS = 1024
DECODE_STEPS = 64
PREFILL_TOKENS = (1024, 2048)
PREFILL_STEPS = 16
LARGEST_ROWS, LARGEST_CHUNK = max(DECODE_ROWS), max(PREFILL_TOKENS)
LARGE_SHAPES = ("llama-3.1-8b", "deepseek-v2-lite")
GREEDY = messages.Sampling()
SAMPLINGS = (GREEDY, messages.Sampling(temperature=0.8, top_k=20, seed=7), messages.Sampling(logprob=True))
LOGPROB_TOLERANCE = 1e-3
EXPERTS_TOLERANCE = 2e-2  # bf16


def main() -> int:
    arguments = _parse_arguments()
    begin = time.monotonic()
    if not arguments.tiny and not torch.cuda.is_available():
        print(
            "needs an NVIDIA GPU: torch.cuda.is_available() is False; allowed without one: --tiny",
            file=sys.stderr,
        )
        return 2
    log.configure("executor")  # no line for each step
    torch.backends.cuda.matmul.allow_tf32 = False
    machine = describe_machine("cpu" if arguments.tiny else "cuda")
    return run_cases(_cases(is_tiny=arguments.tiny), arguments.out, machine, begin + arguments.seconds)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--seconds", type=float, default=420.0, help="begin no case after so long")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU, in Triton's interpreter")
    return parser.parse_args()


def _cases(*, is_tiny: bool) -> Iterator[Case]:
    if is_tiny:
        yield "tokens of the CPU, tiny", lambda: _compare("tiny", prompt_tokens=6, steps=2)
        return
    for shape in ("small", "small-qwen", "small-deepseek"):
        yield (
            f"tokens of the CPU, {shape}",
            lambda shape=shape: _compare(shape, prompt_tokens=300, steps=64),
        )
    yield "grouped experts against looped", _compare_experts
    for shape in LARGE_SHAPES:
        for rows in DECODE_ROWS:
            yield (
                f"decode {rows} rows, {DECODE_CONTEXT_TOKENS} tokens, {shape}",
                lambda shape=shape, rows=rows: _time_decode(shape, rows),
            )
        for tokens in PREFILL_TOKENS:
            yield (
                f"prefill {tokens} tokens, {shape}",
                lambda shape=shape, tokens=tokens: _time_prefill(shape, tokens),
            )


def _compare(shape: str, *, prompt_tokens: int, steps: int) -> dict[str, Any]:
    """Three sequences of mixed sampling: two chunks each, then steps run ahead, replayed from a graph."""
    kind = "cpu" if shape == "tiny" else "cuda"
    blocks_each = -(-(prompt_tokens + steps + 3) // BLOCK_TOKENS)
    arenas = build_arenas(shape, 1 + len(SAMPLINGS) * blocks_each, torch.device("cpu"))
    config = engine_config(
        max_rows=len(SAMPLINGS), budget_tokens=3 * prompt_tokens, block_tokens=BLOCK_TOKENS
    )
    plans = list(_mixed_plans(prompt_tokens, steps, blocks_each, arenas.manifest.model.vocab_size))
    expected = list(_run_on_cpu(arenas, config.num_slots, plans))
    arenas.kv.zero_()
    there = RandomArenas(manifest=arenas.manifest, weights=arenas.weights.to(kind), kv=arenas.kv.to(kind))
    executor = CudaExecutor.build(config, there, _step_device(kind), Role.MIXED)
    executor.warm_up()
    given = [(step.outcome.tokens, step.outcome.logprobs) for step in run(executor, plans)]
    wrong = [
        step for step, (ours, theirs) in enumerate(zip(given, expected, strict=True)) if ours[0] != theirs[0]
    ]
    gaps = [
        abs(mine - other)
        for ours, theirs in zip(given, expected, strict=True)
        for mine, other in zip(ours[1], theirs[1], strict=True)
        if mine is not None and other is not None
    ]
    right = not wrong and max(gaps) <= LOGPROB_TOLERANCE
    return {"right": right, "steps": len(plans), "wrong_steps": wrong[:8], "logprob_gap": max(gaps)}


def _mixed_plans(
    prompt_tokens: int, steps: int, blocks_each: int, vocab_size: int
) -> Iterator[messages.StepPlan]:
    random = torch.Generator().manual_seed(1)
    sequences = [
        Sequenced(
            slot,
            torch.randint(1, vocab_size, (prompt_tokens - slot,), generator=random).tolist(),
            range(1 + slot * blocks_each, 1 + (slot + 1) * blocks_each),
            sampling,
        )
        for slot, sampling in enumerate(SAMPLINGS)
    ]
    first = prompt_tokens // 2
    yield build_plan([sequence.chunk(first) for sequence in sequences])
    yield build_plan(
        [sequence.chunk(prompt_tokens - slot - first) for slot, sequence in enumerate(sequences)]
    )
    for _ in range(steps):
        yield build_plan([sequence.next() for sequence in sequences])


def _compare_experts() -> dict[str, Any]:
    """Of one layer of DeepSeek-V2-Lite; `is_grouped` says whether a lane would group them here."""
    config, hidden_size = DEEPSEEK_EXPERTS, 2048
    draw = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    gate_up = draw(config.num_experts, 2 * config.intermediate_size, hidden_size) * hidden_size**-0.5
    down = draw(config.num_experts, hidden_size, config.intermediate_size) * config.intermediate_size**-0.5
    gaps = {}
    for tokens in (1, 7, 256, LARGEST_CHUNK):
        hidden = draw(tokens, hidden_size)
        chosen = route(torch.randn(tokens, config.num_experts, device="cuda"), config)
        grouped = compute_grouped(hidden, gate_up, down, *chosen)
        gaps[tokens] = float((grouped - compute_looped(hidden, gate_up, down, *chosen)).abs().max())
    return {
        "right": max(gaps.values()) <= EXPERTS_TOLERANCE,
        "gap_by_tokens": gaps,
        "is_grouped": is_grouped(gate_up, down),
    }


class _NoTurns:
    def turn(self) -> AbstractContextManager[None]:
        return nullcontext()


def _run_on_cpu(
    arenas: RandomArenas, num_slots: int, plans: list[messages.StepPlan]
) -> Iterator[tuple[list[int | None], list[float | None]]]:
    manifest = arenas.manifest
    decoder = Decoder(manifest.model, weight_tensors(arenas), kv_tensor(arenas))
    tables = BlockTables(
        num_slots=num_slots,
        max_context_tokens=manifest.max_context_tokens,
        block_tokens=manifest.block_tokens,
    )
    executor = Executor(decoder, tables, manifest.num_blocks, LoneRank())
    for plan in plans:
        yield executor.execute(plan, _NoTurns())


def _step_device(kind: str) -> StepDevice:
    if kind == "cuda":
        return CudaStepDevice(0)
    from inline_device import InlineDevice  # noqa: PLC0415

    return InlineDevice()


def _time_decode(shape: str, rows: int) -> dict[str, Any]:
    """Steps run ahead from DECODE_CONTEXT_TOKENS on, over a cache of zeros."""
    blocks_each = -(-(DECODE_CONTEXT_TOKENS + DECODE_STEPS + 1) // BLOCK_TOKENS)
    executor, warm_up_s = _build_large(shape, Role.DECODE, 1 + rows * blocks_each, rows)
    started = [
        messages.Row(
            slot=slot,
            start=DECODE_CONTEXT_TOKENS - 1,
            tokens=[slot + 1],
            blocks_from=0,
            blocks=list(range(1 + slot * blocks_each, 1 + (slot + 1) * blocks_each)),
            sampling=GREEDY,
        )
        for slot in range(rows)
    ]

    def plans() -> Iterator[messages.StepPlan]:
        yield build_plan(started)
        for step in range(DECODE_STEPS):
            yield build_plan(
                [
                    messages.Row(
                        slot=slot,
                        start=DECODE_CONTEXT_TOKENS + step,
                        tokens=[],
                        blocks_from=0,
                        blocks=[],
                        sampling=GREEDY,
                    )
                    for slot in range(rows)
                ]
            )

    return {**_summarise(list(run(executor, plans()))), "warm_up_s": warm_up_s}


def _time_prefill(shape: str, tokens: int) -> dict[str, Any]:
    """One prompt after the other, each in one chunk."""
    blocks = list(range(1, 1 + -(-tokens // BLOCK_TOKENS)))
    executor, warm_up_s = _build_large(shape, Role.PREFILL, 1 + len(blocks), 1)
    row = messages.Row(slot=0, start=0, tokens=[7] * tokens, blocks_from=0, blocks=blocks, sampling=GREEDY)
    summary = _summarise(list(run(executor, (build_plan([row]) for _ in range(PREFILL_STEPS)))))
    return {**summary, "tokens_per_s": tokens / summary["wall_ms_p50"] * 1000, "warm_up_s": warm_up_s}


def _build_large(shape: str, role: Role, num_blocks: int, max_rows: int) -> tuple[CudaExecutor, float]:
    arenas = build_arenas(shape, num_blocks, torch.device("cuda", 0))
    config = engine_config(max_rows=max_rows, budget_tokens=LARGEST_CHUNK, block_tokens=BLOCK_TOKENS)
    begin = time.perf_counter()
    executor = CudaExecutor.build(config, arenas, CudaStepDevice(0), role)
    executor.warm_up()
    return executor, time.perf_counter() - begin


def _summarise(steps: list[TimedStep]) -> dict[str, Any]:
    """Without the first steps, which wait for nobody."""
    settled = steps[2:]
    wall = sorted(step.wall_ms for step in settled)
    compute = sorted(step.outcome.compute_ns / 1e6 for step in settled)
    return {
        "right": True,
        "steps": len(settled),
        "wall_ms_p50": statistics.median(wall),
        "wall_ms_p90": wall[len(wall) * 9 // 10],
        "compute_ms_p50": statistics.median(compute),
        "compute_ms_p90": compute[len(compute) * 9 // 10],
    }


if __name__ == "__main__":
    sys.exit(main())
