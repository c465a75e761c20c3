"""The lanes of a GPU in an engine's real processes: run-ahead, a switch, and SIGTERM, with interpreted kernels."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from engine_processes import EngineProcesses, engine_config, is_running
from greedy_oracle import GreedyOracle
from tiny_llama import write_tiny_llama

from semipd_agent.processes.identity import group_members
from semipd_core import messages
from semipd_core.messages import Sampling
from semipd_core.partition import Isolation, Role
from semipd_engine.lane.device_faults import EXIT_DEVICE_ERROR
from semipd_engine.lane.process import LaneOrder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]
ZYGOTE = Path(__file__).parent.parent / "fixtures" / "interpreted_zygote.py"
PROMPTS = [[5, 9, 200, 31, 7, 8], [17]]


class InterpretedEngine(EngineProcesses):
    """Its zygote forks lanes of a GPU."""

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        if module != "semipd_engine.lane.zygote":
            return super()._start(module, *arguments)
        with (Path(self.config.directory) / "zygote.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(ZYGOTE), *arguments],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "TRITON_INTERPRET": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._processes.append(process)
        return process

    def pump_until(self, is_done: object, timeout_s: float = 240.0) -> None:
        super().pump_until(is_done, timeout_s)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    return write_tiny_llama(directory, seed=7, vocab_size=320, num_hidden_layers=1)


@pytest.mark.timeout(900)  # on a machine that does much else
def test_run_ahead_and_a_switch_give_the_tokens_of_transformers(model: Path, tmp_path: Path) -> None:
    import transformers

    config = engine_config(
        tmp_path, f"file://{model}", max_context_tokens=48, block_tokens=16, max_rows=2, run_ahead=2
    )
    with InterpretedEngine(config) as engine:
        first = engine.generate(PROMPTS, max_tokens=5)
        engine.switch(Role.DECODE, 60)
        again = engine.generate(PROMPTS[:1], max_tokens=4, sampling=Sampling(logprob=True))
        report = engine.report()
        last = engine.lane_pids[engine.lanes[Role.DECODE]]
        os.kill(last, signal.SIGTERM)
        engine.pump_until(lambda: not is_running(last))
    oracle = GreedyOracle(transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    for prompt, result in zip(PROMPTS, first, strict=True):
        oracle.check(prompt, result.tokens)
    assert again[0].tokens == first[0].tokens[:4]
    assert len(again[0].logprobs) == 4
    assert report.kv_blocks_used == 0


@pytest.mark.timeout(900)
def test_a_lane_of_two_ranks_gives_the_same_tokens_and_ends_as_a_whole(model: Path, tmp_path: Path) -> None:
    import transformers

    config = engine_config(
        tmp_path,
        f"file://{model}",
        max_context_tokens=48,
        max_rows=2,
        num_ranks=2,
        isolation=Isolation.UNIFIED,
    )
    with InterpretedEngine(config) as engine:
        first = engine.generate(PROMPTS, max_tokens=5)
        lost = engine.lanes[Role.MIXED]
        ranks = group_members(engine.lane_pids[lost])
        assert len(ranks) == 2
        os.kill(max(ranks), signal.SIGKILL)
        engine.pump_until(lambda: messages.LaneLost(lane_id=lost, role=Role.MIXED) in engine.agent_messages)
        engine.confirm_exit(lost)
        engine.start_lane(Role.MIXED, 100)
        again = engine.generate(PROMPTS, max_tokens=5)
        leader = engine.lane_pids[engine.lanes[Role.MIXED]]
        ranks = group_members(leader)
        os.kill(leader, signal.SIGTERM)
        engine.pump_until(lambda: not any(map(is_running, ranks)))
    assert not list(tmp_path.rglob("*.ranks"))
    oracle = GreedyOracle(transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    for prompt, result in zip(PROMPTS, first, strict=True):
        oracle.check(prompt, result.tokens)
    assert [each.tokens for each in again] == [each.tokens for each in first]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("isolation", [Isolation.MPS, Isolation.NONE])
def test_a_lane_that_finds_no_gpu_ends_with_the_code_of_a_fault(isolation: Isolation, tmp_path: Path) -> None:
    config = engine_config(tmp_path, "", isolation=isolation, device="CUDA")
    program = (
        "import sys, msgspec; from semipd_engine.lane.process import LaneOrder, run_lane;"
        "sys.exit(run_lane(msgspec.json.decode(sys.argv[1], type=LaneOrder)))"
    )
    (tmp_path / "engine.json").write_bytes(msgspec.json.encode(config))
    order = LaneOrder(lane_id="decode-1", role=Role.DECODE, percent=60, config=str(tmp_path / "engine.json"))
    done = subprocess.run(
        [sys.executable, "-c", program, msgspec.json.encode(order)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == EXIT_DEVICE_ERROR, done.stderr
    assert len([line for line in (done.stdout + done.stderr).splitlines() if "GPU fault" in line]) == 1
