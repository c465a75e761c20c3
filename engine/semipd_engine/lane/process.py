"""A lane's life: attach the arenas, warm up, say hello to the coordinator, then plan after plan until told to stop.

Runs in a process forked by the zygote. Ends when told (`Stop`), when the coordinator is gone, or by SIGTERM between two steps.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import msgspec
import structlog
import torch

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Isolation, Role
from semipd_engine.lane import ranks
from semipd_engine.lane.arbiter import ControlPage, FreeTurns, Turns
from semipd_engine.lane.followers import EXIT_FAILED, Followers
from semipd_engine.lane.led_turns import LedTurns
from semipd_engine.lane.plan_exchange import plan_of, reach_poison, send_result
from semipd_engine.lane.private_memory import read_host_bytes
from semipd_engine.memory.client import Attachment, attach
from semipd_engine.model.executor import Executor
from semipd_shell import channel, failpoints, log

SHARE_ENVIRONMENT = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


class SecondRole(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The other lane of a process that has both roles."""

    lane_id: str
    role: Role
    percent: int


class LaneOrder(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the zygote is asked to fork."""

    lane_id: str
    role: Role
    percent: int
    config: str  # path of engine.json
    env: dict[str, str] = {}
    log: str | None = None
    second: SecondRole | None = None


def run_lane(order: LaneOrder) -> int:
    """The process's exit code: 0 when told to stop or when the coordinator is gone."""
    log.configure(order.lane_id)
    failpoints.reach("lane.started")
    with open(order.config, "rb") as file:
        config = msgspec.json.decode(file.read(), type=EngineConfig)
    if order.second is not None:
        from semipd_engine.lane.duplex_process import run_duplex_lane  # noqa: PLC0415  # it imports this module

        ranks.take_cpus(config, rank=0)
        return run_duplex_lane(config, order)
    if config.device == "CUDA":
        from semipd_engine.lane.cuda import run_cuda_lane  # noqa: PLC0415  # Triton, which no lane on a CPU needs

        return run_cuda_lane(config, order)
    followers = Followers.fork(config.num_ranks, lambda seat: ranks.follow(config, order.lane_id, seat))
    lane = _Lane(config, order, followers)
    signal.signal(signal.SIGTERM, lane.on_sigterm)
    code = lane.serve()
    followers.end()
    return code


class _Lane:
    def __init__(self, config: EngineConfig, order: LaneOrder, followers: Followers) -> None:
        self._order = order
        self._followers = followers
        self._log = log.logger(__name__)
        self._stopping = False
        started_s = time.monotonic()
        followers.watch(self._on_rank_lost)
        cpus = ranks.take_cpus(config, rank=0)
        attachment = attach(config.memory_socket)
        failpoints.reach("lane.memory_attached")
        page = ControlPage(attachment.control)
        cap_percent = read_cap(config.isolation, order.role, page)
        turns = build_turns(config.isolation, order.role, attachment, page, cap_percent)
        self._turns = LedTurns(turns, followers) if followers else turns
        joined = ranks.join_ranks(config, order.lane_id, rank=0, device=torch.device("cpu"))
        self._executor = Executor.build(config, attachment, joined)
        ranks.warm_up(self._executor, cpus)
        self._channel = channel.connect(config.coordinator_socket)
        self._channel.send(
            messages.LaneHello(
                lane_id=order.lane_id,
                role=order.role,
                pid=os.getpid(),
                requested_percent=order.percent,
                granted_percent=cap_percent(),
                private_bytes=config.num_ranks * read_host_bytes(),
            )
        )
        failpoints.reach("lane.hello_sent")
        self._log.info(
            "lane ready", granted_percent=cap_percent(), seconds=round(time.monotonic() - started_s, 3)
        )

    def on_sigterm(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _on_rank_lost(self, rank: int) -> None:
        """From the thread that watches: the main one may wait for that rank for ever."""
        self._log.error("rank lost", rank=rank)
        os._exit(EXIT_FAILED)

    def serve(self) -> int:
        while not self._stopping:
            if not self._channel.has_message(timeout_s=1.0):
                continue
            try:
                message = self._channel.receive()
            except EOFError:
                self._log.info("coordinator gone")
                return 0
            plan = plan_of(message)
            if plan is None:
                return 0
            try:
                self._run_step(plan)
            except OSError:
                self._log.info("coordinator gone")
                return 0
        return 0

    def _run_step(self, plan: messages.StepPlan) -> None:
        reach_poison(plan)
        structlog.contextvars.bind_contextvars(request_ids=plan.request_ids)
        if self._followers:
            plan = self._executor.spell_out(plan)
            self._followers.send(plan)
        started_ns = time.monotonic_ns()
        with self._turns.step():
            tokens, logprobs = self._executor.execute(plan, self._turns)
        result = messages.StepResult(
            lane_id=self._order.lane_id,
            epoch=plan.epoch,
            tokens=tokens,
            logprobs=logprobs,
            started_ns=started_ns,
            finished_ns=time.monotonic_ns(),
            compute_ns=self._turns.compute_ns,
        )
        send_result(self._channel, result, self._log)


def read_cap(isolation: Isolation, role: Role, page: ControlPage) -> Callable[[], int]:
    """How a lane learns its cap: once from its environment (MPS), at each turn (GreenContext), or not at all."""
    if isolation is Isolation.MPS:
        percent = int(os.environ[SHARE_ENVIRONMENT])
        return lambda: percent
    if isolation is Isolation.GREEN_CONTEXT:
        return lambda: page.cap_percent(role)
    return lambda: 100


def build_turns(
    isolation: Isolation,
    role: Role,
    attachment: Attachment,
    page: ControlPage,
    cap_percent: Callable[[], int],
) -> Turns | FreeTurns:
    if isolation is Isolation.UNIFIED:
        return FreeTurns()
    return Turns(page, attachment.control_fd, role, cap_percent)
