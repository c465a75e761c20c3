"""A lane's life: attach the arenas, warm up, say hello to the coordinator, then plan after plan until told to stop.

Runs in a process forked by the zygote. Ends when told (`Stop`), when the coordinator is gone, or by SIGTERM between two steps.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog
import torch

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Isolation, Role
from semipd_engine.lane.arbiter import ControlPage, FreeTurns, Turns
from semipd_engine.memory.client import Attachment, attach
from semipd_engine.model.executor import Executor
from semipd_shell import channel, failpoints, log

SHARE_ENVIRONMENT = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


class LaneOrder(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the zygote is asked to fork."""

    lane_id: str
    role: Role
    percent: int
    config: str  # path of engine.json
    env: dict[str, str] = {}
    log: str | None = None


def run_lane(order: LaneOrder) -> int:
    """The process's exit code: 0 when told to stop or when the coordinator is gone."""
    log.configure(order.lane_id)
    failpoints.reach("lane.started")
    with open(order.config, "rb") as file:
        config = msgspec.json.decode(file.read(), type=EngineConfig)
    os.sched_setaffinity(0, config.cpus)
    torch.set_num_threads(len(config.cpus))
    lane = _Lane(config, order)
    signal.signal(signal.SIGTERM, lane.on_sigterm)
    return lane.serve()


class _Lane:
    def __init__(self, config: EngineConfig, order: LaneOrder) -> None:
        self._order = order
        self._log = log.logger(__name__)
        self._stopping = False
        started_s = time.monotonic()
        attachment = attach(config.memory_socket)
        failpoints.reach("lane.memory_attached")
        page = ControlPage(attachment.control)
        cap_percent = read_cap(config.isolation, order.role, page)
        self._turns = build_turns(config.isolation, order.role, attachment, page, cap_percent)
        self._executor = Executor.build(config, attachment)
        before = list_threads()
        self._executor.warm_up()
        pin_threads(config.cpus, list_threads() - before)
        self._channel = channel.connect(config.coordinator_socket)
        self._channel.send(
            messages.LaneHello(
                lane_id=order.lane_id,
                role=order.role,
                pid=os.getpid(),
                requested_percent=order.percent,
                granted_percent=cap_percent(),
            )
        )
        failpoints.reach("lane.hello_sent")
        self._log.info(
            "lane ready", granted_percent=cap_percent(), seconds=round(time.monotonic() - started_s, 3)
        )

    def on_sigterm(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def serve(self) -> int:
        while not self._stopping:
            if not self._channel.has_message(timeout_s=1.0):
                continue
            try:
                message = self._channel.receive()
            except EOFError:
                self._log.info("coordinator gone")
                return 0
            if isinstance(message, messages.Stop):
                failpoints.reach("lane.stop_received")
                return 0
            assert isinstance(message, messages.StepPlan), message
            try:
                self._run_step(message)
            except OSError:
                self._log.info("coordinator gone")
                return 0
        return 0

    def _run_step(self, plan: messages.StepPlan) -> None:
        failpoints.reach("lane.plan_received")
        for row in plan.rows:
            failpoints.reach_poison(row.tokens)
        structlog.contextvars.bind_contextvars(request_ids=plan.request_ids)
        started_ns = time.monotonic_ns()
        with self._turns.step():
            tokens, logprobs = self._executor.execute(plan, self._turns)
        failpoints.reach("lane.result.before_send")
        finished_ns = time.monotonic_ns()
        self._log.debug("step", epoch=plan.epoch, milliseconds=(finished_ns - started_ns) / 1e6)
        self._channel.send(
            messages.StepResult(
                lane_id=self._order.lane_id,
                epoch=plan.epoch,
                tokens=tokens,
                logprobs=logprobs,
                started_ns=started_ns,
                finished_ns=finished_ns,
                compute_ns=self._turns.compute_ns,
            )
        )
        failpoints.reach("lane.result.after_send")


def pin_threads(cpus: Sequence[int], workers: Iterable[int]) -> None:
    """The main thread and the compute workers (thread ids), one to each CPU; not at all where they are not as many.

    Lanes take turns of milliseconds on the same CPUs; left to the kernel, a lane that wakes may find its threads on one of them.
    """
    threads = [os.getpid(), *sorted(workers)]
    if len(threads) != len(cpus):
        return
    for thread, cpu in zip(threads, cpus, strict=True):
        os.sched_setaffinity(thread, {cpu})


def list_threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


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
