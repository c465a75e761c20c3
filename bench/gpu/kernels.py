"""Check each Triton kernel against torch on a GPU and time it, one JSON line per case; run it again to go on where it stopped.

    PYTHONPATH=engine:core python bench/gpu/kernels.py --out out/gpu/kernels.jsonl

Needs torch, triton, msgspec and numpy; cases of FlashInfer are skipped where it cannot serve, and say why. Exit codes: 0 all
cases are right, 1 one is wrong or failed, 2 no GPU, 3 time is up: run it again. `--tiny` under TRITON_INTERPRET=1 checks small
shapes on a CPU and times nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import kernel_cases
import kernel_shapes
import torch
import triton
import triton.testing
from case_results import describe_machine, read_done
from flashinfer_rows import LacksFlashInfer

TIME_IS_UP = 3


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
    machine = describe_machine(device)
    done = read_done(arguments.out, machine)
    is_right = True
    for case in kernel_shapes.tiny_cases() if arguments.tiny else kernel_shapes.full_cases():
        if case.name in done:
            continue
        if time.monotonic() - begin > arguments.seconds:
            return TIME_IS_UP
        try:
            result = {**machine, "case": case.name, **_measure(case, device)}
        except LacksFlashInfer as lack:
            print(json.dumps({"case": case.name, "skipped": str(lack)}), flush=True)
            continue
        is_right = is_right and result["right"]
        _append(arguments.out, result)
    return 0 if is_right else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="file of JSON lines; right cases in it are not run again"
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no case after so long")
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU, in Triton's interpreter")
    return parser.parse_args()


def _measure(case: kernel_cases.Case, device: str) -> dict[str, Any]:
    """A case that fails is a result too. Raises: LacksFlashInfer."""
    try:
        work = case.build(device)
        errors = work.errors()
        result: dict[str, Any] = {"right": all(error <= 1.0 for error in errors.values()), "errors": errors}
        if device == "cuda":
            result |= _time(work)
    except LacksFlashInfer:
        raise
    except Exception:
        return {"right": False, "failed": traceback.format_exc()}
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


def _append(out: Path, result: dict[str, Any]) -> None:
    line = json.dumps(result)
    print(line, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
