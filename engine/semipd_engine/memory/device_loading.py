"""From an engine's config to filled arenas on a GPU: facts, refusals, free memory, the probe, and then the load."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from semipd_core.engine_config import EngineConfig
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.facts import read_facts, read_torch_cuda
from semipd_engine.cuda.libcuda import Libcuda
from semipd_engine.cuda.probing import Prober, choose_transport
from semipd_engine.memory.arena import Arena
from semipd_engine.memory.device_filling import build_manifest, fill
from semipd_engine.memory.device_places import Place, find_places, on_device
from semipd_engine.memory.gpu_budget import GpuMemory, awaited_free_bytes, check_weights, num_device_blocks
from semipd_engine.memory.loading import ResolvedModel, resolve_model, write_model_directory
from semipd_engine.memory.manifest import CONTROL_BYTES, Manifest, Transport
from semipd_engine.model.dtypes import resolve_cuda_dtype

FREE_WITHIN_S = 30.0
POLL_S = 0.5
MPS_PIPE_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaMachine:
    """What a test puts others in place of."""

    open_driver: Callable[[], Driver] = Libcuda
    probe_command: Sequence[str] = (sys.executable, "-m", "semipd_engine.cuda.probe")
    torch_cuda: Callable[[], tuple[int, int] | None] = read_torch_cuda
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class DeviceArenas:
    """Filled arenas on a GPU and their manifest, ready to be handed out."""

    def __init__(self, manifest: Manifest, fds: list[int], owned: ExitStack) -> None:
        """`owned` gives everything back."""
        self.manifest = manifest
        self.fds = fds
        self._owned = owned

    def close(self) -> None:
        """Raises: CudaError."""
        self._owned.close()


def prepare_device(
    config: EngineConfig, machine: CudaMachine, log: structlog.stdlib.BoundLogger
) -> list[DeviceArenas]:
    """Resolve the model, write `model/`, load each rank's weights into the memory of its GPU.

    Raises: InvalidSpec for whatever the user must change, CudaError, DeviceError. Nothing is kept then.
    """
    started_s = machine.clock()
    model = resolve_model(config, resolve_cuda_dtype(config.dtype), log)
    driver = machine.open_driver()
    facts = read_facts(driver, machine.environment, machine.torch_cuda)
    places = find_places(config, driver, facts, log)
    control = Arena("semipd-control", CONTROL_BYTES)
    with contextlib.closing(control), ExitStack() as contexts, ExitStack() as owned:
        blocks = []
        for place in places:
            contexts.enter_context(on_device(driver, place.device_index))
            blocks.append(_divide_memory(config, machine, driver, place, model, log))
        write_model_directory(Path(config.model_directory), model.config, model.source)
        arenas = [
            _load(config, machine, driver, place, model, min(blocks), control.fd, owned, log)
            for place in places
        ]
        owned.pop_all()
    seconds = round(machine.clock() - started_s, 2)
    kv_bytes = sum(each.manifest.kv_bytes for each in arenas)
    log.info("arenas ready", weights_bytes=model.weights_bytes, kv_bytes=kv_bytes, seconds=seconds)
    return arenas


def _load(
    config: EngineConfig,
    machine: CudaMachine,
    driver: Driver,
    place: Place,
    model: ResolvedModel,
    num_blocks: int,
    control_fd: int,
    owned: ExitStack,
    log: structlog.stdlib.BoundLogger,
) -> DeviceArenas:
    """The arenas of one rank. Raises: InvalidSpec, CudaError, DeviceError."""
    with ExitStack() as own, ExitStack() as context:
        context.enter_context(on_device(driver, place.device_index))
        transport = _choose(config, machine, driver, place.device_index, place.gpu, log)
        granularity_bytes = driver.granularity(place.device_index)
        manifest = build_manifest(
            config, model, place.rank, num_blocks, transport, place.gpu, granularity_bytes
        )
        if transport is not Transport.VMM:  # the memory is its context's
            own.push(context.pop_all())
        manifest, fds = fill(driver, place.device_index, model, place.rank, manifest, control_fd, own, log)
        kept = own.pop_all()
    owned.callback(kept.close)
    return DeviceArenas(manifest, fds, kept)


def _divide_memory(
    config: EngineConfig,
    machine: CudaMachine,
    driver: Driver,
    place: Place,
    model: ResolvedModel,
    log: structlog.stdlib.BoundLogger,
) -> int:
    """KV blocks that a rank's GPU has room for; its context is current. Raises: InvalidSpec, CudaError."""
    num_ranks, (_, weights_bytes) = config.num_ranks, model.placed[place.rank]
    wanted_bytes = None if config.kv_bytes is None else -(-config.kv_bytes // num_ranks)
    memory = _await_memory(machine, driver, place.gpu, weights_bytes, wanted_bytes, log)
    part = f", rank {place.rank} of {num_ranks}" if num_ranks > 1 else ""
    check_weights(memory, weights_bytes, f"{model.source.location} in {model.config.dtype}{part}")
    num_blocks = num_device_blocks(
        model.shards[place.rank].model,
        memory,
        weights_bytes=weights_bytes,
        block_tokens=config.block_tokens,
        max_rows=config.max_rows,
        wanted_bytes=config.kv_bytes,
        num_ranks=num_ranks,
    )
    log.info(
        "model resolved",
        source=model.source.location,
        dtype=model.config.dtype,
        num_blocks=num_blocks,
        free_bytes=memory.free_bytes,
        lane_bytes=memory.lane_bytes,
    )
    return num_blocks


def _await_memory(
    machine: CudaMachine,
    driver: Driver,
    gpu: str,
    weights_bytes: int,
    wanted_kv_bytes: int | None,
    log: structlog.stdlib.BoundLogger,
) -> GpuMemory:
    """What there is once enough is free, or after FREE_WITHIN_S: processes that have just ended still give theirs back."""
    started_s = machine.clock()
    while True:
        free_bytes, total_bytes = driver.memory_info()
        memory = GpuMemory(gpu=gpu, free_bytes=free_bytes, total_bytes=total_bytes)
        awaited_bytes = awaited_free_bytes(memory, weights_bytes, wanted_kv_bytes)
        if free_bytes >= awaited_bytes or machine.clock() - started_s >= FREE_WITHIN_S:
            return memory
        log.info("waiting for memory", free_bytes=free_bytes, awaited_bytes=awaited_bytes)
        machine.sleep(POLL_S)


def _choose(
    config: EngineConfig,
    machine: CudaMachine,
    driver: Driver,
    device_index: int,
    gpu: str,
    log: structlog.stdlib.BoundLogger,
) -> Transport:
    """Raises: DeviceError."""
    pipes = config.mps_pipe_directory
    prober = Prober(
        driver=driver,
        device_index=device_index,
        gpu=gpu,
        command=machine.probe_command,
        environment={**machine.environment, **({} if pipes is None else {MPS_PIPE_DIRECTORY: pipes})},
        wants_mps=pipes is not None,
    )
    return choose_transport(prober, log, clock=machine.clock, sleep=machine.sleep)
