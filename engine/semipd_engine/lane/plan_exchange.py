"""What every lane does around a plan, whatever computes it: takes it from its message, and sends the result."""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from semipd_core import messages
from semipd_shell import failpoints

NS_PER_MS = 1e6


class ResultChannel(Protocol):
    def send(self, message: messages.Message) -> None: ...


def plan_of(message: messages.AnyMessage) -> messages.StepPlan | None:
    """None: it is the order to stop."""
    if isinstance(message, messages.Stop):
        failpoints.reach("lane.stop_received")
        return None
    assert isinstance(message, messages.StepPlan), message
    failpoints.reach("lane.plan_received")
    return message


def reach_poison(plan: messages.StepPlan) -> None:
    for row in plan.rows:
        failpoints.reach_poison(row.tokens)


def send_result(
    channel: ResultChannel, result: messages.StepResult, log: structlog.stdlib.BoundLogger, **known: Any
) -> None:
    """known: what the log is told beside. Raises: OSError if the coordinator is gone."""
    failpoints.reach("lane.result.before_send")
    milliseconds = (result.finished_ns - result.started_ns) / NS_PER_MS
    log.debug("step", epoch=result.epoch, milliseconds=milliseconds, **known)
    channel.send(result)
    failpoints.reach("lane.result.after_send")
