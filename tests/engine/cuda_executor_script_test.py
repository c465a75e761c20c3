"""The script that checks and times the executor on a GPU runs its check in the interpreter, once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]
SCRIPT = Path(__file__).parents[2] / "bench/gpu/executor.py"


def run(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_check_against_the_cpu_passes_and_is_not_repeated(tmp_path: Path) -> None:
    out = tmp_path / "executor.jsonl"
    first = run(out, "--tiny", TRITON_INTERPRET="1")
    assert first.returncode == 0, first.stdout + first.stderr
    result = json.loads(out.read_text())
    assert result["right"]
    assert result["steps"] == 4
    again = run(out, "--tiny", TRITON_INTERPRET="1")
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "executor.jsonl")
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr
