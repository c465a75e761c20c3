"""Hands a rank's arenas to whoever connects to its socket: one JSON line and three descriptors, then the connection is closed."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import structlog

from semipd_engine.memory.manifest import Manifest
from semipd_shell import failpoints
from semipd_shell.agent_watch import OrphanWatch
from semipd_shell.channel import SEND_TIMEOUT_S

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    manifest: Manifest
    fds: list[int]


def serve(
    handouts: Mapping[socket.socket, Handout],
    *,
    watch: OrphanWatch,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Until no agent lives. `handouts`: what is to be had at each listening socket."""
    lines = {
        listener: msgspec.json.encode(handout.manifest) + b"\n" for listener, handout in handouts.items()
    }
    failpoints.reach("memory.listening")
    while not watch.is_orphaned(time.monotonic()):
        ready, _, _ = select.select(list(handouts), [], [], POLL_S)
        for listener in ready:
            peer, _ = listener.accept()
            with peer:
                try:
                    _hand_out(peer, lines[listener], handouts[listener].fds)
                except OSError as error:
                    log.info("a client went away before it had its arenas", error=str(error))
                else:
                    failpoints.reach("memory.fds_sent")
    log.info("no agent lives, stopping")


def _hand_out(peer: socket.socket, line: bytes, fds: list[int]) -> None:
    peer.settimeout(SEND_TIMEOUT_S)
    sent_bytes = socket.send_fds(peer, [line], fds)
    peer.sendall(line[sent_bytes:])
