"""What is known of one engine at one moment: the input of `plan.decide`. Ages are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from signal import Signals

from semipd_agent.supervision.standby import StandbyChoice, StandbyFacts
from semipd_core.partition import Band, Isolation, Partition, Role
from semipd_core.repartition import Phase


class LaneStage(StrEnum):
    FORKED = "Forked"  # not known to the coordinator
    STANDBY = "Standby"  # attached and warm
    ACTIVE = "Active"
    RETIRED = "Retired"  # swapped out; the coordinator tells it to stop
    LOST = "Lost"  # its connection ended, or nobody asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildView:
    is_alive: bool = False
    is_due: bool = True  # the back-off after its last death is over
    signalled: Signals | None = None  # the last signal that asked it to end
    signalled_age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView(ChildView):
    lane_id: str
    role: Role
    percent: int  # requested
    stage: LaneStage
    age_s: float = 0.0
    granted_percent: int | None = None  # None until it has attached
    is_swap_sent: bool = False
    is_new: bool = False  # forked since the phase began
    stage_age_s: float = 0.0
    private_bytes: int = 0  # that its end would free; 0: it did not say

    @property
    def is_attached(self) -> bool:
        return self.is_alive and self.stage in (LaneStage.STANDBY, LaneStage.ACTIVE)

    @property
    def is_serving(self) -> bool:
        return self.is_alive and self.stage is LaneStage.ACTIVE

    @property
    def is_usable(self) -> bool:
        """It serves or will, unless it dies."""
        is_leaving = self.stage in (LaneStage.RETIRED, LaneStage.LOST) or self.signalled is not None
        return self.is_alive and not is_leaving


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    phase: Phase
    phase_age_s: float
    isolation: Isolation
    partition: Partition  # in force: lanes that start get these shares
    goal: Partition | None  # wished for, its switch not begun
    target: Partition | None  # of the switch under way
    rejection: str | None  # why the switch under way cannot go on
    caps: Partition | None  # last sent on this connection (GreenContext)
    memory: ChildView
    memory_ready: bool
    coordinator: ChildView
    coordinator_listening: bool
    connected: bool  # to the coordinator, its first State read
    front_end: ChildView
    lanes: tuple[LaneView, ...]
    zygote_ready: bool  # a lane can be forked now
    lane_due: Mapping[Role, bool] = field(default_factory=dict)  # may a lane of the role start now
    band: Band | None = None  # in which each step may have a split of its own (GreenContext)
    caps_band: Band | None = None  # last sent with `caps`
    lanes_must_end: str | None = None  # why no lane may live (MPS, Xid)
    start_hold: str | None = None  # why nothing that uses the GPU may start
    switch_hold: str | None = None  # why no split may move
    engine_must_end: str | None = None  # why nothing that uses the GPU may live
    error: str | None = None  # a process said that its input is wrong
    is_draining: bool = False
    is_ending: bool = False
    standby: StandbyFacts = field(default_factory=StandbyFacts)
    standbys: StandbyChoice = field(default_factory=StandbyChoice)  # `plan.decide` makes it, from the rest

    @property
    def roles(self) -> tuple[Role, ...]:
        return self.isolation.roles

    @property
    def changed_roles(self) -> tuple[Role, ...]:
        """Roles whose lane the switch under way replaces."""
        if self.target is None or not self.isolation.replaces_lanes:
            return ()
        target = self.target
        return tuple(role for role in self.roles if target.percent(role) != self.partition.percent(role))

    def at_share(self, role: Role, partition: Partition) -> tuple[LaneView, ...]:
        """Usable lanes of `role` that were started with its share in `partition`; GreenContext lanes fit any."""
        return tuple(
            lane for lane in self.lanes if lane.role is role and lane.is_usable and self.fits(lane, partition)
        )

    def fits(self, lane: LaneView, partition: Partition) -> bool:
        return not self.isolation.replaces_lanes or lane.percent == partition.percent(lane.role)

    @property
    def surplus(self) -> tuple[LaneView, ...]:
        """Living lanes that are neither the one of their role at the share in force nor kept warm."""
        kept = {self.kept(role) for role in self.roles}
        return tuple(
            lane
            for lane in self.lanes
            if lane.is_alive
            and lane not in kept
            and (lane.is_serving or lane.lane_id not in self.standbys.kept)
        )

    def kept(self, role: Role) -> LaneView | None:
        """The lane of `role` at the share in force: the active one before one that is to become it."""
        lanes = self.at_share(role, self.partition)
        return next((lane for lane in lanes if lane.is_serving), lanes[0] if lanes else None)

    @property
    def is_whole(self) -> bool:
        """Every role has an active lane at the share in force."""
        return self.connected and all(
            (lane := self.kept(role)) is not None and lane.is_serving for role in self.roles
        )
