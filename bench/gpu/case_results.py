"""What the scripts that run cases one by one share: which machine it was, and which cases need not run again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import triton


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


def read_done(out: Path, machine: dict[str, Any]) -> set[str]:
    """Cases that were right on this machine. A half-written last line is none."""
    done: set[str] = set()
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if result["right"] and all(result[key] == value for key, value in machine.items()):
            done.add(result["case"])
    return done
