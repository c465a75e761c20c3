"""What is known of the MPS daemon, its servers and their clients: the input of `plan.decide`. Ages are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.replies import ServerStatus
from semipd_agent.supervision.view import ChildView


class MpsState(StrEnum):
    ABSENT = "Absent"  # no daemon, and one may start
    REFUSED = "Refused"  # the GPU or the binary does not allow one
    STARTING = "Starting"  # a daemon without a server that is ready
    ACTIVE = "Active"
    BYPASSED = "Bypassed"  # a lane runs without MPS: its share is not enforced
    FAULT = "Fault"  # a fault of one client has hit all: every lane ends first
    HUNG = "Hung"  # the daemon does not answer
    GIVEN_UP = "GivenUp"  # daemon or server ended at every try; tried again now and then
    STOPPED = "Stopped"  # on request


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """`client_pids` is None where they were not told (a server that is not ready)."""

    pid: int
    status: ServerStatus
    status_age_s: float = 0.0
    client_pids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneClient:
    """A living lane. `granted_percent` is None before it has attached and once it is to end."""

    pid: int
    lane_id: str
    percent: int
    granted_percent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsView:
    daemon: ChildView
    daemon_failures: int = 0  # ends in a row, each soon after its start
    server_failures: int = 0  # ends in a row before it was active
    has_answered: bool = False  # this daemon, ever
    silent_s: float = 0.0  # since its last answer, or its start
    servers: tuple[ServerView, ...] = ()  # that the daemon lists
    orphan_pids: tuple[int, ...] = ()  # servers in the pipe directory that the living daemon does not list
    server_due: bool = True  # the back-off after the last server's end is over
    lanes: tuple[LaneClient, ...] = ()
    refusal: Refusal | None = None
    is_ending: bool = False
    is_quit_sent: bool = False
