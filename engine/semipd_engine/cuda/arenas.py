"""The lanes' side: the arenas of a memory server on a GPU, as torch tensors over memory that is not torch's."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from semipd_core.errors import DeviceError
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.imported import import_ipc, import_vmm
from semipd_engine.cuda.owned import round_up
from semipd_engine.cuda.preflight import refuse_allocator
from semipd_engine.memory.client import ask
from semipd_engine.memory.manifest import CONTROL_BYTES, Manifest, Transport

Wrap = Callable[[int, int, int], Tensor]  # address, bytes, device_index


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAttachment:
    """Views of `weights` and `kv` must be gone, and the work on them done, before `close`."""

    manifest: Manifest
    weights: Tensor  # uint8; mapped read-only under VMM: a kernel that writes faults
    kv: Tensor  # uint8
    control: mmap.mmap
    control_fd: int  # the arbiter's record locks are taken on it
    mapped: ExitStack = field(default_factory=ExitStack)  # how it is all taken back

    def close(self) -> None:
        """Raises: CudaError."""
        self.mapped.close()
        self.control.close()
        os.close(self.control_fd)


def wrap_device_memory(address: int, num_bytes: int, device_index: int) -> Tensor:
    """uint8, on cuda:device_index; the memory stays somebody else's."""
    return torch.as_tensor(_DeviceBytes(address, num_bytes), device=torch.device("cuda", device_index))


class _DeviceBytes:
    """Source: numba, "CUDA Array Interface (Version 3)". torch takes no read-only ones, so none says that it is."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def attach_device(
    path: str, driver: Driver, device_index: int, *, wrap: Wrap = wrap_device_memory
) -> DeviceAttachment:
    """Map the arenas of the memory server at `path`, which are on the GPU that is `device_index` in this process.

    The device's primary context, torch's own, is made current to this thread.
    Raises: NotReadyYet if no server is there, InvalidSpec for torch with expandable segments, DeviceError if the arenas are not
    on that GPU, CudaError. Nothing is mapped then.
    """
    if (refusal := refuse_allocator(os.environ)) is not None:
        raise refusal
    manifest, fds = ask(path)
    with ExitStack() as mapped, ExitStack() as opened:
        for fd in fds.values():
            opened.callback(os.close, fd)
        driver.init()
        check_place(manifest, driver.uuid(device_index))
        driver.retain_context(device_index)
        mapped.callback(driver.release_context, device_index)
        weights, kv = _map(manifest, fds, driver, device_index, mapped)
        return DeviceAttachment(
            manifest=manifest,
            weights=wrap(weights, manifest.weights_bytes, device_index),
            kv=wrap(kv, manifest.kv_bytes, device_index),
            control=mmap.mmap(fds["control"], CONTROL_BYTES),
            control_fd=os.dup(fds["control"]),
            mapped=mapped.pop_all(),
        )


def check_place(manifest: Manifest, gpu: str) -> None:
    """Raises: DeviceError."""
    if manifest.transport is Transport.MEMFD:
        raise DeviceError(f"arenas in host memory: transport: got {manifest.transport}, allowed: vmm or ipc")
    if manifest.gpu != gpu:
        raise DeviceError(f"arenas of another GPU: gpu: got {manifest.gpu}, allowed: {gpu}, this lane's own")


def _map(
    manifest: Manifest, fds: dict[str, int], driver: Driver, device_index: int, undo: ExitStack
) -> tuple[int, int]:
    """Addresses of weights and KV."""
    if manifest.transport is Transport.IPC:
        weights, kv = (import_ipc(driver, undo, handle) for handle in (manifest.weights_ipc, manifest.kv_ipc))
        return weights, kv

    def import_arena(name: str, num_bytes: int, *, writable: bool) -> int:
        allocated_bytes = round_up(num_bytes, manifest.granularity_bytes)
        return import_vmm(driver, undo, fds[name], allocated_bytes, device_index, writable=writable)

    weights = import_arena("weights", manifest.weights_bytes, writable=False)
    return weights, import_arena("kv", manifest.kv_bytes, writable=True)
