"""Connections to pods notice a peer that has vanished without a word; those to sockets of this machine need not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.upstreams import Address, Upstream

KEEPALIVE_OF_TCP = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 20_000,
}


class Peer:
    """Answers one request of each connection, and holds that until the other end closes it."""

    def __init__(self) -> None:
        self._handlers: list[asyncio.Task[object] | None] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def ended(self) -> None:
        await asyncio.gather(*(each for each in self._handlers if each is not None))


@asynccontextmanager
async def connected_socket(address: Address, peer: Peer) -> AsyncIterator[socket.socket]:
    """Of a request that was answered, and is not closed."""
    connections = Connections()
    response = await connections.send(Upstream(name="pod", address=address), "GET", "/", (), b"")
    try:
        yield response.extensions["network_stream"].get_extra_info("socket")
    finally:
        await response.aclose()
        await connections.close()
        await peer.ended()


@pytest.mark.asyncio
async def test_a_node_that_vanishes_is_noticed_by_its_connections() -> None:
    async with await asyncio.start_server(peer := Peer(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connected_socket(Address(host="127.0.0.1", port=port), peer) as found:
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            kept = {option: found.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE_OF_TCP}
            assert kept == KEEPALIVE_OF_TCP


@pytest.mark.asyncio
async def test_a_socket_of_this_machine_takes_no_options_of_tcp(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with (
        await asyncio.start_unix_server(peer := Peer(), path),
        connected_socket(Address(socket_path=path), peer) as found,
    ):
        assert found.family == socket.AF_UNIX
