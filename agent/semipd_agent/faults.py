"""What is wrong in this pod, one word and one sentence each, the gravest first. Pure.

The words are reasons of the condition `Degraded` of the pod's SemiPDPartition, and labels of `semipd_agent_fault`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from semipd_agent.device.health import GpuState, GpuVerdict
from semipd_agent.mps.plan import Verdict
from semipd_agent.mps.view import MpsState
from semipd_core.agent_config import FaultStatus
from semipd_core.engine_config import SpecError


class FaultReason(StrEnum):
    """In the order of their gravity: what stands first explains what follows."""

    GPU_LOST = "GpuLost"
    NO_DRIVER = "NoDriver"
    GPU_NEEDS_RESET = "GpuNeedsReset"
    GPU_UNHEALTHY = "GpuUnhealthy"
    UNSUPPORTED_GPU = "UnsupportedGpu"
    WRONG_CUDA = "WrongCuda"
    TOO_LITTLE_MEMORY = "TooLittleMemory"
    INVALID_INPUT = "InvalidInput"
    NO_MPS_BINARY = "NoMpsBinary"
    MPS_REFUSED = "MpsRefused"
    MPS_GIVEN_UP = "MpsGivenUp"
    MPS_FAULT = "MpsFault"
    MPS_HUNG = "MpsHung"
    MPS_LOST = "MpsLost"
    MPS_BYPASSED = "MpsBypassed"
    GPU_DEGRADED = "GpuDegraded"


_OF_GPU: Mapping[GpuState, FaultReason] = MappingProxyType(
    {
        GpuState.LOST: FaultReason.GPU_LOST,
        GpuState.NO_DRIVER: FaultReason.NO_DRIVER,
        GpuState.NEEDS_RESET: FaultReason.GPU_NEEDS_RESET,
        GpuState.UNHEALTHY: FaultReason.GPU_UNHEALTHY,
        GpuState.DEGRADED: FaultReason.GPU_DEGRADED,
    }
)
_OF_MPS: Mapping[MpsState, FaultReason] = MappingProxyType(
    {
        MpsState.ABSENT: FaultReason.MPS_LOST,
        MpsState.REFUSED: FaultReason.MPS_REFUSED,
        MpsState.BYPASSED: FaultReason.MPS_BYPASSED,
        MpsState.FAULT: FaultReason.MPS_FAULT,
        MpsState.HUNG: FaultReason.MPS_HUNG,
        MpsState.GIVEN_UP: FaultReason.MPS_GIVEN_UP,
    }
)
_REFUSALS: Mapping[str, FaultReason] = MappingProxyType(
    {"NoBinary": FaultReason.NO_MPS_BINARY, "NoDriver": FaultReason.NO_DRIVER}
)
MEMORY_FIELDS = ("spec.resources.kvCache", "spec.model.uri")
DEVICE_FIELD = "spec.resources.device"
# Of the memory server's preflight, in what was given.
_WORDS: Mapping[str, FaultReason] = MappingProxyType(
    {
        "compute capability": FaultReason.UNSUPPORTED_GPU,
        "driver for CUDA": FaultReason.WRONG_CUDA,
        "driver that does not fit": FaultReason.WRONG_CUDA,
        "without an NVIDIA driver": FaultReason.NO_DRIVER,
    }
)


def find_faults(
    gpu: GpuVerdict | None,
    mps: Verdict | None,
    errors: Mapping[str, SpecError],
    short_lanes: Mapping[str, str] = MappingProxyType({}),
) -> list[FaultStatus]:
    """`errors`, and `short_lanes` (why lanes found too little memory): by engine.

    One fault per reason and message; those of MPS that a lost driver explains are left out.
    """
    found = [of_gpu(gpu), of_mps(mps), *(of_error(name, error) for name, error in errors.items())]
    found += [of_lanes(name, said) for name, said in short_lanes.items()]
    faults = [fault for fault in found if fault is not None]
    return sorted(
        _without_echoes(faults), key=lambda fault: list(FaultReason).index(FaultReason(fault.reason))
    )


def of_gpu(verdict: GpuVerdict | None) -> FaultStatus | None:
    reason = None if verdict is None else _OF_GPU.get(verdict.state)
    return None if verdict is None or reason is None else FaultStatus(reason=reason, message=verdict.reason)


def of_mps(verdict: Verdict | None) -> FaultStatus | None:
    reason = None if verdict is None else _OF_MPS.get(verdict.state)
    is_beginning = verdict is not None and verdict.state is MpsState.ABSENT and not verdict.lanes_must_end
    if verdict is None or reason is None or is_beginning:
        return None
    if verdict.refusal is not None:
        reason = _REFUSALS.get(verdict.refusal.reason, reason)
    return FaultStatus(reason=reason, message=f"MPS {verdict.state}: {verdict.reason}")


def of_error(engine_id: str, error: SpecError) -> FaultStatus:
    """What a process of the engine found wrong before it began, by the field that it names."""
    message = f"{engine_id}: {error.path}: got {error.given}, allowed: {error.allowed}"
    return FaultStatus(reason=_of_field(error), message=message)


def of_lanes(engine_id: str, said: str) -> FaultStatus:
    """What a lane said that ran out of the GPU's memory."""
    return FaultStatus(reason=FaultReason.TOO_LITTLE_MEMORY, message=f"{engine_id}: no lane: {said}")


def _of_field(error: SpecError) -> FaultReason:
    """Fields of the service name the device for much that can be wrong with it, so the words about it count."""
    if error.path in MEMORY_FIELDS and " bytes" in error.given:
        return FaultReason.TOO_LITTLE_MEMORY
    found = (reason for words, reason in _WORDS.items() if words in error.given)
    return next(found, FaultReason.INVALID_INPUT) if error.path == DEVICE_FIELD else FaultReason.INVALID_INPUT


def _without_echoes(faults: Sequence[FaultStatus]) -> list[FaultStatus]:
    """MPS looks at the same driver: its word on that adds nothing to NVML's."""
    reasons = [fault.reason for fault in faults]
    return [fault for index, fault in enumerate(faults) if fault.reason not in reasons[:index]]
