"""Makes the arenas on a GPU and fills them: weights through one host buffer, tensor by tensor, and a KV cache of zeros."""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack

import msgspec
import structlog

from semipd_core.engine_config import EngineConfig
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.host_memory import HostBuffer
from semipd_engine.cuda.owned import OwnedMemory, allocate
from semipd_engine.memory.loading import ResolvedModel, report_progress
from semipd_engine.memory.manifest import Manifest, Transport
from semipd_engine.model import weights


def build_manifest(
    config: EngineConfig,
    model: ResolvedModel,
    rank: int,
    num_blocks: int,
    transport: Transport,
    gpu: str,
    granularity_bytes: int,
) -> Manifest:
    entries, weights_bytes = model.placed[rank]
    return Manifest(
        model=model.shards[rank].model,
        weights=entries,
        weights_bytes=weights_bytes,
        num_blocks=num_blocks,
        block_tokens=config.block_tokens,
        transport=transport,
        gpu=gpu,
        granularity_bytes=granularity_bytes if transport is Transport.VMM else 1,
    )


def fill(
    driver: Driver,
    device_index: int,
    model: ResolvedModel,
    rank: int,
    manifest: Manifest,
    control_fd: int,
    owned: ExitStack,
    log: structlog.stdlib.BoundLogger,
) -> tuple[Manifest, list[int]]:
    """The rank's manifest with its handles, and its descriptors. `owned` hears what is to be given back.

    The device's context is current. Raises: InvalidSpec, CudaError.
    """

    def own(num_bytes: int) -> OwnedMemory:
        memory = allocate(manifest.transport, driver, device_index, num_bytes)
        owned.callback(memory.close)
        return memory

    weights_memory, kv_memory = own(manifest.weights_bytes), own(manifest.kv_bytes)
    control = os.dup(control_fd)
    owned.callback(os.close, control)
    _copy_weights(driver, weights_memory.address, model, rank, log)
    driver.fill(kv_memory.address, 0, kv_memory.num_bytes)
    offers = [memory.offer() for memory in (weights_memory, kv_memory)]
    for memory in (weights_memory, kv_memory):
        memory.unmap()
    manifest = msgspec.structs.replace(
        manifest, weights_ipc=offers[0].ipc_handle, kv_ipc=offers[1].ipc_handle
    )
    return manifest, [*(offer.fd for offer in offers if offer.fd is not None), control]


def _copy_weights(
    driver: Driver, address: int, model: ResolvedModel, rank: int, log: structlog.stdlib.BoundLogger
) -> None:
    """Through one host buffer as large as the largest tensor."""
    report = report_progress(model.weights_bytes, log)
    entries, _ = model.placed[rank]
    written_before = sum(num_bytes for _, num_bytes in model.placed[:rank])
    with contextlib.closing(HostBuffer(max(entry.num_bytes for entry in entries))) as buffer:
        for tensor, entry in zip(model.shards[rank].tensors, entries, strict=True):
            in_buffer = msgspec.structs.replace(entry, offset=0)
            weights.load([tensor], [in_buffer], model.source, buffer.view, _ignore)
            driver.copy_to_device(address + entry.offset, buffer.address, entry.num_bytes)
            report(written_before + entry.offset + entry.num_bytes)


def _ignore(_written_bytes: int) -> None:
    return
