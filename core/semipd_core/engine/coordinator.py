"""The coordinator of one engine: every decision about requests, KV blocks and lanes, and no I/O.

`handle` takes one event and returns what must be sent, in order. The process around it moves messages and reads the clock.
"""

from __future__ import annotations

from semipd_core import messages
from semipd_core.engine.completion import apply_step, fits, tokens_message
from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.events import (
    Effect,
    Event,
    FrontEndGone,
    LaneDisconnected,
    ToAgent,
    ToFrontEnd,
    ToLane,
)
from semipd_core.engine.intake import Refused, judge_submit
from semipd_core.engine.lanes import Lane, LaneTable
from semipd_core.engine.planning import Planner
from semipd_core.engine.report import build_report, record_step
from semipd_core.engine.request import Request
from semipd_core.engine.sequences import Sequences
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport

__all__ = [
    "Coordinator",
    "CoordinatorConfig",
    "Effect",
    "Event",
    "FrontEndGone",
    "LaneDisconnected",
    "ToAgent",
    "ToFrontEnd",
    "ToLane",
]

BAD_REQUEST = 400
INTERNAL_ERROR = 500


class Coordinator:
    """Mutable, single-threaded. Every `now_ns` is `time.monotonic_ns()` of the caller, as in messages."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self._sequences = Sequences(config)
        self._lanes = LaneTable(config.roles)
        self._planner = Planner(config, self._sequences)
        self._config = config

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take in one event, then plan whatever lanes can take. Events about unknown requests or lanes change nothing."""
        return self._take_in(event) + self._plan(now_ns)

    @property
    def is_ready(self) -> bool:
        """Whether every role has an active lane, so that requests get on."""
        return self._lanes.is_whole

    def report(self, now_ns: int) -> CoordinatorReport:
        return build_report(self._sequences, self._lanes, now_ns)

    def set_caps(self, prefill_percent: int, decode_percent: int) -> None:
        """The caps that lanes read at each turn were changed: reports and samples say so from here on."""
        self._lanes.set_percent(Role.PREFILL, prefill_percent)
        self._lanes.set_percent(Role.DECODE, decode_percent)

    def check_integrity(self) -> None:
        """Raises: AssertionError if bookkeeping contradicts itself. Linear in blocks and requests."""
        self._sequences.check_integrity()
        self._lanes.check_integrity()
        if not self._sequences.live and not self._has_steps_in_flight():
            assert self._sequences.pool.num_used == 0, "nobody is served, yet blocks are in use"

    def _take_in(self, event: Event) -> list[Effect]:
        match event:
            case messages.StepResult():
                return self._complete(event)
            case messages.Submit():
                return self._submit(event)
            case messages.Abort():
                return self._abort(event.request_id)
            case FrontEndGone():
                return [effect for name in list(self._sequences.live) for effect in self._abort(name)]
            case messages.LaneHello():
                return self._attach(event)
            case messages.Swap():
                return self._lanes.request_swap(event.lane_id)
            case LaneDisconnected():
                lane = self._lanes.find(event.lane_id)
                return self._lose(lane) if lane is not None else []
            case messages.LaneExited():
                return self._confirm_exit(event.lane_id)

    def _submit(self, submit: messages.Submit) -> list[Effect]:
        if submit.request_id in self._sequences.live:
            return []
        verdict = judge_submit(submit, self._config)
        if isinstance(verdict, Refused):
            return [_failed(submit.request_id, BAD_REQUEST, verdict.message)]
        request = Request.from_submit(submit, verdict.max_tokens)
        if request.finish is not None:
            return [ToFrontEnd(message=tokens_message(request, []))]
        self._sequences.submit(request)
        return []

    def _abort(self, request_id: str) -> list[Effect]:
        request = self._sequences.live.get(request_id)
        if request is not None:
            self._sequences.finish(request)
        return []

    def _attach(self, hello: messages.LaneHello) -> list[Effect]:
        effects = self._lanes.attach(hello)
        lane = self._lanes.find(hello.lane_id)
        if lane is not None and effects:
            self._sequences.pool.open_lane(lane.serial)
        return effects

    def _complete(self, result: messages.StepResult) -> list[Effect]:
        lane = self._lanes.find(result.lane_id)
        if lane is None:
            return []
        if not fits(result, lane):
            # It does not execute what it is told: no result of it can be trusted.
            return [ToLane(lane_id=lane.lane_id, message=messages.Stop()), *self._lose(lane)]
        step = lane.in_flight.popleft()
        record_step(self._lanes, lane, step, result)
        self._sequences.pool.complete(lane.serial, step.epoch)
        return list(apply_step(step, result, self._sequences))

    def _lose(self, lane: Lane) -> list[Effect]:
        """Suspend its rows in flight until it can write no more; who was suspect before is taken for the cause."""
        effects = self._lanes.lose(lane)
        rows = [row for step in lane.in_flight for row in step.rows if row.is_current]
        for request in dict.fromkeys(row.request for row in rows):
            if request.suspect:
                effects.append(_failed(request.request_id, INTERNAL_ERROR, LOST_TWICE))
                self._sequences.finish(request)
            else:
                self._sequences.hold(request, lane.lane_id)
        return effects

    def _confirm_exit(self, lane_id: str) -> list[Effect]:
        """The exit may be known before the end of the connection."""
        lane = self._lanes.find(lane_id)
        effects = self._lose(lane) if lane is not None else []
        lost = self._lanes.confirm_exit(lane_id)
        if lost is not None:
            self._sequences.unhold(lane_id)
            self._sequences.pool.close_lane(lost.serial)
        return effects

    def _plan(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for role in PLANNING_ORDER:
            group = self._lanes.roles.get(role)
            if group is None:
                continue
            old = self._lanes.finish_swap(group)
            if old is not None and group.active is not None:
                self._sequences.pool.close_lane(old.serial)
                swapped = messages.Swapped(lane_id=group.active.lane_id, old_lane_id=old.lane_id)
                effects += [ToLane(lane_id=old.lane_id, message=messages.Stop()), ToAgent(message=swapped)]
            while group.active is not None and (plan := self._planner.plan(group, now_ns)) is not None:
                effects.append(ToLane(lane_id=group.active.lane_id, message=plan))
        return effects

    def _has_steps_in_flight(self) -> bool:
        return bool(self._lanes.lost) or any(
            group.active is not None and group.active.in_flight for group in self._lanes.roles.values()
        )


# Decode steps are the shorter ones: what delays them weighs more.
PLANNING_ORDER = (Role.DECODE, Role.MIXED, Role.PREFILL)
LOST_TWICE = (
    "the request was being computed when a lane was lost, and alone on a second lane when that was lost too"
)


def _failed(request_id: str, status: int, message: str) -> Effect:
    return ToFrontEnd(message=messages.Failed(request_id=request_id, status=status, message=message))
