"""A lane on a GPU: attach the arenas, warm up, capture graphs, say what was granted, then steps in flight until told to stop.

With several ranks each is a process like this one, on a GPU of its own; only the first talks to the coordinator.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
import torch

from semipd_core import messages
from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import InvalidSpec
from semipd_engine.cuda.arenas import attach_device
from semipd_engine.cuda.devices import find_device_again
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.libcuda import Libcuda
from semipd_engine.cuda_model.device import CudaStepDevice
from semipd_engine.cuda_model.executor import CudaExecutor
from semipd_engine.lane import device_faults, ranks
from semipd_engine.lane.collective_limits import nccl_environment, smallest_percent
from semipd_engine.lane.followers import EXIT_FAILED, Followers, Seat
from semipd_engine.lane.grant import DriverSmCounts, common_grant, read_granted_percent
from semipd_engine.lane.led_steps import LedSteps, follow_plans
from semipd_engine.lane.private_memory import device_bytes_of, read_device_used_bytes
from semipd_engine.lane.step_loop import StepLoop, StopOrder
from semipd_engine.model.ranks import Ranks
from semipd_shell import channel, failpoints, log
from semipd_shell.files import write_atomically

if TYPE_CHECKING:
    from semipd_engine.lane.process import LaneOrder

EXIT_INVALID_SPEC = 2


def run_cuda_lane(config: EngineConfig, order: LaneOrder) -> int:
    """The process's exit code: 0 when told to stop or when the coordinator is gone; EXIT_INVALID_SPEC with the
    reason in `error.json`; or that of `device_faults`.
    """
    logger = log.logger(__name__)
    followers = Followers.fork(
        config.num_ranks, lambda seat: _judged(config, logger, lambda: _follow(config, order, seat, logger))
    )
    stop = StopOrder()
    signal.signal(signal.SIGTERM, stop.give)
    code = _judged(config, logger, lambda: _serve(config, order, stop, followers, logger))
    if code == 0:
        followers.end()
    return code


def _judged(config: EngineConfig, logger: structlog.stdlib.BoundLogger, live: Callable[[], None]) -> int:
    """The exit code of a process of the lane."""
    try:
        live()
    except InvalidSpec as error:
        logger.error("invalid spec", path=error.path, given=str(error.given), allowed=error.allowed)
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return EXIT_INVALID_SPEC
    except Exception as error:
        fault = device_faults.judge(error)
        if fault is None:
            raise
        return device_faults.tell(fault, config, logger)
    return 0


def _serve(
    config: EngineConfig,
    order: LaneOrder,
    stop: StopOrder,
    followers: Followers,
    logger: structlog.stdlib.BoundLogger,
) -> None:
    """Raises: RankLost, and what `build` raises."""
    started_s = time.monotonic()
    followers.watch(lambda rank: _end_with(rank, logger))
    ranks.take_cpus(config, rank=0)
    executor, granted_percent, read_private_bytes = build(config, order, logger)
    executor.warm_up(_as_first_says(lambda: stop.is_given, executor.ranks))
    if stop.is_given:
        executor.drain()  # who ends in the middle of a kernel may take other MPS clients along
        logger.info("told to stop before it was ready")
        return
    gc.collect()
    gc.freeze()  # what lives now lives on: no later collection looks at it in the middle of a step
    coordinator = channel.connect(config.coordinator_socket)
    steps = LedSteps(executor, followers) if followers else executor
    loop = StepLoop(order.lane_id, coordinator, steps, stop, logger)
    coordinator.send(
        messages.LaneHello(
            lane_id=order.lane_id,
            role=order.role,
            pid=os.getpid(),
            requested_percent=order.percent,
            granted_percent=granted_percent,
            private_bytes=read_private_bytes(),
        )
    )
    failpoints.reach("lane.hello_sent")
    logger.info("lane ready", granted_percent=granted_percent, seconds=round(time.monotonic() - started_s, 3))
    loop.run()


def _follow(config: EngineConfig, order: LaneOrder, seat: Seat, logger: structlog.stdlib.BoundLogger) -> None:
    """The life of a rank after the first. Raises: what `build` raises."""
    log.configure(f"{order.lane_id}-rank-{seat.rank}")
    ranks.take_cpus(config, seat.rank)
    executor, *_ = build(config, order, logger, seat.rank)
    executor.warm_up(_as_first_says(lambda: False, executor.ranks))
    gc.collect()
    gc.freeze()
    follow_plans(seat.channel, executor)


def _end_with(rank: int, logger: structlog.stdlib.BoundLogger) -> None:
    """From the thread that watches: the main one may wait for that rank for ever."""
    logger.error("rank lost", rank=rank)
    os._exit(EXIT_FAILED)


def _as_first_says(ask: Callable[[], bool], joined: Ranks) -> Callable[[], bool]:
    """The first rank's answer, with every rank: one that stopped alone would leave the others in a collective."""
    return lambda: bool(joined.exchange(int(ask()))[0])


def build(
    config: EngineConfig, order: LaneOrder, logger: structlog.stdlib.BoundLogger, rank: int = 0
) -> tuple[CudaExecutor, int, Callable[[], int]]:
    """The executor on the rank's GPU, which it shares with no other rank, the percent that the lane was granted, and what
    tells the bytes that it holds there.

    Raises: DeviceError, InvalidSpec, NotReadyYet, torch.OutOfMemoryError; RuntimeError if the other ranks do not come.
    """
    driver = Libcuda()
    driver.init()
    index = find_device_again(driver, config.gpu_of(rank))
    uuid = driver.uuid(index)
    used_before_bytes = read_device_used_bytes(uuid)
    granted_percent = read_granted_percent(config.isolation, order.percent, driver, index, logger)
    torch.cuda.set_device(index)
    attachment = attach_device(config.memory_socket_of(rank), driver, index)
    failpoints.reach("lane.memory_attached")
    joined = _join(config, order, rank, driver, index)
    granted_percent = common_grant(joined.exchange(granted_percent))
    executor = CudaExecutor.build(config, attachment, CudaStepDevice(index), order.role, joined)

    def read_private_bytes() -> int:
        return device_bytes_of(
            used_before_bytes, read_device_used_bytes(uuid), torch.cuda.memory_reserved(index)
        )

    return executor, granted_percent, read_private_bytes


def _join(config: EngineConfig, order: LaneOrder, rank: int, driver: Driver, device_index: int) -> Ranks:
    """Raises: DeviceError; RuntimeError if the other ranks do not come."""
    if config.num_ranks > 1:
        device_sms = DriverSmCounts(driver, device_index).whole()
        percent = smallest_percent(config.isolation, config.bounds)
        os.environ.update(nccl_environment(device_sms, percent))
    return ranks.join_ranks(config, order.lane_id, rank, torch.device("cuda", device_index))
