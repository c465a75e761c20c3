"""How a lane on a GPU ends when the device fails, and what it says of the share that it was given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semipd_core.errors import DeviceError
from semipd_engine.lane.device_faults import EXIT_DEVICE_ERROR, EXIT_OUT_OF_MEMORY, judge, tell
from semipd_engine.lane.grant import common_grant, judge_grant
from semipd_shell import log

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."),
            EXIT_OUT_OF_MEMORY,
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB.",
            id="out of memory",
        ),
        pytest.param(
            torch.AcceleratorError(ILLEGAL),
            EXIT_DEVICE_ERROR,
            "AcceleratorError: CUDA error: an illegal memory access was encountered",
            id="an error that torch names",
        ),
        pytest.param(
            RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error"),
            EXIT_DEVICE_ERROR,
            "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error",
            id="ranks that cannot meet",
        ),
        pytest.param(
            RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
            EXIT_DEVICE_ERROR,
            "RuntimeError: Triton Error [CUDA]: device kernel image is invalid",
            id="an error of a kernel's launch",
        ),
        pytest.param(
            DeviceError("cuMemMap: CUDA_ERROR_INVALID_VALUE: invalid argument"),
            EXIT_DEVICE_ERROR,
            "DeviceError: cuMemMap: CUDA_ERROR_INVALID_VALUE: invalid argument",
            id="an error of the driver",
        ),
    ],
)
def test_a_fault_of_the_device_has_an_exit_code_and_one_line(
    error: Exception, exit_code: int, words: str
) -> None:
    fault = judge(error)
    assert fault is not None
    assert (fault.exit_code, fault.error) == (exit_code, words)
    assert (fault.advice is not None) == (exit_code == EXIT_OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(torch.OutOfMemoryError("1 GiB"), "OutOfMemoryError: 1 GiB (a smaller", id="memory"),
        pytest.param(DeviceError("cuInit"), None, id="another fault, which may pass"),
    ],
)
def test_a_lane_without_memory_leaves_word_for_the_agent(
    tmp_path: Path, error: Exception, said: str | None
) -> None:
    config: Any = SimpleNamespace(lane_problem_file=str(tmp_path / "lane-problem"))
    fault = judge(error)
    assert fault is not None
    assert tell(fault, config, log.logger(__name__)) == fault.exit_code
    left = tmp_path / "lane-problem"
    assert left.read_text().startswith(said) if said else not left.exists()


def test_a_missing_compiler_is_said_with_what_to_install() -> None:
    said = "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
    fault = judge(RuntimeError(said))
    assert fault is not None
    assert (fault.exit_code, fault.event) == (EXIT_DEVICE_ERROR, "no C compiler")
    assert fault.advice is not None
    assert "gcc and libc6-dev" in fault.advice


@pytest.mark.parametrize("error", [ValueError("row of slot 9"), AssertionError(), RuntimeError("shapes")])
def test_a_defect_is_no_fault_of_the_device(error: Exception) -> None:
    assert judge(error) is None


@dataclass(frozen=True, slots=True)
class Counts:
    sms: int
    is_client: bool = True
    gpu_sms: int = 132

    def is_mps_client(self) -> bool:
        return self.is_client

    def granted(self) -> int:
        return self.sms

    def whole(self) -> int:
        return self.gpu_sms


@pytest.mark.parametrize(
    ("requested", "counts", "percent", "words"),
    [
        pytest.param(60, Counts(78), 60, None, id="rounding explains the difference"),
        pytest.param(100, Counts(132), 100, None, id="the whole GPU was asked for"),
        pytest.param(60, Counts(132), 100, "without MPS", id="a cap that nobody enforces"),
        pytest.param(60, Counts(78, is_client=False), 100, "without MPS", id="no client of a server"),
        pytest.param(60, Counts(40), 30, "fewer", id="fewer SMs than asked for"),
    ],
)
def test_a_lane_reports_the_share_that_it_was_given(
    requested: int, counts: Any, percent: int, words: str | None
) -> None:
    grant = judge_grant(requested, counts)
    assert grant.percent == percent
    assert (grant.reason is None) if words is None else (words in str(grant.reason))


def test_counts_that_contradict_each_other_end_the_lane() -> None:
    with pytest.raises(DeviceError, match="counts 140 SMs for this lane, NVML 132"):
        judge_grant(60, Counts(140))


def test_ranks_that_were_granted_the_same_report_it() -> None:
    assert common_grant([60, 60, 60]) == 60


def test_a_rank_that_was_granted_another_share_ends_the_lane() -> None:
    with pytest.raises(DeviceError, match="rank 0 60 %, rank 1 100 %"):
        common_grant([60, 100])
