"""The life of a lane process with both roles: attach once, warm up, say hello for each role, then `DuplexLane` until it ends."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Isolation, Role
from semipd_core.sm_splits import SmSplit
from semipd_engine.lane.arbiter import ControlPage
from semipd_engine.lane.duplex import DuplexLane
from semipd_engine.lane.duplex_cpu import CpuDecode, CpuPrefill, Pace
from semipd_engine.lane.duplex_steps import DecodeSteps, PrefillSteps
from semipd_engine.lane.process import LaneOrder
from semipd_engine.lane.ranks import list_threads, pin_threads
from semipd_engine.memory.client import attach
from semipd_engine.model.executor import Executor
from semipd_shell import channel, failpoints, log


def run_duplex_lane(config: EngineConfig, order: LaneOrder) -> int:
    """The process's exit code: 0 when told to stop or when the coordinator is gone."""
    if config.device == "CUDA":
        from semipd_engine.lane.duplex_cuda import run_cuda_duplex_lane  # noqa: PLC0415  # Triton, which no lane on a CPU needs

        return run_cuda_duplex_lane(config, order)
    started_s = time.monotonic()
    serve_both(config, order, build_cpu_sides(config), started_s)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Both roles, warmed up. `splits`: those that plans may name."""

    prefill: PrefillSteps
    decode: DecodeSteps
    splits: tuple[SmSplit, ...] = ()


def build_cpu_sides(config: EngineConfig) -> Sides:
    attachment = attach(config.memory_socket)
    failpoints.reach("lane.memory_attached")
    page = ControlPage(attachment.control)
    executors = {role: Executor.build(config, attachment) for role in config.isolation.roles}
    before = list_threads()
    for executor in executors.values():
        executor.warm_up()
    pin_threads(config.cpus, list_threads() - before)
    return Sides(
        prefill=CpuPrefill(executors[Role.PREFILL], _pace(config.isolation, Role.PREFILL, page)),
        decode=CpuDecode(executors[Role.DECODE], _pace(config.isolation, Role.DECODE, page)),
    )


def serve_both(config: EngineConfig, order: LaneOrder, sides: Sides, started_s: float) -> None:
    """Say hello for each role, then plan after plan until told to stop; nothing is in flight then."""
    hellos = hellos_of(order, sides.splits)
    channels = {role: channel.connect(config.coordinator_socket) for role in hellos}
    lane = DuplexLane(
        {role: hello.lane_id for role, hello in hellos.items()}, dict(channels), sides.prefill, sides.decode
    )
    signal.signal(signal.SIGTERM, lambda *_: lane.stop())
    for role, hello in hellos.items():
        channels[role].send(hello)
    failpoints.reach("lane.hello_sent")
    seconds = round(time.monotonic() - started_s, 3)
    log.logger(__name__).info(
        "lane ready", lane_ids=[hello.lane_id for hello in hellos.values()], seconds=seconds
    )
    lane.serve()


def hellos_of(order: LaneOrder, splits: tuple[SmSplit, ...]) -> dict[Role, messages.LaneHello]:
    """A hello for each role of the process."""
    assert order.second is not None
    hellos = {
        each.role: messages.LaneHello(
            lane_id=each.lane_id,
            role=each.role,
            pid=os.getpid(),
            requested_percent=each.percent,
            granted_percent=each.percent,  # the coordinator knows what the wish comes to on `splits`
            splits=splits,
        )
        for each in (order, order.second)
    }
    assert set(hellos) == {Role.PREFILL, Role.DECODE}, hellos
    return hellos


def _pace(isolation: Isolation, role: Role, page: ControlPage) -> Pace:
    if isolation is Isolation.GREEN_CONTEXT:
        return Pace(lambda: page.cap_percent(role))
    return Pace(lambda: 100)
