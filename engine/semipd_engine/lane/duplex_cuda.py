"""Both roles on a GPU in one process: green contexts for every legal split, an executor for each role over the same arenas."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Role
from semipd_engine.cuda.arenas import attach_device
from semipd_engine.cuda.devices import find_device_again
from semipd_engine.cuda.green import GreenContexts
from semipd_engine.cuda.green_driver import LibcudaGreen
from semipd_engine.cuda.libcuda import Libcuda
from semipd_engine.cuda_model.arenas import DeviceArenas
from semipd_engine.cuda_model.device import CudaStepDevice
from semipd_engine.cuda_model.executor import CudaExecutor
from semipd_engine.cuda_model.graphs import CudaStepGraphs
from semipd_engine.lane import device_faults
from semipd_engine.lane.duplex_process import Sides, serve_both
from semipd_engine.lane.duplex_slices import LaunchedDecode, SlicedPrefill
from semipd_engine.lane.split_device import SplitStepDevice
from semipd_engine.lane.split_streams import SplitStreams
from semipd_shell import failpoints, files, log

if TYPE_CHECKING:
    from semipd_engine.lane.process import LaneOrder

EXIT_INVALID_SPEC = 2
MAX_CONNECTIONS = (
    "32"  # hardware queues, 8 by default; without work queues, streams of both roles may share one
)
ALL_SHARES = Band(
    prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100
)


def run_cuda_duplex_lane(config: EngineConfig, order: LaneOrder) -> int:
    """The process's exit code: 0 when told to stop or the coordinator is gone; EXIT_INVALID_SPEC; that of `device_faults`."""
    logger = log.logger(__name__)
    started_s = time.monotonic()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", MAX_CONNECTIONS)  # read when CUDA starts
    try:
        _serve(config, order, started_s)
    except InvalidSpec as error:
        wrong = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        files.write_atomically(Path(config.error_file), msgspec.json.encode(wrong))
        return EXIT_INVALID_SPEC
    except Exception as error:
        fault = device_faults.judge(error)
        if fault is None:
            raise
        return device_faults.tell(fault, config, logger)
    return 0


def _serve(config: EngineConfig, order: LaneOrder, started_s: float) -> None:
    """Raises: InvalidSpec if the bounds hold no split of this GPU; DeviceError, torch.OutOfMemoryError."""
    driver = Libcuda()
    driver.init()
    index = find_device_again(driver, config.gpu)
    torch.cuda.set_device(index)
    torch.zeros(1, device="cuda")  # the primary context, before those that are made from it
    with GreenContexts(LibcudaGreen(), index, config.bounds or ALL_SHARES) as green:
        log.logger(__name__).info(
            "green contexts",
            splits=[str(pair.split) for pair in green.pairs],
            work_queues=green.has_work_queues,
        )
        try:
            streams = {role: SplitStreams.of(green.pairs, role) for role in (Role.PREFILL, Role.DECODE)}
            attachment = attach_device(config.memory_socket, driver, index)
            failpoints.reach("lane.memory_attached")
            sides = build_sides(config, attachment, streams, index)
            gc.collect()
            gc.freeze()  # what lives now lives on: no later collection looks at it in the middle of a step
            serve_both(config, order, sides, started_s)
        finally:
            torch.cuda.synchronize()  # streams end before their contexts, and idle


def build_sides(
    config: EngineConfig, arenas: DeviceArenas, streams: dict[Role, SplitStreams], device_index: int
) -> Sides:
    """Warmed up on every stream."""
    executors = {
        role: CudaExecutor.build(config, arenas, build_device(streams[role], device_index), role)
        for role in streams
    }
    for role in (Role.DECODE, Role.PREFILL):  # a capture gives back what a prompt has taken
        executors[role].warm_up()
        warm_streams(executors[role], streams[role])
    prefill, decode = executors[Role.PREFILL], executors[Role.DECODE]
    return Sides(
        prefill=SlicedPrefill(prefill, streams[Role.PREFILL], prefill.depth),
        decode=LaunchedDecode(decode, streams[Role.DECODE], decode.depth),
        splits=tuple(streams[Role.PREFILL].by_split),
    )


def build_device(streams: SplitStreams, device_index: int) -> SplitStepDevice:
    """Graphs of one stream share their memory, as no two of one role run at a time.

    Those of two streams do not, nor do steps: what one stream has freed torch's allocator gives to that stream alone, also in
    one pool.
    """
    pool = torch.cuda.graph_pool_handle()
    return SplitStepDevice(
        streams,
        lambda stream: CudaStepDevice(device_index, stream),
        lambda stream: CudaStepGraphs(stream, pool),
    )


def warm_streams(executor: CudaExecutor, streams: SplitStreams) -> None:
    """The largest steps on each stream after the first, so that none takes its memory in the middle of serving.

    A chunk runs for longer the fewer SMs its split has: seconds for all splits of a large model.
    """
    start = streams.split
    others = {stream: split for split, stream in streams.by_split.items() if stream is not streams.current}
    for split in others.values():
        streams.select(split)
        executor.warm_stream()
    streams.select(start)
