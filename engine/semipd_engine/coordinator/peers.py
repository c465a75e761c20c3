"""Who is connected to the coordinator, and as what: the first message on a connection says so."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from semipd_core import messages
from semipd_shell import channel


@dataclass(slots=True, eq=False)
class Peer:
    """One connection. `lane_id` is set for lanes; `told_to_stop` marks a lane whose end is expected."""

    channel: channel.Channel
    hello: messages.FrontEndHello | messages.AgentHello | messages.LaneHello | None = None
    told_to_stop: bool = False

    @property
    def lane_id(self) -> str | None:
        return self.hello.lane_id if isinstance(self.hello, messages.LaneHello) else None


@dataclass(slots=True)
class Peers:
    """All connections, and the way to send to a role. A peer that cannot be sent to is dropped when its end is read."""

    _peers: set[Peer] = field(default_factory=set)

    def add(self, connection: socket.socket) -> Peer:
        peer = Peer(channel.Channel(connection))
        self._peers.add(peer)
        return peer

    def remove(self, peer: Peer) -> None:
        self._peers.discard(peer)
        peer.channel.close()

    def front_end(self) -> Peer | None:
        return self._find(messages.FrontEndHello)

    def agent(self) -> Peer | None:
        return self._find(messages.AgentHello)

    def lane(self, lane_id: str) -> Peer | None:
        return next((peer for peer in self._peers if peer.lane_id == lane_id), None)

    def _find(self, kind: type[messages.FrontEndHello | messages.AgentHello]) -> Peer | None:
        return next((peer for peer in self._peers if isinstance(peer.hello, kind)), None)

    def displace(self, newcomer: Peer) -> list[Peer]:
        """Older peers of the newcomer's kind: a restarted agent or front end takes the place of the one before."""
        if isinstance(newcomer.hello, messages.LaneHello):
            return []
        return [
            peer for peer in self._peers if peer is not newcomer and type(peer.hello) is type(newcomer.hello)
        ]


def send(peer: Peer | None, message: messages.Message) -> bool:
    """Send if there is somebody; False if there is nobody or they are gone (their end is read later)."""
    if peer is None:
        return False
    try:
        peer.channel.send(message)
    except OSError:
        return False
    return True
