"""HTTP to the front ends over their unix sockets, with connections kept open between requests."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from semipd_engine.proxy.upstreams import Upstream

CONNECT_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 1.0
_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=64)

Headers = Sequence[tuple[bytes, bytes]]


class Connections:
    """One pool per front end. Transports are used without a client: no cookies, redirects or decoding in between."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._transports = [
            httpx.AsyncHTTPTransport(uds=one.socket_path, limits=_UNLIMITED) for one in upstreams
        ]

    async def send(
        self, upstream: Upstream, method: str, target: str, headers: Headers, body: bytes
    ) -> httpx.Response:
        """The response with its body unread; to be closed. Raises: httpx.TransportError."""
        return await self._send(upstream, method, target, headers, body, read_timeout_s=None)

    async def is_ready(self, upstream: Upstream) -> bool:
        try:
            response = await self._send(upstream, "GET", "/ready", (), b"", read_timeout_s=READY_TIMEOUT_S)
        except httpx.TransportError:
            return False
        await response.aclose()
        return response.status_code == httpx.codes.OK

    async def close(self) -> None:
        for transport in self._transports:
            await transport.aclose()

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
            "http://engine" + target,
            headers=list(headers),
            content=body,
            extensions={"timeout": timeout.as_dict()},
        )
        return await self._transports[upstream.index].handle_async_request(request)
