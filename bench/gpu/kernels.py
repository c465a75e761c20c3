"""Check each Triton kernel against torch on a GPU and time it, one JSON line per case; run it again to go on where it stopped.

    PYTHONPATH=engine:core python bench/gpu/kernels.py --out out/gpu/kernels.jsonl

Needs torch, triton, msgspec and numpy; cases of FlashInfer are skipped where it cannot serve, and say why. Exit codes: 0 all
cases are right, 1 one is wrong or failed, 2 no GPU, 3 time is up, or CUDA failed: run it again. `--tiny` under TRITON_INTERPRET=1
checks small shapes on a CPU and times nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import kernel_cases
import kernel_shapes
import torch
import triton
import triton.testing
from case_results import describe_machine, run_cases
from flashinfer_rows import LacksFlashInfer


def main() -> int:
    arguments = _parse_arguments()
    begin = time.monotonic()
    device = "cpu" if arguments.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "needs an NVIDIA GPU: torch.cuda.is_available() is False; allowed without one: --tiny",
            file=sys.stderr,
        )
        return 2
    cases = kernel_shapes.tiny_cases() if arguments.tiny else kernel_shapes.full_cases()
    return run_cases(
        ((case.name, partial(_measure, case, device)) for case in cases),
        arguments.out,
        describe_machine(device),
        begin + arguments.seconds,
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="file of JSON lines; right cases in it are not run again"
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no case after so long")
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU, in Triton's interpreter")
    return parser.parse_args()


def _measure(case: kernel_cases.Case, device: str) -> dict[str, Any]:
    try:
        work = case.build(device)
        errors = work.errors()
        result: dict[str, Any] = {"right": all(error <= 1.0 for error in errors.values()), "errors": errors}
        if device == "cuda":
            result |= _time(work)
    except LacksFlashInfer as lack:
        return {"skipped": str(lack)}
    return result


def _time(work: kernel_cases.Work) -> dict[str, Any]:
    """Alone with a cold L2, and replayed in a CUDA graph with whatever it leaves there: the second is without launch costs."""
    median_ms, fast_ms, slow_ms = triton.testing.do_bench(work.run, quantiles=[0.5, 0.1, 0.9])
    graph_ms = triton.testing.do_bench_cudagraph(work.run)
    return {
        "ms": median_ms,
        "ms_p10": fast_ms,
        "ms_p90": slow_ms,
        "graph_ms": graph_ms,
        "gb_per_s": work.num_bytes / median_ms / 1e6,
        "tflop_per_s": work.flops / median_ms / 1e9,
    }


if __name__ == "__main__":
    sys.exit(main())
