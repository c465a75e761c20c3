"""The lanes of one engine, kept in step with what its coordinator says."""

from __future__ import annotations

from collections.abc import Iterator

from semipd_agent.supervision.lane import Lane
from semipd_agent.supervision.view import LaneStage
from semipd_core import messages
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.telemetry import LaneReport

NO_PID = 0


class LaneTable:
    def __init__(self, engine_id: str) -> None:
        self._engine_id = engine_id
        self._lanes: dict[str, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __getitem__(self, lane_id: str) -> Lane:
        return self._lanes[lane_id]

    def add(self, lane: Lane) -> Lane:
        self._lanes[lane.lane_id] = lane
        return lane

    def remove(self, lane_id: str) -> Lane:
        return self._lanes.pop(lane_id)

    def add_stranger(self, lane_id: str) -> Lane:
        """A lane that the coordinator knows and nobody here asked for: to be ended."""
        name = f"{self._engine_id}/{lane_id}"
        return self.add(Lane(lane_id, name, Role.MIXED, 0, stage=LaneStage.LOST))

    def twin_of(self, lane: Lane) -> Lane | None:
        """The lane of the other role in the same process, if it has both."""
        return next((each for each in self if each is not lane and each.pid and each.pid == lane.pid), None)

    def active(self, role: Role) -> Lane | None:
        serving = (lane for lane in self if lane.role is role and lane.is_alive)
        return next((lane for lane in serving if lane.stage is LaneStage.ACTIVE), None)

    def granted(self, isolation: Isolation) -> Partition | None:
        """What the active lanes read back; None while one is missing."""
        if isolation is Isolation.UNIFIED:
            is_there = self.active(Role.MIXED) is not None
            return Partition(prefill_percent=100, decode_percent=100) if is_there else None
        prefill, decode = self.active(Role.PREFILL), self.active(Role.DECODE)
        if prefill is None or decode is None or not prefill.granted_percent or not decode.granted_percent:
            return None
        return Partition(prefill_percent=prefill.granted_percent, decode_percent=decode.granted_percent)

    def note(self, message: messages.AnyMessage) -> list[tuple[int, str]]:
        """Take over what `message` says; (pid, lane id) of lanes that nobody here knows."""
        match message:
            case messages.LaneAttached():
                return self._attached(message)
            case messages.Swapped(lane_id=lane_id, old_lane_id=old_lane_id, is_old_kept=is_old_kept):
                self._set_stage(lane_id, LaneStage.ACTIVE)
                self._set_stage(old_lane_id, LaneStage.STANDBY if is_old_kept else LaneStage.RETIRED)
            case messages.LaneLost(lane_id=lane_id) if lane_id in self._lanes:
                self._set_stage(lane_id, LaneStage.LOST)
            case messages.LaneLost(lane_id=lane_id):
                return [(NO_PID, lane_id)]  # LaneExited overtook the end of its connection: say it again
            case messages.State(report=report):
                return [stranger for lane in report.lanes for stranger in self._reported(lane)]
            case _:
                pass
        return []

    def _set_stage(self, lane_id: str | None, stage: LaneStage) -> None:
        if lane_id in self._lanes:
            self._lanes[lane_id].enter(stage)

    def _attached(self, message: messages.LaneAttached) -> list[tuple[int, str]]:
        lane = self._lanes.get(message.lane_id)
        if lane is None:
            return [(message.pid, message.lane_id)]
        lane.granted_percent, lane.private_bytes = message.granted_percent, message.private_bytes
        if lane.stage is LaneStage.FORKED:
            lane.enter(LaneStage.STANDBY)
        return []

    def _reported(self, report: LaneReport) -> list[tuple[int, str]]:
        lane = self._lanes.get(report.lane_id)
        if lane is None:
            return [(report.pid, report.lane_id)]
        lane.granted_percent, lane.private_bytes = report.granted_percent, report.private_bytes
        if report.active:
            lane.enter(LaneStage.ACTIVE)
        elif lane.stage in (LaneStage.FORKED, LaneStage.ACTIVE):
            lane.enter(LaneStage.STANDBY)
        return []
