"""What to do next for one engine? Pure: a view in, one action with its reason out; the rules read from top to bottom.

The agent applies the action and asks again, so each rule looks at the world alone and an adopted engine needs no rule of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from semipd_agent.supervision.actions import (
    Action,
    Advance,
    ConfirmExit,
    Connect,
    Fork,
    SendCaps,
    Start,
    Wait,
    first_end,
    named,
)
from semipd_agent.supervision.standby_rules import choose, end_dropped
from semipd_agent.supervision.switch_rules import begin_switch, prepare, retire, roll_back, swap, swap_standby
from semipd_agent.supervision.view import ChildView, EngineView, LaneStage
from semipd_core.partition import Isolation
from semipd_core.repartition import SERVING, SWITCHING, Event, Phase

STUCK_AFTER_S = 60.0  # forked, never attached, outside a switch


Rule = Callable[[EngineView], Action | None]


def decide(view: EngineView) -> Action | None:
    """The first rule that has something to say; None if all is as it should be."""
    view = replace(view, standbys=choose(view))
    return next((action for rule in RULES if (action := rule(view)) is not None), None)


def fail(view: EngineView) -> Action | None:
    if view.error is not None and view.phase is not Phase.FAILED:
        return Advance(event=Event.INVALID, reason=view.error)
    return None


def confirm_exits(view: EngineView) -> Action | None:
    """A coordinator that lives must hear of the exit before the lane is forgotten."""
    if view.coordinator.is_alive and not view.connected:
        return None
    for lane in view.lanes:
        if not lane.is_alive:
            return ConfirmExit(lane_id=lane.lane_id, reason=f"lane {lane.lane_id} has exited")
    return None


def end_everything(view: EngineView) -> Action | None:
    """From the outside in: nobody loses the process that it talks to while it lives."""
    if not view.is_ending and view.phase is not Phase.FAILED:
        return None
    reason = "the service stops" if view.is_ending else "the engine's input is wrong"
    groups: list[list[tuple[str, ChildView]]] = [
        [("frontend", view.front_end)],
        [("coordinator", view.coordinator)],
        [(lane.lane_id, lane) for lane in view.lanes],
        [("memory", view.memory)],
    ]
    living = next((group for group in groups if any(child.is_alive for _, child in group)), [])
    return first_end(living, reason) or Wait(reason=reason)


def end_engine(view: EngineView) -> Action | None:
    """What uses the GPU, from the outside in. The front end stays: it holds the requests that run again."""
    reason = view.engine_must_end
    if reason is None:
        return None
    groups: list[list[tuple[str, ChildView]]] = [
        [("coordinator", view.coordinator)],
        [(lane.lane_id, lane) for lane in view.lanes],
        [("memory", view.memory)],
    ]
    living = next((group for group in groups if any(child.is_alive for _, child in group)), None)
    return None if living is None else first_end(living, reason) or Wait(reason=reason)


def notice_lost_base(view: EngineView) -> Action | None:
    for name, child in (("memory server", view.memory), ("coordinator", view.coordinator)):
        if not child.is_alive and view.phase in SERVING:
            return Advance(event=Event.BASE_LOST, reason=f"the {name} is gone")
    return None


def clear_lost_base(view: EngineView) -> Action | None:
    """Lanes of a dead memory server or coordinator must be gone before it starts anew: they could still write."""
    if not view.memory.is_alive and view.coordinator.is_alive:
        reason = "its memory server is gone"
        return first_end([("coordinator", view.coordinator)], reason) or Wait(reason=reason)
    if view.memory.is_alive and view.coordinator.is_alive:
        return None
    living = [lane for lane in view.lanes if lane.is_alive]
    if not living:
        return None
    reason = "its memory server or coordinator is gone"
    return first_end(named(living), reason) or Wait(reason=reason)


def start_processes(view: EngineView) -> Action | None:
    may_use_device = view.start_hold is None and view.engine_must_end is None
    if not view.memory.is_alive and view.memory.is_due and may_use_device:
        return Start(process="memory", reason="no memory server")
    if not view.front_end.is_alive and view.front_end.is_due and not view.is_draining:
        return Start(process="frontend", reason="no front end")
    if view.memory_ready and not view.coordinator.is_alive and view.coordinator.is_due:
        return Start(process="coordinator", reason="no coordinator")
    return None


def connect(view: EngineView) -> Action | None:
    if view.connected:
        return None
    if view.coordinator.is_alive and view.coordinator_listening:
        return Connect(reason="the coordinator listens")
    return Wait(reason="no coordinator yet")


def send_caps(view: EngineView) -> Action | None:
    if view.isolation is not Isolation.GREEN_CONTEXT:
        return None
    if (view.caps, view.caps_band) == (view.partition, view.band):
        return None
    return SendCaps(
        partition=view.partition, band=view.band, reason=f"the caps in force are {view.partition}"
    )


def end_lost_lanes(view: EngineView) -> Action | None:
    lost = [lane for lane in view.lanes if lane.stage is LaneStage.LOST]
    stuck = [lane for lane in view.lanes if lane.stage is LaneStage.FORKED and lane.age_s > STUCK_AFTER_S]
    return first_end(named(lost), "its connection ended") or first_end(named(stuck), "it never attached")


def end_clients(view: EngineView) -> Action | None:
    """A fault of one MPS client has hit all, and the server serves again once every one has exited."""
    if view.lanes_must_end is None:
        return None
    living = [lane for lane in view.lanes if lane.is_alive]
    return first_end(named(living), view.lanes_must_end)


def replace_lanes(view: EngineView) -> Action | None:
    """A role without a lane gets one; where a switch brings one anyway, that one takes over."""
    coming = view.changed_roles if view.phase is Phase.PREPARING else ()
    for role in view.roles:
        if (
            view.kept(role) is None
            and role not in coming
            and view.zygote_ready
            and view.start_hold is None
            and view.lane_due.get(role, True)
        ):
            percent = view.partition.percent(role)
            return Fork(role=role, percent=percent, reason=f"no {role} lane at {percent} %")
    return None


def end_surplus(view: EngineView) -> Action | None:
    """Lanes that nothing accounts for, after an adoption or a recovery."""
    if view.phase in SWITCHING:
        return None
    for lane in view.surplus:
        kept = view.kept(lane.role)
        if kept is not None and kept.is_serving and (action := first_end(named([lane]), "surplus")):
            return action
    return swap_standby(view)


def settle(view: EngineView) -> Action | None:
    if view.phase in (Phase.STARTING, Phase.RECOVERING) and view.is_whole and not view.surplus:
        return Advance(event=Event.READY, reason="every role has its lane")
    if view.phase is Phase.STEADY and not view.is_whole:
        return Advance(event=Event.LANE_LOST, reason="a role has no active lane")
    if view.is_draining and view.phase in (Phase.STARTING, Phase.STEADY, Phase.RECOVERING):
        return Advance(event=Event.DRAIN, reason="the service drains")
    return None


RULES: tuple[Rule, ...] = (
    fail,
    confirm_exits,
    end_everything,
    end_engine,
    notice_lost_base,
    clear_lost_base,
    start_processes,
    connect,
    send_caps,
    end_lost_lanes,
    end_clients,
    end_dropped,
    settle,
    begin_switch,
    prepare,
    swap,
    retire,
    roll_back,
    replace_lanes,
    end_surplus,
)
