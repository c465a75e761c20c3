"""HTTP to upstreams, with connections kept open between requests."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import httpx

from semipd_engine.proxy.upstreams import Address, Upstream

CONNECT_TIMEOUT_S = 2.0
ASK_TIMEOUT_S = 1.0
KEEP_ALIVE_S = 2.0  # shorter than the front ends', so that none is reused while it is being closed there
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_S)
# A node that loses its power closes nothing, and an answer may take as long as it likes: only the peer's kernel can tell.
# An idle connection is given up 20 s after the last sign of it, as is one with bytes that nobody acknowledges.
_LIVENESS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),  # s
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),  # s
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),  # ms
)

Headers = Sequence[tuple[bytes, bytes]]


class Connections:
    """One pool per address. Transports are used without a client: no cookies, redirects or decoding in between."""

    def __init__(self) -> None:
        self._transports: dict[Address, httpx.AsyncHTTPTransport] = {}
        self._dropped: list[tuple[Upstream, httpx.AsyncHTTPTransport]] = []

    async def send(
        self, upstream: Upstream, method: str, target: str, headers: Headers, body: bytes
    ) -> httpx.Response:
        """The response with its body unread; to be closed. It may take for ever, but a peer that has vanished is noticed.

        Raises: httpx.TransportError.
        """
        return await self._send(upstream, method, target, headers, body, read_timeout_s=None)

    async def is_ready(self, upstream: Upstream) -> bool:
        return await self.get(upstream, "/ready") is not None

    async def get(self, upstream: Upstream, target: str) -> bytes | None:
        """The body of a 200 that comes at once; else None."""
        try:
            response = await self._send(upstream, "GET", target, (), b"", read_timeout_s=ASK_TIMEOUT_S)
            body = await response.aread()
        except httpx.TransportError:
            return None
        await response.aclose()
        return body if response.status_code == httpx.codes.OK else None

    async def drop(self, upstream: Upstream) -> None:
        """It is gone: its connections are closed, at a later drop if they carry a request now."""
        transport = self._transports.pop(upstream.address, None)
        if transport is not None:
            self._dropped.append((upstream, transport))
        idle = [each for each in self._dropped if each[0].num_open == 0]
        self._dropped = [each for each in self._dropped if each[0].num_open > 0]
        for _, each in idle:
            await each.aclose()

    async def close(self) -> None:
        for transport in [*self._transports.values(), *(each for _, each in self._dropped)]:
            await transport.aclose()

    def _transport(self, address: Address) -> httpx.AsyncHTTPTransport:
        found = self._transports.get(address)
        if found is None:
            found = httpx.AsyncHTTPTransport(
                uds=address.socket_path,
                limits=_LIMITS,
                trust_env=False,
                socket_options=_LIVENESS if address.socket_path is None else (),
            )
            self._transports[address] = found
        return found

    async def _send(
        self,
        upstream: Upstream,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        read_timeout_s: float | None,
    ) -> httpx.Response:
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=read_timeout_s, write=None, pool=None)
        request = httpx.Request(
            method,
            upstream.address.url + target,
            headers=list(headers),
            content=body,
            extensions={"timeout": timeout.as_dict()},
        )
        return await self._transport(upstream.address).handle_async_request(request)
