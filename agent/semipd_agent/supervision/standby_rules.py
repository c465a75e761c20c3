"""Which lanes are kept warm at shares that are not in force? Pure, and part of `plan`.

Going back to such a share is a swap alone. Design: 0012.
"""

from __future__ import annotations

from semipd_agent.supervision.actions import Action, first_end, named
from semipd_agent.supervision.standby import StandbyChoice
from semipd_agent.supervision.view import EngineView, LaneStage, LaneView
from semipd_core.partition import Role
from semipd_core.repartition import Phase, SwitchForm


def choose(view: EngineView) -> StandbyChoice:
    """Of the lanes that a share in force does not need: the latest wished or used, as many as are allowed and fit."""
    if not view.standby.is_on or not view.isolation.replaces_lanes:
        return StandbyChoice()
    candidates = [lane for lane in view.lanes if _is_candidate(view, lane)]
    needed = [lane for lane in candidates if _is_needed(view, lane)]
    kept = list(needed)
    dropped: dict[str, str] = {}
    for lane in sorted(candidates, key=lambda lane: _rank(view, lane)):
        if lane in needed:
            continue
        reason = _why_not_this(view, lane, kept)
        if reason is None:
            kept.append(lane)
        else:
            dropped[lane.lane_id] = reason
    kept, dropped = _within_memory(view, [lane for lane in kept if lane not in needed], dropped)
    return StandbyChoice(kept=frozenset(lane.lane_id for lane in (*needed, *kept)), dropped=dropped)


def end_dropped(view: EngineView) -> Action | None:
    """At once, in the middle of a switch too: its memory may be what the switch needs."""
    for lane in view.lanes:
        reason = view.standbys.dropped.get(lane.lane_id)
        if (
            reason is not None
            and lane.stage is LaneStage.STANDBY
            and (end := first_end(named([lane]), reason))
        ):
            return end
    leaving = [lane for lane in view.lanes if lane.stage is LaneStage.STANDBY and lane.signalled is not None]
    return first_end(named(leaving), "it is kept no longer") if view.standby.is_on else None


def _is_candidate(view: EngineView, lane: LaneView) -> bool:
    is_replaced = lane.is_serving and view.phase is not Phase.PREPARING
    is_there = lane.is_usable and (lane.stage is LaneStage.STANDBY or is_replaced)
    return is_there and lane.role in view.roles and lane != view.kept(lane.role)


def _is_needed(view: EngineView, lane: LaneView) -> bool:
    """The switch under way is about to swap it in."""
    return view.phase is Phase.PREPARING and view.target is not None and view.fits(lane, view.target)


def _rank(view: EngineView, lane: LaneView) -> tuple[int, float]:
    wished = [wish.percent(lane.role) for wish in view.standby.wished]
    latest = wished.index(lane.percent) if lane.percent in wished else len(wished)
    return latest, 0.0 if lane.is_serving else lane.stage_age_s


def _why_not_this(view: EngineView, lane: LaneView, kept: list[LaneView]) -> str | None:
    facts = view.standby
    if (why := why_none(view)) is not None:
        return why
    if lane.granted_percent != lane.percent:
        return f"it was granted {lane.granted_percent} % instead of {lane.percent} %"
    if not lane.private_bytes:
        return "it does not say how much memory it holds"
    if lane.stage is LaneStage.STANDBY and lane.stage_age_s > facts.max_age_s:
        return f"nobody came back to it for {facts.max_age_s:.0f} s"
    same = [*kept, *(each for each in [view.kept(lane.role)] if each is not None)]
    if any((each.role, each.percent) == (lane.role, lane.percent) for each in same):
        return f"another {lane.role} lane has {lane.percent} %"
    if len(kept) >= facts.lanes_max:
        return f"at most {facts.lanes_max} lanes are kept warm"
    return None


def why_none(view: EngineView) -> str | None:
    """Why no lane is kept whatever its share; None if some may be."""
    if view.is_draining or view.is_ending:
        return "the service ends"
    if view.phase is Phase.FAILED:
        return "the engine's input is wrong"
    if (
        hold := view.lanes_must_end or view.engine_must_end or view.switch_hold or view.start_hold
    ) is not None:
        return hold
    if view.standby.free_bytes is None:
        return "nobody knows how much memory is free"
    return None


def _within_memory(
    view: EngineView, kept: list[LaneView], dropped: dict[str, str]
) -> tuple[list[LaneView], dict[str, str]]:
    """The last of `kept` go first, until what is free is what a switch to new shares takes."""
    free_bytes, needed_bytes = view.standby.free_bytes or 0, switch_bytes(view)
    kept, dropped = list(kept), dict(dropped)
    free_bytes += sum(
        lane.private_bytes for lane in view.lanes if lane.is_alive and lane.signalled is not None
    )
    while kept and free_bytes < needed_bytes:
        lane = kept.pop()
        dropped[lane.lane_id] = f"{free_bytes} bytes are free, a switch takes {needed_bytes}"
        free_bytes += lane.private_bytes
    return kept, dropped


def is_warm(view: EngineView, role: Role) -> bool:
    """Whether the lane of `role` that the switch under way needs was there before the switch."""
    lanes = () if view.target is None else view.at_share(role, view.target)
    return any(lane.is_attached and not lane.is_new for lane in lanes)


def form_of(view: EngineView) -> SwitchForm:
    """Of the switch under way, prepared now."""
    if not view.changed_roles:
        return SwitchForm.CAPS
    return SwitchForm.WARM if all(is_warm(view, role) for role in view.changed_roles) else SwitchForm.COLD


def switch_bytes(view: EngineView) -> int:
    """What new lanes take beside the old ones; a switch under way has taken its part, except for lanes not there yet."""
    roles = view.roles
    if view.phase is Phase.PREPARING and (target := view.target) is not None:
        roles = tuple(role for role in view.changed_roles if not view.at_share(role, target))
    return sum(_lane_bytes(view, role) for role in roles)


def _lane_bytes(view: EngineView, role: Role) -> int:
    return max((lane.private_bytes for lane in view.lanes if lane.role is role), default=0)
