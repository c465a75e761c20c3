"""The lanes of each role: one active, others on standby, lost ones until their exit is confirmed.

A lane is replaced at its own step boundary. A lane whose name is in use, or lost and not confirmed gone, is not taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from semipd_core.engine.events import Effect, ToAgent, ToLane
from semipd_core.engine.request import Request
from semipd_core.messages import LaneAttached, LaneHello, LaneLost, Stop, Swapped
from semipd_core.partition import Partition, Role
from semipd_core.telemetry import StepSample

SAMPLES_KEPT = 64  # per role, as `CoordinatorReport.samples` says
INTERVALS_KEPT = 1024  # step intervals per role, against which the other role's steps are held


class PlannedRow(NamedTuple):
    """One request's part of a step in flight; the request is another's business once its residency has changed."""

    request: Request
    residency: int
    end: int  # position after the last one computed
    samples: bool

    @property
    def is_current(self) -> bool:
        return self.request.residency == self.residency


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    epoch: int
    rows: list[PlannedRow]
    num_tokens: int
    context_tokens: int  # KV entries read, summed over rows
    planned_ns: int
    split: Partition | None = None  # chosen for it (GreenContext)


@dataclass(slots=True, eq=False, kw_only=True)
class Lane:
    hello: LaneHello
    serial: int  # unique over the coordinator's life, unlike names
    requested_percent: int
    granted_percent: int
    epoch: int = 0  # of the last planned step
    in_flight: deque[Step] = field(default_factory=deque)
    known: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot -> residency, number of blocks

    @property
    def lane_id(self) -> str:
        return self.hello.lane_id

    @property
    def role(self) -> Role:
        return self.hello.role


@dataclass(slots=True, eq=False)
class SplitCount:
    steps: int = 0
    busy_ns: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class RoleLanes:
    """A role's lanes, and counters over all lanes that it has had."""

    role: Role
    active: Lane | None = None
    standby: dict[str, Lane] = field(default_factory=dict)
    swap_to: str | None = None  # standby lane that takes over once the active one has nothing in flight
    keeps_old: bool = False  # the active lane stands by after that swap
    granted_percent: int = 100  # of the latest active lane
    steps: int = 0
    tokens: int = 0
    busy_ns: int = 0
    compute_ns: int = 0
    splits: dict[Partition, SplitCount] = field(default_factory=dict)  # of steps that have one
    samples: deque[StepSample] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    intervals: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=INTERVALS_KEPT))

    def activate(self, lane: Lane) -> None:
        self.standby.pop(lane.lane_id, None)
        self.swap_to = None
        self.active = lane
        self.granted_percent = lane.granted_percent


class LaneTable:
    """Which lane does a role's work. Losses of rows are the caller's business: see `lose` and `confirm_exit`."""

    def __init__(self, roles: Iterable[Role]) -> None:
        self.roles = {role: RoleLanes(role=role) for role in roles}
        self.lost: dict[str, Lane] = {}  # with steps in flight that may still write
        self.restarts = 0
        self._lanes: dict[str, Lane] = {}
        self._serials = count(1)

    @property
    def is_whole(self) -> bool:
        """Whether every role has an active lane."""
        return all(group.active is not None for group in self.roles.values())

    def find(self, lane_id: str) -> Lane | None:
        """The active or standby lane of that name."""
        return self._lanes.get(lane_id)

    def attach(self, hello: LaneHello) -> list[Effect]:
        if hello.lane_id in self._lanes or hello.lane_id in self.lost:
            return []
        if hello.role not in self.roles:
            return [ToLane(lane_id=hello.lane_id, message=Stop())]
        lane = Lane(
            hello=hello,
            serial=next(self._serials),
            requested_percent=hello.requested_percent,
            granted_percent=hello.granted_percent,
        )
        self._lanes[lane.lane_id] = lane
        group = self.roles[lane.role]
        group.standby[lane.lane_id] = lane
        attached = LaneAttached(
            lane_id=hello.lane_id,
            role=hello.role,
            pid=hello.pid,
            requested_percent=hello.requested_percent,
            granted_percent=hello.granted_percent,
            private_bytes=hello.private_bytes,
        )
        return [ToAgent(message=attached), *_fill(group)]

    def request_swap(self, lane_id: str, *, keeps_old: bool = False) -> list[Effect]:
        """Note the wish; `finish_swap` fulfils it. A lane that is already active is reported at once."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            return []
        group = self.roles[lane.role]
        if group.active is lane:
            return [ToAgent(message=Swapped(lane_id=lane_id, old_lane_id=None))]
        group.swap_to, group.keeps_old = lane_id, keeps_old
        return []

    def finish_swap(self, group: RoleLanes) -> Lane | None:
        """Swap if one is wished for and the active lane is at a step boundary; returns the lane that is out of work.

        `find` still finds it if it stands by now.
        """
        old = group.active
        if group.swap_to is None or old is None or old.in_flight:
            return None
        group.activate(group.standby[group.swap_to])
        if group.keeps_old:
            old.known.clear()  # it is told of all blocks again, as a new lane is
            group.standby[old.lane_id] = old
        else:
            del self._lanes[old.lane_id]
        return old

    def lose(self, lane: Lane) -> list[Effect]:
        """The lane takes no more work; it stays in `lost` until its exit is confirmed."""
        del self._lanes[lane.lane_id]
        self.lost[lane.lane_id] = lane
        group = self.roles[lane.role]
        self.restarts += group.active is lane
        group.standby.pop(lane.lane_id, None)
        if group.swap_to == lane.lane_id:
            group.swap_to = None
        if group.active is lane:
            group.active = None
        return [ToAgent(message=LaneLost(lane_id=lane.lane_id, role=lane.role)), *_fill(group)]

    def confirm_exit(self, lane_id: str) -> Lane | None:
        """The lost lane of that name, which is forgotten."""
        return self.lost.pop(lane_id, None)

    def set_percent(self, role: Role, percent: int, granted_percent: int | None = None) -> None:
        """Caps that need no new lane were changed: they hold for every lane of the role. Granted is `percent` unless given."""
        group = self.roles.get(role)
        if group is None:
            return
        granted_percent = percent if granted_percent is None else granted_percent
        group.granted_percent = granted_percent
        for lane in self._lanes.values():
            if lane.role is role:
                lane.requested_percent, lane.granted_percent = percent, granted_percent

    def note_split(self, lane_id: str, split: Partition) -> None:
        """The newest step of the lane runs at `split`."""
        in_flight = self._lanes[lane_id].in_flight
        in_flight[-1] = replace(in_flight[-1], split=split)

    def check_integrity(self) -> None:
        seen: dict[str, Lane] = {}
        for group in self.roles.values():
            assert group.active is not None or not group.standby, f"{group.role}: standby but none active"
            assert group.swap_to is None or group.swap_to in group.standby, "swap to a lane not on standby"
            assert not any(lane.in_flight for lane in group.standby.values()), "a standby lane works"
            seen |= group.standby
            if group.active is not None:
                seen[group.active.lane_id] = group.active
        assert seen == self._lanes, "lanes by id differ from lanes by role"
        assert not seen.keys() & self.lost.keys(), "a lost lane is in use"


def _fill(group: RoleLanes) -> list[Effect]:
    """A role without an active lane takes the one wished for, else the first on standby."""
    if group.active is not None or not group.standby:
        return []
    lane = group.standby[group.swap_to or next(iter(group.standby))]
    group.activate(lane)
    return [ToAgent(message=Swapped(lane_id=lane.lane_id, old_lane_id=None))]
