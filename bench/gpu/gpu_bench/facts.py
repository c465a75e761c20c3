"""What this machine is: driver, SMs, MPS binary, compute mode, versions. Starts nothing on the GPU but a context."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_bench.needs import require_gpu, run_part

MPS_BINARIES = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
DRIVER_DIRECTORIES = ("/usr/local/nvidia/bin", "/usr/bin")  # where containers find what the driver brings
MODULES = (
    "torch",
    "triton",
    "cuda.bindings",
    "cuda.core",
    "numpy",
    "msgspec",
    "flashinfer",
    "pynvml",
    "tokenizers",
)
SMI_QUERY = (
    "name,uuid,driver_version,compute_mode,mig.mode.current,memory.total,clocks.max.sm,clocks.max.memory,"
    "power.limit,clocks_throttle_reasons.active"
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    require_gpu()
    arguments.out.write_text(json.dumps({**describe_machine(), **describe_gpu()}, indent=1))
    return 0


def describe_machine() -> dict[str, Any]:
    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "modules": {name: module_version(name) for name in MODULES},
        "mps": {name: find_binary(name) for name in MPS_BINARIES},
        "smi": ask_smi(),
    }


def describe_gpu() -> dict[str, Any]:
    import torch  # noqa: PLC0415

    gpu = torch.cuda.get_device_properties(0)
    return {
        "name": gpu.name,
        "sms": gpu.multi_processor_count,
        "memoryBytes": gpu.total_memory,
        "computeCapability": [gpu.major, gpu.minor],
        "cuda": torch.version.cuda,
    }


def module_version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "present"))
    except Exception as error:
        return f"absent: {type(error).__name__}"


def find_binary(name: str) -> str | None:
    beside_driver = (Path(directory) / name for directory in DRIVER_DIRECTORIES)
    return shutil.which(name) or next((str(path) for path in beside_driver if path.exists()), None)


def ask_smi() -> dict[str, str] | str:
    """One value per field, or why there is none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--query-gpu={SMI_QUERY}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi: {error}"
    first = found.stdout.splitlines()[0].split(", ")
    return dict(zip(SMI_QUERY.split(","), first, strict=False))


if __name__ == "__main__":
    run_part(main)
