"""The lane with both roles on a GPU in an engine's real processes, its kernels interpreted: tokens, splits and samples."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from duplex_lanes import OneLaneProcess
from engine_processes import EngineProcesses, engine_config
from greedy_oracle import GreedyOracle
from tiny_llama import write_tiny_llama

from semipd_core import messages
from semipd_core.partition import Band, Isolation, Partition, Role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]
ZYGOTE = Path(__file__).parent.parent / "fixtures" / "interpreted_duplex_zygote.py"
PROMPTS = [[5, 9, 200, 31, 7, 8], [17]]
WIDE = Band(prefill_min_percent=30, prefill_max_percent=80, decode_min_percent=20, decode_max_percent=70)


class InterpretedDuplexEngine(OneLaneProcess):
    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        if module != "semipd_engine.lane.zygote":
            return EngineProcesses._start(self, module, *arguments)
        with (Path(self.config.directory) / "zygote.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(ZYGOTE), *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "1"},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._processes.append(process)
        return process

    def pump_until(self, is_done: object, timeout_s: float = 240.0) -> None:
        super().pump_until(is_done, timeout_s)


def test_it_gives_the_tokens_of_transformers_while_the_splits_change(tmp_path: Path) -> None:
    import transformers

    model = write_tiny_llama(tmp_path / "model", seed=7, vocab_size=320, num_hidden_layers=1)
    config = engine_config(
        tmp_path / "engine",
        f"file://{model}",
        isolation=Isolation.GREEN_CONTEXT,
        max_context_tokens=48,
        block_tokens=16,
        max_rows=2,
        prefill_budget_tokens=8,  # the largest chunk runs on each stream before the lane is ready
        run_ahead=2,
        bounds=WIDE,
    )
    with InterpretedDuplexEngine(config, Partition(prefill_percent=60, decode_percent=40)) as engine:
        engine.agent.send(messages.SetCaps(prefill_percent=60, decode_percent=40, band=WIDE))
        results = engine.generate(PROMPTS, max_tokens=4)
        report = engine.report()
    oracle = GreedyOracle(transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    for prompt, result in zip(PROMPTS, results, strict=True):
        oracle.check(prompt, result.tokens)
    shares = {(each.prefill_percent, each.decode_percent) for each in report.samples}
    assert (78, 21) in shares, "a lone prompt has 104 of 132 SMs, the most that the band allows"
    assert len(shares) > 1
    granted = {lane.role: lane.granted_percent for lane in report.lanes}
    assert granted == {Role.PREFILL: 60, Role.DECODE: 40}
