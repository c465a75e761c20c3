"""What next for the MPS daemon? Pure: a view in, a verdict with its reason out; the rules read from top to bottom.

Source: MPS documentation, "Fatal GPU Exception Handling": after a fault the server is ready again once all its clients have
exited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from signal import SIGKILL, SIGTERM

from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.replies import ServerStatus
from semipd_agent.mps.view import LaneClient, MpsState, MpsView, ServerView

HUNG_AFTER_S = 30.0
INITIALIZING_DEADLINE_S = 60.0  # contexts of every GPU are made
FAULT_DEADLINE_S = 30.0  # from the last client's exit
QUIT_DEADLINE_S = 10.0
GIVES_UP_AFTER = 5  # failures in a row


class Step(StrEnum):
    WAIT = "Wait"
    START_DAEMON = "StartDaemon"
    START_SERVER = "StartServer"
    SHUT_DOWN_SERVERS = "ShutDownServers"  # by force
    END_SERVERS = "EndServers"  # that no daemon answers for: by signal
    QUIT = "Quit"
    TERMINATE_DAEMON = "TerminateDaemon"
    KILL_DAEMON = "KillDaemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`lanes_allowed`: new ones may start. `lanes_must_end`: those that live. `refusal`: why no daemon may start."""

    state: MpsState
    reason: str
    step: Step = Step.WAIT
    lanes_allowed: bool = False
    lanes_must_end: bool = False
    refusal: Refusal | None = None


Rule = Callable[[MpsView], Verdict | None]


def decide(view: MpsView) -> Verdict:
    return next(verdict for rule in RULES if (verdict := rule(view)) is not None)


def end(view: MpsView) -> Verdict | None:
    """The last lane has gone before; `quit` first, since a daemon that is killed leaves its servers behind."""
    if not view.is_ending:
        return None
    reason = "the agent stops"
    if view.daemon.is_alive:
        return Verdict(state=MpsState.STOPPED, reason=reason, step=_end_daemon(view))
    if view.orphan_pids:
        return Verdict(state=MpsState.STOPPED, reason="servers outlived the daemon", step=Step.END_SERVERS)
    return Verdict(state=MpsState.STOPPED, reason=reason)


def _end_daemon(view: MpsView) -> Step:
    if not view.is_quit_sent:
        return Step.QUIT
    if view.daemon.signalled is None:
        return Step.TERMINATE_DAEMON
    is_late = view.daemon.signalled is SIGTERM and view.daemon.signalled_age_s > QUIT_DEADLINE_S
    return Step.KILL_DAEMON if is_late else Step.WAIT


def begin(view: MpsView) -> Verdict | None:
    """A new daemon does not know the servers of the one before it, so they and their clients go first."""
    if view.daemon.is_alive:
        return None
    if view.lanes:
        reason = "the control daemon is gone, and the next one cannot take over its clients"
        return Verdict(state=MpsState.ABSENT, reason=reason, lanes_must_end=True)
    if view.orphan_pids:
        return Verdict(state=MpsState.ABSENT, reason="servers outlived their daemon", step=Step.END_SERVERS)
    if view.refusal is not None:
        reason = f"{view.refusal.reason}: {view.refusal.message}"
        return Verdict(state=MpsState.REFUSED, reason=reason, refusal=view.refusal)
    step = Step.START_DAEMON if view.daemon.is_due else Step.WAIT
    if view.daemon_failures >= GIVES_UP_AFTER:
        reason = f"the control daemon ended {view.daemon_failures} times in a row"
        return Verdict(state=MpsState.GIVEN_UP, reason=reason, step=step)
    return Verdict(state=MpsState.ABSENT, reason="no control daemon", step=step)


def notice_silence(view: MpsView) -> Verdict | None:
    """Lanes do not need a daemon that hangs; the next ones do."""
    if view.silent_s <= HUNG_AFTER_S:
        return None
    reason = f"the control daemon has not answered for {view.silent_s:.0f} s"
    if view.lanes:
        return Verdict(state=MpsState.HUNG, reason=reason, lanes_must_end=True)
    step = Step.WAIT if view.daemon.signalled is SIGKILL else Step.KILL_DAEMON
    return Verdict(state=MpsState.HUNG, reason=reason, step=step)


def await_first_answer(view: MpsView) -> Verdict | None:
    if view.has_answered:
        return None
    return Verdict(state=MpsState.STARTING, reason="the control daemon has not answered yet")


def recover_from_fault(view: MpsView) -> Verdict | None:
    faulty = [server for server in view.servers if server.status is ServerStatus.FAULT]
    if not faulty:
        return None
    pids = ", ".join(str(server.pid) for server in faulty)
    reason = f"server {pids} is in FAULT: a fault of one client has hit all"
    if view.lanes:
        return Verdict(state=MpsState.FAULT, reason=reason, lanes_must_end=True)
    is_late = any(server.status_age_s > FAULT_DEADLINE_S for server in faulty)
    late = f"; not ready {FAULT_DEADLINE_S:.0f} s after its last client" if is_late else ""
    step = Step.SHUT_DOWN_SERVERS if is_late else Step.WAIT
    return Verdict(state=MpsState.FAULT, reason=reason + late, step=step)


def start_server(view: MpsView) -> Verdict | None:
    if view.servers:
        return None
    if bypassing := [lane for lane in view.lanes if lane.granted_percent is not None]:
        return _bypassed(bypassing, "there is no server")
    if view.orphan_pids:
        return Verdict(
            state=MpsState.STARTING,
            reason="servers of a daemon before this one live",
            step=Step.WAIT if view.lanes else Step.END_SERVERS,
            lanes_must_end=bool(view.lanes),
        )
    step = Step.START_SERVER if view.server_due else Step.WAIT
    if view.server_failures >= GIVES_UP_AFTER:
        reason = (
            f"the server ended {view.server_failures} times in a row before it was ready: is there a driver?"
        )
        return Verdict(state=MpsState.GIVEN_UP, reason=reason, step=step)
    return Verdict(state=MpsState.STARTING, reason="no server", step=step)


def await_server(view: MpsView) -> Verdict | None:
    waiting = [server for server in view.servers if server.status is ServerStatus.INITIALIZING]
    if not waiting:
        return None
    if any(server.status_age_s > INITIALIZING_DEADLINE_S for server in waiting):
        reason = f"the server is not ready after {INITIALIZING_DEADLINE_S:.0f} s"
        return Verdict(state=MpsState.STARTING, reason=reason, step=Step.SHUT_DOWN_SERVERS)
    return Verdict(state=MpsState.STARTING, reason="the server initializes")


def notice_bypass(view: MpsView) -> Verdict | None:
    """CUDA runs without MPS, and says nothing, where it finds no daemon: such a lane has the whole GPU, by turns."""
    if outside := [lane for lane in view.lanes if _is_outside(lane, view.servers)]:
        return _bypassed(outside, "no server has it as a client")
    if uncapped := [lane for lane in view.lanes if lane.percent < 100 and lane.granted_percent == 100]:
        return _bypassed(uncapped, "it was granted the whole GPU")
    return None


def _is_outside(lane: LaneClient, servers: tuple[ServerView, ...]) -> bool:
    if lane.granted_percent is None or any(server.client_pids is None for server in servers):
        return False
    return not any(lane.pid in (server.client_pids or ()) for server in servers)


def _bypassed(lanes: list[LaneClient], why: str) -> Verdict:
    """They serve on: a share that is not enforced is better than no service."""
    names = ", ".join(lane.lane_id for lane in lanes)
    return Verdict(state=MpsState.BYPASSED, reason=f"{names} runs without MPS: {why}", lanes_allowed=True)


def serve(view: MpsView) -> Verdict | None:
    servers = ", ".join(str(server.pid) for server in view.servers)
    return Verdict(state=MpsState.ACTIVE, reason=f"server {servers} is active", lanes_allowed=True)


RULES: tuple[Rule, ...] = (
    end,
    begin,
    notice_silence,
    await_first_answer,
    recover_from_fault,
    start_server,
    await_server,
    notice_bypass,
    serve,
)


def because(verdict: Verdict, why: str) -> Verdict:
    """The same with the daemon's own words."""
    return replace(verdict, reason=f"{verdict.reason} ({why})")
