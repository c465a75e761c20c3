"""A lane's loop over steps in flight: launch the next plan before the last result is there, send results in order.

Knows no device: what a step is and how long it takes is the executor's business. `decide` is the whole policy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from semipd_core import messages
from semipd_engine.lane.plan_exchange import plan_of, reach_poison, send_result

IDLE_LISTEN_S = 1.0  # how late a SIGTERM may be seen by an idle lane
BUSY_LISTEN_S = 0.0005  # how late a result may be sent where another plan may come meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """One entry per row of the plan; None where a row wants none."""

    tokens: list[int | None]
    logprobs: list[float | None]
    compute_ns: int  # on the device


class LaunchedStep(Protocol):
    def is_done(self) -> bool: ...

    def outcome(self) -> StepOutcome:
        """Waits until the step is done."""


class StepExecutor(Protocol):
    @property
    def depth(self) -> int:
        """Steps in flight at most."""

    def launch(self, plan: messages.StepPlan) -> LaunchedStep: ...

    def drain(self) -> None:
        """Until the device has nothing to do."""


class PlanChannel(Protocol):
    """As `semipd_shell.channel.Channel`."""

    def has_message(self, timeout_s: float = 0.0) -> bool: ...

    def receive(self) -> messages.AnyMessage: ...

    def send(self, message: messages.Message) -> None: ...


class Move(StrEnum):
    RECEIVE = "receive"  # what has come: a plan to launch, or the order to stop
    FINISH = "finish"  # wait for the oldest step and send its result
    LISTEN = "listen"  # for a message, a moment or until one comes
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    in_flight: int
    depth: int
    is_stopping: bool
    has_message: bool
    is_oldest_done: bool


def decide(state: LoopState) -> Move:
    """What is launched is finished before all else that can wait; the device is kept busy before a result is sent."""
    if state.is_stopping:
        return Move.FINISH if state.in_flight else Move.END
    if state.in_flight >= state.depth:
        return Move.FINISH
    if state.has_message:
        return Move.RECEIVE
    return Move.FINISH if state.is_oldest_done else Move.LISTEN


def listen_s(in_flight: int) -> float:
    return BUSY_LISTEN_S if in_flight else IDLE_LISTEN_S


class StopOrder:
    """Given once, by a signal's handler or a message; looked at between two moves."""

    def __init__(self) -> None:
        self.is_given = False

    def give(self, *_: object) -> None:
        self.is_given = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFlight:
    plan: messages.StepPlan
    step: LaunchedStep
    launched_ns: int


class StepLoop:
    """Once told to stop it ends when what is launched has been sent."""

    def __init__(
        self,
        lane_id: str,
        channel: PlanChannel,
        executor: StepExecutor,
        stop: StopOrder,
        log: structlog.stdlib.BoundLogger,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lane_id = lane_id
        self._channel = channel
        self._executor = executor
        self._stop = stop
        self._log = log
        self._clock_ns = clock_ns
        self._in_flight: deque[_InFlight] = deque()
        self._finished_ns = 0

    def run(self) -> None:
        """Until told to stop or the coordinator is gone; the device is idle then."""
        try:
            while (move := decide(self._observe())) is not Move.END:
                self._make(move)
        except (EOFError, ConnectionError, TimeoutError, BlockingIOError):
            self._log.info("coordinator gone", steps_in_flight=len(self._in_flight))
        self._executor.drain()

    def _observe(self) -> LoopState:
        room = len(self._in_flight) < self._executor.depth
        return LoopState(
            in_flight=len(self._in_flight),
            depth=self._executor.depth,
            is_stopping=self._stop.is_given,
            has_message=room and not self._stop.is_given and self._channel.has_message(),
            is_oldest_done=bool(self._in_flight) and self._in_flight[0].step.is_done(),
        )

    def _make(self, move: Move) -> None:
        if move is Move.RECEIVE:
            self._receive()
        elif move is Move.FINISH:
            self._finish()
        else:
            self._channel.has_message(listen_s(len(self._in_flight)))

    def _receive(self) -> None:
        plan = plan_of(self._channel.receive())
        if plan is None:
            self._stop.give()
            return
        reach_poison(plan)
        structlog.contextvars.bind_contextvars(request_ids=plan.request_ids)
        launched_ns = self._clock_ns()
        step = self._executor.launch(plan)
        self._in_flight.append(_InFlight(plan=plan, step=step, launched_ns=launched_ns))

    def _finish(self) -> None:
        oldest = self._in_flight.popleft()
        structlog.contextvars.bind_contextvars(request_ids=oldest.plan.request_ids)
        outcome = oldest.step.outcome()
        started_ns = max(oldest.launched_ns, self._finished_ns)  # steps run one after the other
        self._finished_ns = self._clock_ns()
        result = messages.StepResult(
            lane_id=self._lane_id,
            epoch=oldest.plan.epoch,
            tokens=outcome.tokens,
            logprobs=outcome.logprobs,
            started_ns=started_ns,
            finished_ns=self._finished_ns,
            compute_ns=outcome.compute_ns,
        )
        send_result(self._channel, result, self._log)
