"""Green contexts as the engine sees them: SM counts and integer handles, over the bindings of `driver`.

Resources are the driver's own structures and are only handed back to it. Every method raises CudaError.
Source: CUDA Driver API, "Green Contexts"; CUDA Programming Guide 4.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from semipd_core.sm_splits import SmRules, plan_sm_rules
from semipd_engine.cuda.driver import CudaError, invoke, load_bindings

WORK_QUEUES_SINCE = 13010  # driver version with work-queue resources
_UNSUPPORTED = {
    "CUDA_ERROR_INVALID_RESOURCE_TYPE",
    "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION",
    "CUDA_ERROR_NOT_SUPPORTED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmResource:
    """A set of SMs, and the rules of its division."""

    sm_count: int
    rules: SmRules
    handle: Any


class GreenDriver(Protocol):
    def sm_resource(self, device_index: int) -> SmResource:
        """All SMs of the device."""

    def split(self, resource: SmResource, sms: int) -> tuple[SmResource, SmResource | None]:
        """A group of at least `sms`, as few more as the rules ask for, and what is left; None: nothing."""

    def work_queues(self, device_index: int, concurrency: int) -> Any | None:
        """Queues of its own for one context with so many streams; None where the driver has no such resource."""

    def create_context(self, device_index: int, resources: Sequence[Any]) -> int:
        """The device's primary context must be active. A resource goes into one context."""

    def granted_sms(self, context: int) -> int:
        """Read back from the context, not from what was asked for."""

    def create_stream(self, context: int | None, priority: int) -> int:
        """On the SMs of a green context; None: on all of the device. Lower numbers go first."""

    def destroy_stream(self, stream: int) -> None:
        """Before its context."""

    def destroy_context(self, context: int) -> None: ...


class LibcudaGreen:
    """`GreenDriver` by cuda-bindings. Raises: CudaError if they are not installed."""

    def __init__(self, bindings: Any = None) -> None:
        self._cu: Any = bindings if bindings is not None else load_bindings()

    def sm_resource(self, device_index: int) -> SmResource:
        found = invoke(self._cu.cuDeviceGetDevResource, self._device(device_index), self._sm_type)
        return self._read(found, self._capability(device_index))

    def split(self, resource: SmResource, sms: int) -> tuple[SmResource, SmResource | None]:
        groups, num_groups, rest = invoke(self._cu.cuDevSmResourceSplitByCount, 1, resource.handle, 0, sms)
        if int(num_groups) < 1:
            raise CudaError(
                "cuDevSmResourceSplitByCount", "NO_GROUP", f"no group of {sms} of {resource.sm_count} SMs"
            )
        group, left = groups[0], int(rest.sm.smCount)
        remainder = SmResource(sm_count=left, rules=resource.rules, handle=rest) if left else None
        return SmResource(sm_count=int(group.sm.smCount), rules=resource.rules, handle=group), remainder

    def work_queues(self, device_index: int, concurrency: int) -> Any | None:
        kinds, scopes = self._cu.CUdevResourceType, getattr(self._cu, "CUdevWorkqueueConfigScope", None)
        kind = getattr(kinds, "CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG", None)
        if scopes is None or kind is None or int(invoke(self._cu.cuDriverGetVersion)) < WORK_QUEUES_SINCE:
            return None
        try:
            queues = invoke(self._cu.cuDeviceGetDevResource, self._device(device_index), kind)
        except CudaError as error:
            if error.code in _UNSUPPORTED:
                return None
            raise
        queues.wqConfig.sharingScope = scopes.CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED
        queues.wqConfig.wqConcurrencyLimit = concurrency
        return queues

    def create_context(self, device_index: int, resources: Sequence[Any]) -> int:
        descriptor = invoke(self._cu.cuDevResourceGenerateDesc, list(resources), len(resources))
        flags = self._cu.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        context = invoke(self._cu.cuGreenCtxCreate, descriptor, self._device(device_index), flags)
        return int(context)

    def granted_sms(self, context: int) -> int:
        found = invoke(self._cu.cuGreenCtxGetDevResource, self._green(context), self._sm_type)
        return int(found.sm.smCount)

    def create_stream(self, context: int | None, priority: int) -> int:
        flags = self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        if context is None:
            return int(invoke(self._cu.cuStreamCreateWithPriority, flags, priority))
        return int(invoke(self._cu.cuGreenCtxStreamCreate, self._green(context), flags, priority))

    def destroy_stream(self, stream: int) -> None:
        invoke(self._cu.cuStreamDestroy, self._cu.CUstream(stream))

    def destroy_context(self, context: int) -> None:
        invoke(self._cu.cuGreenCtxDestroy, self._green(context))

    @property
    def _sm_type(self) -> Any:
        return self._cu.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM

    def _green(self, context: int) -> Any:
        return self._cu.CUgreenCtx(context)

    def _device(self, device_index: int) -> Any:
        return invoke(self._cu.cuDeviceGet, device_index)

    def _capability(self, device_index: int) -> tuple[int, int]:
        names, device = self._cu.CUdevice_attribute, self._device(device_index)
        major, minor = (
            int(invoke(self._cu.cuDeviceGetAttribute, name, device))
            for name in (
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return major, minor

    @staticmethod
    def _read(found: Any, capability: tuple[int, int]) -> SmResource:
        """Bindings and drivers before 13.1 do not tell the rules."""
        planned = plan_sm_rules(capability)
        rules = SmRules(
            granularity=int(getattr(found.sm, "smCoscheduledAlignment", 0)) or planned.granularity,
            minimum=int(getattr(found.sm, "minSmPartitionSize", 0)) or planned.minimum,
        )
        return SmResource(sm_count=int(found.sm.smCount), rules=rules, handle=found)
