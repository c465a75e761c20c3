"""Moves one request to a front end and its response back, unbuffered; tries the next one while no byte has come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from starlette.types import Scope, Send

from semipd_engine.frontend.api_errors import unavailable
from semipd_engine.proxy.connections import Connections, Headers
from semipd_engine.proxy.metrics import Metrics
from semipd_engine.proxy.upstreams import Upstream, order_of_choice
from semipd_shell import log

_log = log.logger(__name__)

RETRY_AFTER_S = 2
# RFC 9110 §7.6.1, and what each side of the proxy writes by itself.
_NOT_FORWARDED = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """One request on its way; says afterwards which engine answered, with what, at which attempt."""

    method: str
    target: str
    headers: Headers
    body: bytes
    request_id: str
    engine: int | None = None
    status: int | None = None  # of the response that was begun
    attempts: int = 0


def target_of(scope: Scope) -> str:
    query = scope["query_string"].decode("ascii", "replace")
    path: str = scope["raw_path"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without what belongs to one hop. Names come in lower case from ASGI, in any case from httpx."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_FORWARDED]


class Forwarder:
    def __init__(self, upstreams: Sequence[Upstream], connections: Connections, metrics: Metrics) -> None:
        self._upstreams = upstreams
        self._connections = connections
        self._metrics = metrics

    async def forward(self, exchange: Exchange, send: Send) -> None:
        """Raises: ApiError 503 if no front end took the request; httpx.TransportError if one died in the middle of its answer."""
        tried: set[int] = set()
        while left := [one for one in self._upstreams if one.index not in tried]:
            upstream = order_of_choice(left)[0]
            tried.add(upstream.index)
            exchange.attempts += 1
            exchange.engine = upstream.index
            async with _counted(upstream):
                if await self._try(upstream, exchange, send):
                    return
            self._metrics.passed_over(upstream)
        raise unavailable(f"none of {len(self._upstreams)} engines takes requests", RETRY_AFTER_S)

    async def _try(self, upstream: Upstream, exchange: Exchange, send: Send) -> bool:
        """False if the front end refused or vanished before the first byte of its answer."""
        headers = [*forwarded(exchange.headers), (b"x-request-id", exchange.request_id.encode())]
        try:
            response = await self._connections.send(
                upstream, exchange.method, exchange.target, headers, exchange.body
            )
        except httpx.TransportError as error:
            upstream.ready = False
            _log.warning("engine unreachable", engine=upstream.index, error=repr(error))
            return False
        try:
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return False
            return await self._pass_on(upstream, response, exchange, send)
        finally:
            await response.aclose()

    async def _pass_on(
        self, upstream: Upstream, response: httpx.Response, exchange: Exchange, send: Send
    ) -> bool:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        chunks = aiter(response.stream)
        try:
            first = await anext(chunks, b"")
        except httpx.TransportError as error:
            _log.warning("engine vanished", engine=upstream.index, error=repr(error))
            return False
        exchange.status = response.status_code
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": _response_headers(response, exchange.request_id),
            }
        )
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return True


def _response_headers(response: httpx.Response, request_id: str) -> list[tuple[bytes, bytes]]:
    headers = [*forwarded(response.headers.raw), (b"x-request-id", request_id.encode())]
    if length := response.headers.get("content-length"):
        headers.append((b"content-length", length.encode()))
    return headers


@asynccontextmanager
async def _counted(upstream: Upstream) -> AsyncIterator[None]:
    upstream.num_open += 1
    upstream.num_served += 1
    try:
        yield
    finally:
        upstream.num_open -= 1
