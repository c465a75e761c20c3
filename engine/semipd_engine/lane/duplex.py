"""The lane that has both roles: one process, one thread that launches, a connection to the coordinator for each role.

To the coordinator these are two lanes that happen to die together. A prompt is launched in slices; between two slices, and while
a slice must wait, decode plans that have come are launched and finished steps are told. Ends as a lane with one role does: by
`Stop` on either connection, the coordinator's end, or SIGTERM; the steps in hand are finished first.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from semipd_core import messages
from semipd_core.partition import Role
from semipd_engine.lane.duplex_steps import DecodeSteps, PrefillSteps, Steps
from semipd_engine.lane.plan_exchange import plan_of, reach_poison, send_result
from semipd_shell import log

IDLE_TICK_S = 1.0
BUSY_TICK_S = 0.0001  # while results of the device are due


class PlanChannel(Protocol):
    """As `semipd_shell.channel.Channel`."""

    def fileno(self) -> int: ...

    def has_message(self, timeout_s: float = 0.0) -> bool: ...

    def receive(self) -> messages.AnyMessage: ...

    def send(self, message: messages.Message) -> None: ...


class DuplexLane:
    """`lane_ids` and `channels`: of each role, said hello on. `stop` may be called by a signal handler."""

    def __init__(
        self,
        lane_ids: dict[Role, str],
        channels: dict[Role, PlanChannel],
        prefill: PrefillSteps,
        decode: DecodeSteps,
    ) -> None:
        self._lane_ids = lane_ids
        self._channels = channels
        self._prefill = prefill
        self._decode = decode
        self._steps: dict[Role, Steps] = {Role.PREFILL: prefill, Role.DECODE: decode}
        self._plans: dict[Role, deque[messages.StepPlan]] = {role: deque() for role in lane_ids}
        self._selector = selectors.SelectSelector()  # epoll and poll know no time below 1 ms
        for role, channel in channels.items():
            self._selector.register(channel.fileno(), selectors.EVENT_READ, role)
        self._stopping = False
        self._log = log.logger(__name__)

    def stop(self) -> None:
        self._stopping = True

    def serve(self) -> None:
        """Until told to stop or the coordinator is gone; nothing is in flight then."""
        try:
            while not self._stopping:
                self._receive(0.0 if self._may_prefill() else self._tick_s())
                self._serve_decode()
                self._tell_finished(Role.PREFILL)
                if self._may_prefill():
                    self._launch_prefill(self._plans[Role.PREFILL].popleft())
            for role in self._steps:
                self._tell_finished(role, wait=True)
        except (EOFError, ConnectionError, TimeoutError, BlockingIOError):
            self._log.info("coordinator gone")
            for steps in self._steps.values():
                steps.finished(wait=True)

    def _may_prefill(self) -> bool:
        return bool(self._plans[Role.PREFILL]) and not self._stopping and not self._prefill.delay_s()

    def _tick_s(self) -> float:
        """How soon something may be to do without a message."""
        if self._prefill.in_flight or self._decode.in_flight:
            return BUSY_TICK_S
        return min(IDLE_TICK_S, self._decode.delay_s()) if self._plans[Role.DECODE] else IDLE_TICK_S

    def _receive(self, timeout_s: float) -> None:
        """What has come on either connection; waits for it up to `timeout_s`. Raises: EOFError."""
        for key, _ in self._selector.select(timeout_s):
            channel = self._channels[key.data]
            while channel.has_message():
                self._take(key.data, channel.receive())

    def _take(self, role: Role, message: messages.AnyMessage) -> None:
        plan = plan_of(message)
        if plan is None:
            self._stopping = True
        else:
            self._plans[role].append(plan)

    def _between_slices(self, wait_s: float) -> None:
        self._receive(min(wait_s, self._tick_s()))
        self._serve_decode()
        self._tell_finished(Role.PREFILL)

    def _serve_decode(self) -> None:
        plans = self._plans[Role.DECODE]
        self._tell_finished(Role.DECODE)
        while plans and not self._stopping and not self._decode.delay_s():
            self._with_log(plans.popleft(), self._decode.launch)
            self._tell_finished(Role.DECODE)

    def _launch_prefill(self, plan: messages.StepPlan) -> None:
        self._with_log(plan, lambda plan: self._prefill.launch(plan, self._between_slices))
        self._tell_finished(Role.PREFILL)

    @staticmethod
    def _with_log(plan: messages.StepPlan, step: Callable[[messages.StepPlan], None]) -> None:
        reach_poison(plan)
        with structlog.contextvars.bound_contextvars(request_ids=plan.request_ids):
            step(plan)

    def _tell_finished(self, role: Role, *, wait: bool = False) -> None:
        for done in self._steps[role].finished(wait=wait):
            send_result(self._channels[role], done.result(self._lane_ids[role]), self._log, role=role)
