"""The script that checks and times kernels on a GPU runs its checks in the interpreter, and each case once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "bench/gpu/kernels.py"


def run(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_kernel_is_checked_and_a_case_cut_off_runs_again(tmp_path: Path) -> None:
    out = tmp_path / "gpu" / "kernels.jsonl"
    first = run(out, "--tiny", TRITON_INTERPRET="1")
    assert first.returncode == 0
    [skipped] = [line for line in map(json.loads, first.stdout.splitlines()) if "skipped" in line]
    assert "by=FlashInfer" in skipped["case"]
    assert "FlashInfer" in skipped["skipped"]
    results = [json.loads(line) for line in out.read_text().splitlines()]
    kernels = {result["case"].split()[0] for result in results}
    attention = {"decode", "prefill", "mla", "mla_prefill", "latent_store", "rope_store"}
    assert kernels == attention | {"rms_norm", "silu_mul", "fp8", "sample"}
    assert all(result["right"] for result in results)

    out.write_text("".join(json.dumps(result) + "\n" for result in results[:-1]) + '{"case": "sam')
    again = run(out, "--tiny", TRITON_INTERPRET="1")
    assert again.returncode == 0
    said = [json.loads(line) for line in again.stdout.splitlines()]
    assert [line["case"] for line in said if "skipped" not in line] == [results[-1]["case"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    refused = run(tmp_path / "kernels.jsonl", TRITON_INTERPRET="0")
    assert refused.returncode == 2
    assert "needs an NVIDIA GPU" in refused.stderr
