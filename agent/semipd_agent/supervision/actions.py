"""What can be done for an engine, one thing at a time; `plan` chooses, `engine` does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM, Signals

from semipd_agent.supervision.view import ChildView, LaneView
from semipd_core.partition import Band, Partition, Role
from semipd_core.repartition import Event

KILL_AFTER_S = 5.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(Action):
    """Nothing can be done until something happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Action):
    process: str  # memory, coordinator, frontend


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Action):
    process: str  # memory, coordinator, frontend, or a lane id
    signal: Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(Action):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(Action):
    role: Role
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSwap(Action):
    lane_id: str
    keeps_old: bool = False  # the lane that is replaced stands by


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCaps(Action):
    partition: Partition
    band: Band | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmExit(Action):
    lane_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance(Action):
    event: Event


def _end(name: str, child: ChildView, reason: str) -> End | None:
    if child.signalled is None:
        return End(process=name, signal=SIGTERM, reason=reason)
    if child.signalled is not SIGKILL and child.signalled_age_s > KILL_AFTER_S:
        return End(
            process=name, signal=SIGKILL, reason=f"{reason}; no exit {KILL_AFTER_S:.0f} s after SIGTERM"
        )
    return None


def named(lanes: Iterable[LaneView]) -> list[tuple[str, ChildView]]:
    return [(lane.lane_id, lane) for lane in lanes]


def first_end(children: Iterable[tuple[str, ChildView]], reason: str) -> Action | None:
    """End one of `children` that lives; None if all are on their way out, so that other rules have their say."""
    actions = (_end(name, child, reason) for name, child in children if child.is_alive)
    return next((action for action in actions if action is not None), None)
