"""A lane under supervision: forked by the zygote, known to the coordinator, its exit confirmed by its pidfd.

A lane may lead a process group, one member to each rank: they live and die with it, and could write until they are gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from signal import Signals

from semipd_agent.processes import process
from semipd_agent.processes.identity import Identity, group_members
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
    stage_since_s: float = field(default_factory=time.monotonic)
    private_bytes: int = 0
    granted_percent: int | None = None
    process: Process | None = None
    is_pending: bool = False
    is_swap_sent: bool = False
    signalled: Signals | None = None
    signalled_s: float = 0.0
    twin: Lane | None = None  # the other role of the same process: they are signalled and end together
    forked_s: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        return self.is_pending or (self.process is not None and self.process.is_alive)

    def enter(self, stage: LaneStage) -> None:
        if stage is not self.stage:
            self.stage, self.stage_since_s = stage, time.monotonic()
        if stage is LaneStage.ACTIVE:
            self.is_swap_sent = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.is_alive else None

    @property
    def pids(self) -> list[int]:
        """Of all its processes that live."""
        return [] if self.pid is None else group_members(self.pid) or [self.pid]

    def watch(self, identity: Identity | None, on_exit: Callable[[], None]) -> bool:
        """Whether the process lives; it may have ended before it could be watched."""
        self.is_pending = False
        self.process = process.adopt(identity, on_exit, with_group=True) if identity is not None else None
        return self.process is not None

    def send_signal(self, number: Signals) -> None:
        if self.process is not None:
            for lane in (self, self.twin):
                if lane is not None:
                    lane.signalled, lane.signalled_s = number, time.monotonic()
            self.process.send_signal(number)

    def view(self, phase_since_s: float = math.inf) -> LaneView:
        now_s = time.monotonic()
        return LaneView(
            lane_id=self.lane_id,
            role=self.role,
            percent=self.percent,
            stage=self.stage,
            age_s=now_s - self.forked_s,
            is_new=self.forked_s > phase_since_s,
            stage_age_s=now_s - self.stage_since_s,
            private_bytes=self.private_bytes,
            granted_percent=self.granted_percent,
            is_alive=self.is_alive,
            is_swap_sent=self.is_swap_sent,
            signalled=self.signalled,
            signalled_age_s=now_s - self.signalled_s,
        )
