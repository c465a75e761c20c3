"""Moves one request to an upstream and its response back, unbuffered; tries another one while no token has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from starlette.types import Send

from semipd_core.routing.choice import Bounds, choose
from semipd_core.routing.prefix import read_prefix
from semipd_core.routing.retries import Refusal, refusal_of
from semipd_engine.frontend.api_errors import ApiError, unavailable
from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.exchange import Exchange, end_with_error, forwarded
from semipd_engine.proxy.metrics import Metrics
from semipd_engine.proxy.passing import LostAfterToken, LostBeforeToken, pass_on, read_refusal
from semipd_engine.proxy.upstreams import Upstream, Upstreams
from semipd_shell import log

_log = log.logger(__name__)

RETRY_AFTER_S = 2
MAX_WHOLE_BYTES = (
    8 * 2**20
)  # of an answer that is held until it is whole, so that another upstream can still give it


class Forwarder:
    def __init__(
        self,
        upstreams: Upstreams,
        connections: Connections,
        metrics: Metrics,
        now_s: Callable[[], float],
        bounds: Bounds | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._connections = connections
        self._metrics = metrics
        self._now_s = now_s
        self._bounds = bounds or Bounds()

    async def forward(self, exchange: Exchange, send: Send) -> None:
        """Raises: ApiError if no upstream gave a token; httpx.TransportError if one died in the middle of a whole answer."""
        exchange.task = asyncio.current_task()
        try:
            await self._forward(exchange, send)
        except asyncio.CancelledError:
            if not exchange.is_cut or exchange.task is None:
                raise
            exchange.task.uncancel()
            error = unavailable("the proxy ends: its time to drain is over", RETRY_AFTER_S)
            if exchange.status is None:
                raise error from None
            if exchange.streams:
                await end_with_error(error, send)

    async def _forward(self, exchange: Exchange, send: Send) -> None:
        prefix = read_prefix(exchange.body) if exchange.has_prompt else []
        tried: set[str] = set()
        while upstream := self._choose(prefix, tried):
            tried.add(upstream.name)
            exchange.upstream = upstream.name
            async with _counted(upstream):
                refusal = await self._try(upstream, exchange, send)
            if refusal is None:
                return
            may_go_on = exchange.budget.note(refusal)
            self._metrics.refused(refusal)
            if not may_go_on:
                break
        await self._answer_refusal(exchange, send)

    def _choose(self, prefix: list[int], tried: set[str]) -> Upstream | None:
        candidates = self._upstreams.candidates(self._now_s(), tried)
        if not candidates:
            return None
        matches = self._upstreams.prefixes.matches(prefix)
        choice = choose(candidates, matches, prefix[0] if prefix else None, self._bounds)
        self._upstreams.prefixes.record(prefix, choice.name)
        self._metrics.picked(choice)
        return self._upstreams.by_name[choice.name]

    async def _answer_refusal(self, exchange: Exchange, send: Send) -> None:
        """In the words of the upstream that was asked last, where one has spoken. Raises: ApiError 503 where none has."""
        refused = exchange.last_refusal
        if refused is None:
            known = len(self._upstreams)
            raise unavailable(f"none of {known} engines takes requests", RETRY_AFTER_S)
        exchange.status = refused.status
        headers = [
            *forwarded(refused.headers),
            (b"x-request-id", exchange.request_id.encode()),
            (b"content-length", str(len(refused.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": refused.body})

    async def _try(self, upstream: Upstream, exchange: Exchange, send: Send) -> Refusal | None:
        """Why the upstream gave no token; None: the client's answer has begun, and is over."""
        headers = [*forwarded(exchange.headers), (b"x-request-id", exchange.request_id.encode())]
        try:
            response = await self._connections.send(
                upstream, exchange.method, exchange.target, headers, exchange.body
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return self._lost(upstream, Refusal.CONNECT, error)
        except httpx.TransportError as error:
            return self._lost(upstream, Refusal.CUT, error)
        upstream.note_answer()
        try:
            refusal = refusal_of(response.status_code)
            if refusal is not None:
                exchange.last_refusal = await read_refusal(response)
                return refusal
            await pass_on(response, exchange, send)
        except LostBeforeToken as error:
            return self._lost(upstream, Refusal.CUT, error)
        except LostAfterToken as error:
            self._lost(upstream, Refusal.CUT, error)
            self._metrics.cut_after_token()
            await end_with_error(_broke_off(upstream), send)
        finally:
            await response.aclose()
        return None

    def _lost(self, upstream: Upstream, refusal: Refusal, error: Exception) -> Refusal:
        upstream.note_failure(self._now_s())
        _log.warning("upstream lost", upstream=upstream.name, refusal=refusal, error=repr(error))
        return refusal


def _broke_off(upstream: Upstream) -> ApiError:
    message = f"the engine {upstream.name} ended in the middle of the answer"
    return ApiError(502, message, kind="server_error", code="upstream_lost")


@asynccontextmanager
async def _counted(upstream: Upstream) -> AsyncIterator[None]:
    upstream.num_open += 1
    upstream.num_served += 1
    try:
        yield
    finally:
        upstream.num_open -= 1
