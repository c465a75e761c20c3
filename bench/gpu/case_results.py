"""What the scripts that run cases one by one share: which machine it was, which cases are left, and what becomes of each."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import triton

TIME_IS_UP = 3  # or another process must go on
Case = tuple[str, Callable[[], dict[str, Any]]]  # `right`, or `skipped` with why, and whatever it measured


def describe_machine(device: str) -> dict[str, Any]:
    """device: "cuda", or else the interpreter's."""
    is_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else "interpreter",
        "sms": torch.cuda.get_device_properties(0).multi_processor_count if is_gpu else None,
        "mps_percent": os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def run_cases(cases: Iterable[Case], out: Path, machine: Mapping[str, Any], deadline_s: float) -> int:
    """Each case that was not right yet, those that never ran first; a JSON line in `out` for each. The exit code.

    `deadline_s`: by the monotonic clock, begin none after it. A CUDA error ends all: whatever ran after it would fail too.
    """
    before = read_verdicts(out, machine)
    left = sorted((case for case in cases if not before.get(case[0])), key=lambda case: case[0] in before)
    is_right = True
    for number, (name, measure) in enumerate(left, 1):
        if time.monotonic() > deadline_s:
            return TIME_IS_UP
        result, is_fault = _attempt(measure)
        if "skipped" in result:
            print(json.dumps({"case": name, **result}), flush=True)
            continue
        _append(out, {**machine, "case": name, **result})
        is_right = is_right and result["right"]
        if is_fault:
            return TIME_IS_UP if any(other not in before for other, _ in left[number:]) else 1
    return 0 if is_right else 1


def _attempt(measure: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """A case that fails is a result too; and whether this process can use the GPU no more."""
    try:
        return measure(), False
    except Exception as error:
        return {"right": False, "failed": traceback.format_exc()}, has_faulted(error)


def has_faulted(error: Exception) -> bool:
    """Whether CUDA is of no more use to this process: Triton raises other errors than torch for the same fault."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return isinstance(error, torch.AcceleratorError)


def _append(out: Path, result: dict[str, Any]) -> None:
    line = json.dumps(result)
    print(line, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_verdicts(out: Path, machine: Mapping[str, Any]) -> dict[str, bool]:
    """Of the cases that ran on this machine: whether any run was right. A half-written last line is none."""
    found: dict[str, bool] = {}
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if all(result[key] == value for key, value in machine.items()):
            found[result["case"]] = found.get(result["case"], False) or result["right"]
    return found
