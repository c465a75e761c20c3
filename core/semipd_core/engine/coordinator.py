"""The coordinator of one engine: every decision about requests, KV blocks and lanes, and no I/O.

`handle` takes one event and returns what must be sent, in order. The process around it moves messages and reads the clock.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from semipd_core import messages
from semipd_core.engine.completion import apply_step, fits, tokens_message
from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.events import (
    Effect,
    Event,
    FrontEndGone,
    LaneDisconnected,
    SetSplit,
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
from semipd_core.engine.split_choice import SplitChoice, StepAtHand
from semipd_core.messages import StepPlan
from semipd_core.partition import Band, Partition, Role
from semipd_core.sm_splits import SmSplit
from semipd_core.telemetry import CoordinatorReport

__all__ = [
    "Coordinator",
    "CoordinatorConfig",
    "Effect",
    "Event",
    "FrontEndGone",
    "LaneDisconnected",
    "SetSplit",
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
        self._splits = SplitChoice(config.step_split) if config.step_split is not None else None
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

    def set_caps(self, prefill_percent: int, decode_percent: int, band: Band | None = None) -> Partition:
        """Wish for caps that need no new lane. Returns the split in force, which may be another one of `band`."""
        wanted = Partition(prefill_percent=prefill_percent, decode_percent=decode_percent)
        if self._splits is not None:
            self._splits.wish(wanted, band)
        self._note_caps(wanted)
        return wanted if self._splits is None else self._splits.current

    def _note_caps(self, wanted: Partition) -> None:
        for role in (Role.PREFILL, Role.DECODE):
            granted = None if self._splits is None else self._splits.granted(role)
            self._lanes.set_percent(role, wanted.percent(role), granted)

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
                return self._lanes.request_swap(event.lane_id, keeps_old=event.keeps_old)
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
        if self._splits is not None:
            hello = self._splits.receive(hello)
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
        sample = record_step(self._lanes, lane, step, result)
        if self._splits is not None:
            self._splits.observe(sample)
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
                effects += self._see_off(old, group.active)
            while group.active is not None and (plan := self._planner.plan(group, now_ns)) is not None:
                effects.append(ToLane(lane_id=group.active.lane_id, message=plan))
        return effects if self._splits is None else self._split(self._splits, effects)

    def _see_off(self, old: Lane, new: Lane) -> list[Effect]:
        is_kept = self._lanes.find(old.lane_id) is old
        swapped = messages.Swapped(lane_id=new.lane_id, old_lane_id=old.lane_id, is_old_kept=is_kept)
        if is_kept:
            return [ToAgent(message=swapped)]
        self._sequences.pool.close_lane(old.serial)
        return [ToLane(lane_id=old.lane_id, message=messages.Stop()), ToAgent(message=swapped)]

    def _split(self, splits: SplitChoice, effects: list[Effect]) -> list[Effect]:
        """Choose the split of the steps among `effects`, for what both lanes have at hand now that all is planned."""
        plans = [each for each in effects if isinstance(each, ToLane) and isinstance(each.message, StepPlan)]
        if not plans:
            return effects
        before, pool = splits.current, self._sequences.pool
        choice = splits.choose(
            self._at_hand(Role.PREFILL), self._at_hand(Role.DECODE), 1000 * pool.num_used / pool.num_total
        )
        for plan in plans:
            self._lanes.note_split(plan.lane_id, choice.split)
        if splits.sm_split is not None:
            effects = [_on_streams(each, splits.sm_split) if each in plans else each for each in effects]
        return effects if choice.split == before else [SetSplit(choice=choice), *effects]

    def _at_hand(self, role: Role) -> StepAtHand | None:
        group = self._lanes.roles.get(role)
        if group is None or group.active is None or not group.active.in_flight:
            return None
        step = group.active.in_flight[-1]
        return StepAtHand(rows=len(step.rows), tokens=step.num_tokens, context_tokens=step.context_tokens)

    def _has_steps_in_flight(self) -> bool:
        return bool(self._lanes.lost) or any(
            group.active is not None and group.active.in_flight for group in self._lanes.roles.values()
        )


# Decode steps are the shorter ones: what delays them weighs more.
PLANNING_ORDER = (Role.DECODE, Role.MIXED, Role.PREFILL)
LOST_TWICE = (
    "the request was being computed when a lane was lost, and alone on a second lane when that was lost too"
)


def _on_streams(plan: ToLane, split: SmSplit) -> ToLane:
    assert isinstance(plan.message, StepPlan)
    return replace(plan, message=msgspec.structs.replace(plan.message, split=split))


def _failed(request_id: str, status: int, message: str) -> Effect:
    return ToFrontEnd(message=messages.Failed(request_id=request_id, status=status, message=message))
