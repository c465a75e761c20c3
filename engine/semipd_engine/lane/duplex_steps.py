"""What the duplex lane asks of its two roles' executors. One thread calls both; nothing here blocks but `PrefillSteps.launch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from semipd_core import messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A step that is done: one entry per row of its plan, as in `messages.StepResult`. Times are monotonic."""

    plan: messages.StepPlan
    tokens: list[int | None]
    logprobs: list[float | None]
    started_ns: int
    finished_ns: int
    compute_ns: int

    def result(self, lane_id: str) -> messages.StepResult:
        return messages.StepResult(
            lane_id=lane_id,
            epoch=self.plan.epoch,
            tokens=self.tokens,
            logprobs=self.logprobs,
            started_ns=self.started_ns,
            finished_ns=self.finished_ns,
            compute_ns=self.compute_ns,
        )


class Steps(Protocol):
    """One role's, which are told in the order of their launch."""

    @property
    def in_flight(self) -> int:
        """Steps launched and not yet told by `finished`."""

    def delay_s(self) -> float:
        """How long the next step must wait; 0: it may be launched now."""

    def finished(self, *, wait: bool = False) -> Sequence[Finished]:
        """Steps that are done and not told before; `wait`: all that are in flight."""


class PrefillSteps(Steps, Protocol):
    def launch(self, plan: messages.StepPlan, between: Callable[[float], None]) -> None:
        """The whole chunk. Between slices `between(wait_s)` gives decode its chance; waits so long at most for one to come."""


class DecodeSteps(Steps, Protocol):
    def launch(self, plan: messages.StepPlan) -> None: ...
