"""One request on its way through the proxy, and what of it is passed on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
from starlette.types import Scope, Send

from semipd_core.routing.retries import RetryBudget
from semipd_engine.frontend.api_errors import ApiError
from semipd_engine.proxy.connections import Headers

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
_PROMPTED = ("/v1/completions", "/v1/chat/completions")


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """Says afterwards which upstream answered, with what, at which attempt. `last_refusal`: as an upstream worded it."""

    method: str
    target: str
    headers: Headers
    body: bytes
    request_id: str
    closes: bool = False  # the client's connection, after the answer
    upstream: str | None = None
    status: int | None = None  # of the response that was begun
    streams: bool = False
    budget: RetryBudget = field(default_factory=RetryBudget)
    last_refusal: Refused | None = None
    task: asyncio.Task[object] | None = None  # that forwards it
    is_cut: bool = False  # by the end of the drain

    @property
    def attempts(self) -> int:
        return self.budget.attempts + (self.status is not None)

    @property
    def has_prompt(self) -> bool:
        return self.method == "POST" and self.target.partition("?")[0] in _PROMPTED

    def cut(self) -> None:
        self.is_cut = True
        if self.task is not None:
            self.task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    status: int
    headers: Headers
    body: bytes


async def begin(exchange: Exchange, response: httpx.Response, send: Send) -> None:
    """The response's head: from here on the request cannot be given to another upstream."""
    exchange.status = response.status_code
    exchange.streams = is_stream(response)
    headers = _response_headers(response, exchange)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})


async def end_with_error(error: ApiError, send: Send) -> None:
    """An event in the place of the rest of a stream. The line that was cut is ended first."""
    last = b"\n\ndata: " + error.body() + b"\n\ndata: [DONE]\n\n"
    await send({"type": "http.response.body", "body": last})


def is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")


def target_of(scope: Scope) -> str:
    query = scope["query_string"].decode("ascii", "replace")
    path: str = scope["raw_path"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without what belongs to one hop. Names come in lower case from ASGI, in any case from httpx."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_FORWARDED]


def _response_headers(response: httpx.Response, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    headers = [*forwarded(response.headers.raw), (b"x-request-id", exchange.request_id.encode())]
    if length := response.headers.get("content-length"):
        headers.append((b"content-length", length.encode()))
    if exchange.closes:
        headers.append((b"connection", b"close"))
    return headers
