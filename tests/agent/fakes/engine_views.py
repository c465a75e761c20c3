"""States of one engine as the agent sees it, and what a decision comes down to."""

from __future__ import annotations

from dataclasses import replace

from semipd_agent.supervision import actions
from semipd_agent.supervision.view import ChildView, EngineView, LaneStage, LaneView
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.repartition import Phase

ALIVE = ChildView(is_alive=True)
DEAD = ChildView()
AT_80 = Partition(prefill_percent=80, decode_percent=100)
AT_40 = Partition(prefill_percent=40, decode_percent=100)


def lane(role: Role, percent: int, stage: LaneStage = LaneStage.ACTIVE, **changes: object) -> LaneView:
    settings: dict[str, object] = {
        "lane_id": f"{role}-{percent}",
        "role": role,
        "percent": percent,
        "stage": stage,
        "is_alive": True,
        "granted_percent": None if stage is LaneStage.FORKED else percent,
    }
    return LaneView(**{**settings, **changes})  # type: ignore[arg-type]


PREFILL, DECODE = lane(Role.PREFILL, 80), lane(Role.DECODE, 100)
FORKED = lane(Role.PREFILL, 40, LaneStage.FORKED)
STANDBY = lane(Role.PREFILL, 40, LaneStage.STANDBY)
NEW = lane(Role.PREFILL, 40)
OLD = replace(PREFILL, stage=LaneStage.RETIRED)


def view(*lanes: LaneView, **changes: object) -> EngineView:
    settings: dict[str, object] = {
        "phase": Phase.STEADY,
        "phase_age_s": 0.0,
        "isolation": Isolation.MPS,
        "partition": AT_80,
        "goal": None,
        "target": None,
        "rejection": None,
        "caps": None,
        "memory": ALIVE,
        "memory_ready": True,
        "coordinator": ALIVE,
        "coordinator_listening": True,
        "connected": True,
        "front_end": ALIVE,
        "lanes": lanes,
        "zygote_ready": True,
    }
    return EngineView(**{**settings, **changes})  # type: ignore[arg-type]


def preparing(*lanes: LaneView, **changes: object) -> EngineView:
    return view(*lanes, **{"phase": Phase.PREPARING, "target": AT_40, **changes})


def swapping(*lanes: LaneView, **changes: object) -> EngineView:
    return view(*lanes, **{"phase": Phase.SWAPPING, "target": AT_40, "partition": AT_40, **changes})


def summary(action: actions.Action | None) -> tuple[object, ...]:
    match action:
        case None:
            return ()
        case actions.Advance(event=event):
            return ("advance", event)
        case actions.End(process=process, signal=number):
            return ("end", process, number)
        case actions.Fork(role=role, percent=percent):
            return ("fork", role, percent)
        case actions.Start(process=process):
            return ("start", process)
        case actions.SendSwap(lane_id=lane_id) | actions.ConfirmExit(lane_id=lane_id):
            return (type(action).__name__, lane_id)
        case _:
            return (type(action).__name__,)


GREEN = {"isolation": Isolation.GREEN_CONTEXT}
