"""How a memory server on a GPU starts or does not, and what it leaves for its agent; as a real process, over a fake driver."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from device_server import NO_IPC, NO_VMM, WITHIN_S, device_config, serving, start

from semipd_core.engine_config import EngineConfig, SpecError

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path, tiny_llama_dir: Path):
    with device_config(tmp_path, tiny_llama_dir) as config:
        yield config


def test_nothing_that_works_is_a_problem_that_says_what_was_tried(config: EngineConfig) -> None:
    process = start(config, lane={"fails": NO_VMM | NO_IPC})
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    problem = Path(config.memory_problem_file).read_text()
    assert "vmm: cuMemImportFromShareableHandle: CUDA_ERROR_NOT_SUPPORTED" in problem
    assert "ipc: cuIpcOpenMemHandle: CUDA_ERROR_INVALID_VALUE" in problem
    assert not Path(config.error_file).exists()


@pytest.mark.parametrize(
    ("server", "overrides", "exit_code", "words"),
    [
        pytest.param({"gpus": []}, {}, 2, "without a GPU", id="no GPU"),
        pytest.param({"fails": {"cuInit": "NO_LIBRARY"}}, {}, 2, "without an NVIDIA driver", id="no driver"),
        pytest.param(
            {"fails": {"cuMemcpyHtoD": "CUDA_ERROR_ECC_UNCORRECTABLE@2"}},
            {},
            1,
            "CUDA_ERROR_ECC_UNCORRECTABLE",
            id="lost mid-load: it may come back",
        ),
        pytest.param({"total_bytes": 4 << 30}, {}, 2, "bytes", id="too little memory"),
        pytest.param({}, {"device": "TPU"}, 2, "TPU", id="a device that there is not"),
        pytest.param(
            {"fails": {"cuDevicePrimaryCtxRetain": "CUDA_ERROR_OUT_OF_MEMORY"}},
            {},
            1,
            "OUT_OF_MEMORY",
            id="busy",
        ),
    ],
)
def test_the_exit_code_says_whether_the_user_acts_or_waiting_helps(
    config: EngineConfig, server: dict, overrides: dict, exit_code: int, words: str
) -> None:
    process = start(msgspec.structs.replace(config, **overrides), server=server)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == exit_code
    if exit_code == 2:
        error = msgspec.json.decode(Path(config.error_file).read_bytes(), type=SpecError)
        assert words in error.given
        assert error.allowed
        assert not Path(config.memory_problem_file).exists()
    else:
        assert words in Path(config.memory_problem_file).read_text()
        assert not Path(config.error_file).exists()


@pytest.mark.parametrize(
    "server", [{"gpus": []}, {"fails": {"cuInit": "CUDA_ERROR_NO_DEVICE"}}], ids=["not shown", "no device"]
)
def test_a_gpu_that_was_there_at_an_earlier_start_may_come_back(config: EngineConfig, server: dict) -> None:
    found = Path(config.model_directory)
    found.mkdir()
    (found / "model.json").touch()
    process = start(config, server=server)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "without a GPU" in Path(config.memory_problem_file).read_text()
    assert not Path(config.error_file).exists()


def test_the_probe_is_a_client_of_the_lanes_mps_daemon_and_the_server_is_not(
    config: EngineConfig, tmp_path: Path
) -> None:
    pipes = tmp_path / "pipe"
    pipes.mkdir()
    (pipes / "control").touch()
    with serving(msgspec.structs.replace(config, mps_pipe_directory=str(pipes))) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert "works between two processes as an MPS client" in said


def test_the_memory_server_on_a_gpu_imports_no_torch() -> None:
    code = (
        "import sys, semipd_engine.memory.device_loading, semipd_engine.cuda.probe;"
        "print(sorted({'torch', 'triton', 'cuda'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
