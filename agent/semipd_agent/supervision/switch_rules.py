"""The rules of a switch: which lanes are prepared, swapped, retired, rolled back. Pure, and part of `plan.RULES`.

Source: design 0001 "Switch"; semi-PD (arXiv 2504.19867) section 4.3 (delayed, asynchronous switching).
"""

from __future__ import annotations

from semipd_agent.supervision.actions import Action, Advance, Fork, SendSwap, first_end, named
from semipd_agent.supervision.view import EngineView, LaneStage
from semipd_core.partition import Isolation
from semipd_core.repartition import Event, Phase

ATTACH_DEADLINE_S = 20.0
SWAP_DEADLINE_S = 20.0  # no step boundary for so long: the old lane hangs
CAPS_DEADLINE_S = 5.0
RETIRE_DEADLINE_S = 10.0


def begin_switch(view: EngineView) -> Action | None:
    is_free = view.phase is Phase.STEADY and not view.is_draining and view.switch_hold is None
    if is_free and view.goal not in (None, view.partition):
        return Advance(event=Event.WISH, reason=f"{view.goal} is wished for")
    return None


def prepare(view: EngineView) -> Action | None:
    """Fork a lane beside the old one for each role whose share changes; read back what each was granted."""
    if view.phase is not Phase.PREPARING or view.target is None:
        return None
    if (why := view.rejection or view.switch_hold) is not None:
        return Advance(event=Event.REJECTED, reason=why)
    new = {role: view.at_share(role, view.target) for role in view.changed_roles}
    for lane in (lane for lanes in new.values() for lane in lanes):
        if lane.granted_percent not in (None, lane.percent):
            message = f"lane {lane.lane_id} was granted {lane.granted_percent} % instead of {lane.percent} %"
            return Advance(event=Event.REJECTED, reason=message)
    if all(any(lane.is_attached for lane in lanes) for lanes in new.values()):
        return Advance(event=Event.PREPARED, reason=f"lanes for {view.target} are attached")
    if view.phase_age_s > ATTACH_DEADLINE_S:
        message = f"no lane attached within {ATTACH_DEADLINE_S:.0f} s"
        return Advance(event=Event.REJECTED, reason=message)
    for role, lanes in new.items():
        if not lanes and view.zygote_ready:
            percent = view.target.percent(role)
            return Fork(role=role, percent=percent, reason=f"switch to {view.target}")
    return None


def swap(view: EngineView) -> Action | None:
    """Each role swaps at its own step boundary. A sent swap is not taken back: what is missing is made up for."""
    if view.phase is not Phase.SWAPPING:
        return None
    if view.is_whole and _caps_granted(view):
        return Advance(event=Event.EFFECTIVE, reason=f"{view.partition} is granted")
    if view.isolation is Isolation.GREEN_CONTEXT:
        late = view.phase_age_s > CAPS_DEADLINE_S and view.is_whole
        message = f"the lanes do not report {view.partition}"
        return Advance(event=Event.REJECTED, reason=message) if late else None
    old = [lane for lane in view.surplus if lane.is_serving]
    if view.phase_age_s > SWAP_DEADLINE_S and (action := first_end(named(old), "no step boundary")):
        return action
    return swap_standby(view)


def _caps_granted(view: EngineView) -> bool:
    if view.isolation is not Isolation.GREEN_CONTEXT:
        return True
    kept = [view.kept(role) for role in view.roles]
    return all(lane and lane.granted_percent == view.partition.percent(lane.role) for lane in kept)


def swap_standby(view: EngineView) -> Action | None:
    for role in view.roles:
        lane = view.kept(role)
        old = next((other for other in view.surplus if other.is_serving and other.role is role), None)
        if lane is not None and lane.stage is LaneStage.STANDBY and old is not None and not lane.is_swap_sent:
            keeps_old = old.lane_id in view.standbys.kept
            reason = f"lane {lane.lane_id} is attached"
            return SendSwap(lane_id=lane.lane_id, keeps_old=keeps_old, reason=reason)
    return None


def retire(view: EngineView) -> Action | None:
    if view.phase is not Phase.RETIRING:
        return None
    if not view.surplus:
        return Advance(event=Event.RETIRED, reason="the old lanes have exited")
    late = view.surplus if view.phase_age_s > RETIRE_DEADLINE_S else ()
    return first_end(named(late), "it did not stop when told")


def roll_back(view: EngineView) -> Action | None:
    if view.phase is not Phase.ROLLING_BACK:
        return None
    new = [lane for lane in view.surplus if not view.fits(lane, view.partition)]
    if not new:
        return Advance(event=Event.ROLLED_BACK, reason=view.rejection or "the switch is rolled back")
    return first_end(named(new), "the switch is rolled back")
