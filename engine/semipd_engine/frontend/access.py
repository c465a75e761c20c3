"""Around every request: its ID in headers and log lines, one line at its end, and an error body whatever goes wrong."""

from __future__ import annotations

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semipd_engine.frontend.api_errors import CLIENT_LEFT
from semipd_engine.frontend.front_end import FrontEnd
from semipd_engine.frontend.request_id import choose_request_id
from semipd_engine.frontend.request_record import RequestRecord
from semipd_shell import log

_log = log.logger(__name__)


class Access:
    """ASGI middleware. The record is at `scope["state"]["record"]`."""

    def __init__(self, app: ASGIApp, front_end: FrontEnd) -> None:
        self._app = app
        self._front_end = front_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=choose_request_id(Headers(scope=scope).get("x-request-id")),
            arrived_s=self._front_end.clock.monotonic_s(),
        )
        scope.setdefault("state", {})["record"] = record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.request_id
                if self._front_end.draining:
                    headers["connection"] = "close"  # the client's next request finds another pod
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=record.request_id):
            if not scope["path"].startswith("/v1/"):
                await self._serve(scope, receive, send_with_id, record)
                return
            self._front_end.num_in_flight += 1
            try:
                await self._serve(scope, receive, send_with_id, record)
            finally:
                self._front_end.num_in_flight -= 1
                self._finish(scope, record)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        """A defect of ours costs one request: the error body is out already (`http_app`), the trace goes to the log."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            record.client_left = True
        except Exception:
            _log.exception("request failed", path=scope["path"])

    def _finish(self, scope: Scope, record: RequestRecord) -> None:
        status = CLIENT_LEFT if record.client_left or record.status is None else record.status
        self._front_end.metrics.request_ended(status)
        seconds = self._front_end.clock.monotonic_s() - record.arrived_s
        _log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            total_ms=round(seconds * 1000, 1),
            **record.log_fields(),
        )
