"""What `nvidia-cuda-mps-control` (protocol v2) answers, read strictly: pure.

The exit code says nothing: refusals come with 0. Source: man page of 555.58.02, and the binaries of 535.261.03 and 555.58.02
run without a GPU. What only a driver can produce (FAULT, a client's PID, a successful `terminate_client`) is from the
documentation alone.
"""

from __future__ import annotations

import re
from enum import StrEnum

from semipd_core.errors import DeviceError

_NO_SERVER = re.compile(r"Server( \d+)? not found!?(\n+(Server \d+ not found!?)?)*(\n1)?")


class ServerStatus(StrEnum):
    INITIALIZING = "INITIALIZING"
    ACTIVE = "ACTIVE"
    FAULT = "FAULT"  # until every client of the server has exited


class MpsError(DeviceError):
    """`sent` got `received`."""

    def __init__(self, sent: str, received: str, expected: str) -> None:
        self.sent = sent
        self.received = received
        super().__init__(f"nvidia-cuda-mps-control: sent {sent!r}, got {received!r}, allowed: {expected}")


class UnexpectedReply(MpsError):
    """Not a reply that this protocol has."""


class UnknownCommand(MpsError):
    """The binary is too old for the command."""


class NoSuchServer(MpsError):
    """The server has ended."""


class NotPermitted(MpsError):
    """The daemon belongs to another user."""


def refuse(sent: str, reply: str) -> None:
    """Raises: UnknownCommand, NoSuchServer, NotPermitted if `reply` is such a refusal."""
    if reply.startswith("Unknown command"):
        raise UnknownCommand(sent, reply, "a command that this binary knows")
    if reply.startswith(("Insufficient privileges", "Not enough privilege")):
        raise NotPermitted(sent, reply, "a daemon of the same user")
    if _NO_SERVER.fullmatch(reply):
        raise NoSuchServer(sent, reply, "the PID of a living server")


def parse_nothing(sent: str, reply: str) -> None:
    """Raises: MpsError."""
    refuse(sent, reply)
    if reply:
        raise UnexpectedReply(sent, reply, "an empty reply")


def parse_pids(sent: str, reply: str) -> tuple[int, ...]:
    """One PID a line; a server that is busy or still starting answers as if it had none. Raises: MpsError."""
    refuse(sent, reply)
    lines = reply.splitlines()
    if not all(line.strip().isdecimal() for line in lines):
        raise UnexpectedReply(sent, reply, "one PID a line")
    return tuple(int(line) for line in lines)


def parse_status(sent: str, reply: str) -> ServerStatus:
    """Raises: MpsError; UnknownCommand before 550."""
    refuse(sent, reply)
    try:
        return ServerStatus(reply)
    except ValueError:
        raise UnexpectedReply(sent, reply, ", ".join(ServerStatus)) from None


def parse_percentage(sent: str, reply: str) -> float | None:
    """None: the server is busy or still starting. Raises: MpsError."""
    refuse(sent, reply)
    if not reply:
        return None
    try:
        percent = float(reply)
    except ValueError:
        percent = 0.0
    if not 0.0 < percent <= 100.0:
        raise UnexpectedReply(sent, reply, "a percentage in (0.0, 100.0], or nothing")
    return percent


def parse_terminated(sent: str, reply: str) -> bool:
    """Whether the client's work was ended: the last line is 0. Raises: MpsError."""
    refuse(sent, reply)
    code = reply.rpartition("\n")[2]
    if code not in ("0", "1"):
        raise UnexpectedReply(sent, reply, "0 or 1 in the last line")
    return code == "0"
