"""Reads a request's body, up to a bound."""

from __future__ import annotations

from starlette.requests import Request

from semipd_engine.frontend.api_errors import ApiError

MAX_BODY_BYTES = 32 * 2**20


async def read_body(request: Request) -> bytes:
    """Raises: ApiError 413; ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes, allowed: {MAX_BODY_BYTES}")
    return bytes(body)
