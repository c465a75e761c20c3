"""Steps of a lane of several ranks on GPUs: the first rank hands each plan on before it launches it, the others launch it too.

What binds them is on the devices: every rank launches the same collectives in the same order, and those of a step end when all
ranks have come to them. So nobody waits for another on the host, and steps are in flight with all ranks as with one.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from semipd_core import messages
from semipd_engine.lane.step_loop import LaunchedStep, StepExecutor


class PlanReceivers(Protocol):
    """As `semipd_engine.lane.followers.Followers`."""

    def send(self, message: messages.StepPlan | messages.Stop) -> None: ...


class PlanSource(Protocol):
    """As `semipd_shell.channel.Channel`."""

    def receive(self) -> messages.AnyMessage: ...


class LedSteps:
    """The first rank's executor, for its step loop."""

    def __init__(self, executor: StepExecutor, followers: PlanReceivers) -> None:
        self._executor = executor
        self._followers = followers

    @property
    def depth(self) -> int:
        return self._executor.depth

    def launch(self, plan: messages.StepPlan) -> LaunchedStep:
        """Raises: RankLost."""
        self._followers.send(plan)
        return self._executor.launch(plan)

    def drain(self) -> None:
        self._executor.drain()


def follow_plans(plans: PlanSource, executor: StepExecutor) -> None:
    """Another rank's life: until told to stop or the first rank is gone. The device is idle then."""
    in_flight: deque[LaunchedStep] = deque()
    try:
        while isinstance(plan := plans.receive(), messages.StepPlan):
            if len(in_flight) == executor.depth:
                in_flight.popleft().outcome()
            in_flight.append(executor.launch(plan))
    except EOFError:
        pass
    executor.drain()
