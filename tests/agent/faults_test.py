"""One word for what is wrong in a pod: of the GPUs, of MPS, and of an engine's input."""

from __future__ import annotations

import pytest

from semipd_agent.device.health import GpuState, GpuVerdict
from semipd_agent.faults import DEVICE_FIELD, FaultReason, find_faults
from semipd_agent.mps.plan import Verdict
from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.view import MpsState
from semipd_core.engine_config import SpecError


def refusal(reason: str) -> Verdict:
    return Verdict(
        state=MpsState.REFUSED, reason=f"{reason}: why", refusal=Refusal(reason=reason, message="why")
    )


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (GpuState.HEALTHY, None),
        (GpuState.DEGRADED, FaultReason.GPU_DEGRADED),
        (GpuState.UNHEALTHY, FaultReason.GPU_UNHEALTHY),
        (GpuState.NEEDS_RESET, FaultReason.GPU_NEEDS_RESET),
        (GpuState.NO_DRIVER, FaultReason.NO_DRIVER),
        (GpuState.LOST, FaultReason.GPU_LOST),
    ],
)
def test_each_state_of_a_gpu_but_the_healthy_one_is_a_fault(
    state: GpuState, reason: FaultReason | None
) -> None:
    found = find_faults(GpuVerdict(state=state, reason="why"), None, {})
    assert [(fault.reason, fault.message) for fault in found] == ([(reason, "why")] if reason else [])


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        pytest.param(Verdict(state=MpsState.ACTIVE, reason="why"), None, id="active"),
        pytest.param(Verdict(state=MpsState.STARTING, reason="why"), None, id="starting"),
        pytest.param(Verdict(state=MpsState.STOPPED, reason="why"), None, id="stopped"),
        pytest.param(Verdict(state=MpsState.ABSENT, reason="why"), None, id="not started yet"),
        pytest.param(
            Verdict(state=MpsState.ABSENT, reason="why", lanes_must_end=True),
            FaultReason.MPS_LOST,
            id="lost under its lanes",
        ),
        pytest.param(refusal("NoBinary"), FaultReason.NO_MPS_BINARY, id="no binary"),
        pytest.param(refusal("NoDriver"), FaultReason.NO_DRIVER, id="no driver"),
        pytest.param(refusal("WrongComputeMode"), FaultReason.MPS_REFUSED, id="another compute mode"),
        pytest.param(Verdict(state=MpsState.FAULT, reason="why"), FaultReason.MPS_FAULT, id="fault"),
        pytest.param(Verdict(state=MpsState.HUNG, reason="why"), FaultReason.MPS_HUNG, id="hung"),
        pytest.param(Verdict(state=MpsState.GIVEN_UP, reason="why"), FaultReason.MPS_GIVEN_UP, id="given up"),
        pytest.param(Verdict(state=MpsState.BYPASSED, reason="why"), FaultReason.MPS_BYPASSED, id="bypassed"),
    ],
)
def test_each_state_of_mps_that_lanes_suffer_from_is_a_fault(
    verdict: Verdict, reason: FaultReason | None
) -> None:
    assert [fault.reason for fault in find_faults(None, verdict, {})] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("path", "given", "reason"),
    [
        ("spec.resources.kvCache", "9 bytes", FaultReason.TOO_LITTLE_MEMORY),
        ("spec.resources.kvCache", "nothing, and 9 bytes by default", FaultReason.TOO_LITTLE_MEMORY),
        ("spec.model.uri", "file:///m, 16000000000 bytes in BF16", FaultReason.TOO_LITTLE_MEMORY),
        ("spec.model.uri", "file:///m", FaultReason.INVALID_INPUT),
        (DEVICE_FIELD, "Tesla T4 (GPU-1) of compute capability 7.5", FaultReason.UNSUPPORTED_GPU),
        (DEVICE_FIELD, "CUDA with a driver for CUDA 12.2", FaultReason.WRONG_CUDA),
        (DEVICE_FIELD, "CUDA with a driver that does not fit (GPU-1: …)", FaultReason.WRONG_CUDA),
        (DEVICE_FIELD, "CUDA without an NVIDIA driver (GPU-1: …)", FaultReason.NO_DRIVER),
        (DEVICE_FIELD, "TPU", FaultReason.INVALID_INPUT),
        ("engine.json", "{", FaultReason.INVALID_INPUT),
    ],
)
def test_what_a_process_refused_is_known_by_the_field_that_it_names(
    path: str, given: str, reason: FaultReason
) -> None:
    error = SpecError(path=path, given=given, allowed="another")
    (fault,) = find_faults(None, None, {"engine-0": error})
    assert (fault.reason, fault.message) == (reason, f"engine-0: {path}: got {given}, allowed: another")


def test_lanes_that_run_out_of_memory_are_a_fault_of_their_engine() -> None:
    (fault,) = find_faults(None, None, {}, {"engine-0": "OutOfMemoryError: 1 GiB"})
    assert fault.reason == FaultReason.TOO_LITTLE_MEMORY
    assert fault.message == "engine-0: no lane: OutOfMemoryError: 1 GiB"


def test_the_gravest_comes_first_and_what_follows_from_it_is_told_once() -> None:
    error = SpecError(path=DEVICE_FIELD, given="CUDA with a driver for CUDA 12.2", allowed="13.0")
    found = find_faults(
        GpuVerdict(state=GpuState.NO_DRIVER, reason="NVML does not start"),
        refusal("NoDriver"),
        {"engine-0": error, "engine-1": error},
    )
    assert [(fault.reason, fault.message) for fault in found] == [
        (FaultReason.NO_DRIVER, "NVML does not start"),
        (FaultReason.WRONG_CUDA, f"engine-0: {DEVICE_FIELD}: got {error.given}, allowed: 13.0"),
    ]
