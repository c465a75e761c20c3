"""A lane under supervision: forked by the zygote, known to the coordinator, its exit confirmed by its pidfd."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from signal import Signals

from semipd_agent.processes import process
from semipd_agent.processes.identity import Identity
from semipd_agent.processes.process import Process
from semipd_agent.supervision.view import LaneStage, LaneView
from semipd_core.partition import Role


@dataclass(slots=True, eq=False)
class Lane:
    """`name` is the journal's. `is_pending`: the zygote has not answered yet, so it counts as alive."""

    lane_id: str
    name: str
    role: Role
    percent: int
    stage: LaneStage = LaneStage.FORKED
    granted_percent: int | None = None
    process: Process | None = None
    is_pending: bool = False
    is_swap_sent: bool = False
    signalled: Signals | None = None
    signalled_s: float = 0.0
    forked_s: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        return self.is_pending or (self.process is not None and self.process.is_alive)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.is_alive else None

    def watch(self, identity: Identity | None, on_exit: Callable[[], None]) -> bool:
        """Whether the process lives; it may have ended before it could be watched."""
        self.is_pending = False
        self.process = process.adopt(identity, on_exit) if identity is not None else None
        return self.process is not None

    def send_signal(self, number: Signals) -> None:
        if self.process is not None:
            self.signalled, self.signalled_s = number, time.monotonic()
            self.process.send_signal(number)

    def view(self) -> LaneView:
        now_s = time.monotonic()
        return LaneView(
            lane_id=self.lane_id,
            role=self.role,
            percent=self.percent,
            stage=self.stage,
            age_s=now_s - self.forked_s,
            granted_percent=self.granted_percent,
            is_alive=self.is_alive,
            is_swap_sent=self.is_swap_sent,
            signalled=self.signalled,
            signalled_age_s=now_s - self.signalled_s,
        )
