"""The proxy's routes: `/v1` goes to an upstream, the rest is its own. `/internal` of the front ends is out of reach."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from semipd_engine.frontend import api_errors
from semipd_engine.frontend.api_errors import CLIENT_LEFT, ApiError
from semipd_engine.frontend.disconnects import run_until_disconnect
from semipd_engine.frontend.request_body import read_body
from semipd_engine.frontend.request_id import choose_request_id
from semipd_engine.proxy.exchange import Exchange, target_of
from semipd_engine.proxy.forwarding import RETRY_AFTER_S, Forwarder
from semipd_engine.proxy.metrics import Metrics
from semipd_shell import log

_log = log.logger(__name__)

MAX_HELD_BYTES = (
    256 * 2**20
)  # of all open requests' bodies: each is kept in case that another upstream must be asked


@dataclass(slots=True, eq=False, kw_only=True)
class ProxyApp:
    """An ASGI application. `knows_upstreams`: what it needs to be ready.

    `draining`: not ready, and connections close after their answer.
    """

    forwarder: Forwarder
    metrics: Metrics
    knows_upstreams: Callable[[], bool]
    more_metrics: Callable[[], Awaitable[bytes]] | None = None  # in the text format
    draining: bool = False
    max_held_bytes: int = MAX_HELD_BYTES
    open: set[Exchange] = field(default_factory=set)

    @property
    def num_in_flight(self) -> int:
        return len(self.open)

    @property
    def is_ready(self) -> bool:
        return not self.draining and self.knows_upstreams()

    def cut(self) -> None:
        """End what is open: streams with an error event."""
        for exchange in self.open:
            exchange.cut()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"].startswith("/v1/"):
            await self._proxy(scope, receive, send)
        else:
            response = await self._own(scope["path"])
            await response(scope, receive, send)

    async def _own(self, path: str) -> Response:
        if path == "/health":
            return _json({"status": "ok"}, 200)
        if path == "/ready":
            return _json({"ready": self.is_ready, "draining": self.draining}, 200 if self.is_ready else 503)
        if path == "/metrics":
            more = await self.more_metrics() if self.more_metrics is not None else b""
            return Response(self.metrics.expose(self.num_in_flight) + more, media_type=CONTENT_TYPE_LATEST)
        return _error(ApiError(404, f"{path}: not found, allowed: /v1, /health, /ready, /metrics"))

    async def _proxy(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        exchange = Exchange(
            method=request.method,
            target=target_of(scope),
            headers=scope["headers"],
            body=b"",
            request_id=choose_request_id(request.headers.get("x-request-id")),
            closes=self.draining,
        )
        started_s = time.monotonic()
        self.open.add(exchange)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                status = await self._answer(request, exchange, send)
            finally:
                self.open.discard(exchange)
            self.metrics.request_ended(status)
            _log.info(
                "request",
                method=exchange.method,
                path=scope["path"],
                status=status,
                upstream=exchange.upstream,
                attempts=exchange.attempts,
                total_ms=round((time.monotonic() - started_s) * 1000, 1),
            )

    def _check_held(self) -> None:
        held = sum(len(each.body) for each in self.open)
        if held > self.max_held_bytes:
            message = f"{held} bytes of requests are open, allowed: {self.max_held_bytes}"
            raise api_errors.unavailable(message, RETRY_AFTER_S)

    async def _answer(self, request: Request, exchange: Exchange, send: Send) -> int:
        """The status of the answer; whatever goes wrong, the client gets an error body if nothing was sent yet."""
        try:
            exchange.body = await read_body(request)
            self._check_held()
            finished = await run_until_disconnect(self.forwarder.forward(exchange, send), request.receive)
        except ClientDisconnect:
            return CLIENT_LEFT
        except ApiError as error:
            return await _send_error(error, request, exchange, send)
        except httpx.TransportError as error:
            # The response has begun: leaving it unfinished makes the server close the connection.
            _log.warning(
                "upstream lost in the middle of an answer", upstream=exchange.upstream, error=repr(error)
            )
            return 502
        except Exception:
            _log.exception("request failed")
            if exchange.status is not None:
                return 500
            return await _send_error(api_errors.internal(), request, exchange, send)
        return (exchange.status or CLIENT_LEFT) if finished else CLIENT_LEFT


async def _send_error(error: ApiError, request: Request, exchange: Exchange, send: Send) -> int:
    await _error(error, exchange.request_id)(request.scope, request.receive, send)
    return error.status


def _error(error: ApiError, request_id: str | None = None) -> Response:
    headers = error.headers() | ({"x-request-id": request_id} if request_id else {})
    return Response(error.body(), error.status, headers)


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
