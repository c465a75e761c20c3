"""Passes an upstream's answer on: streams piece by piece, whole answers once they are whole."""

from __future__ import annotations

import httpx
from starlette.types import Send

from semipd_engine.proxy.exchange import Exchange, Refused, begin, is_stream

MAX_WHOLE_BYTES = (
    8 * 2**20
)  # of an answer that is held until it is whole, so that another upstream can still give it


class LostBeforeToken(Exception):
    """The upstream ended before anything was passed on: another one may be asked."""


class LostAfterToken(Exception):
    """The upstream ended in the middle of a stream that the client is reading."""


async def pass_on(response: httpx.Response, exchange: Exchange, send: Send) -> None:
    """Raises: LostBeforeToken, LostAfterToken; httpx.TransportError in the middle of a whole answer beyond MAX_WHOLE_BYTES."""
    passing = _pass_stream if is_stream(response) else _pass_whole
    await passing(response, exchange, send)


async def read_refusal(response: httpx.Response) -> Refused | None:
    """None: it broke off."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        body = b"".join([chunk async for chunk in response.stream])
    except httpx.TransportError:
        return None
    return Refused(status=response.status_code, headers=response.headers.raw, body=body)


async def _pass_stream(response: httpx.Response, exchange: Exchange, send: Send) -> None:
    """The first piece of our engines' streams carries the first token; the head is held back until it is there."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks = aiter(response.stream)
    try:
        first = await anext(chunks, b"")
    except httpx.TransportError as error:
        raise LostBeforeToken(repr(error)) from error
    await begin(exchange, response, send)
    await _send_more(send, first)
    try:
        async for chunk in chunks:
            await _send_more(send, chunk)
    except httpx.TransportError as error:
        raise LostAfterToken(repr(error)) from error
    await send({"type": "http.response.body", "body": b""})


async def _pass_whole(response: httpx.Response, exchange: Exchange, send: Send) -> None:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks = aiter(response.stream)
    held = bytearray()
    try:
        async for chunk in chunks:
            held += chunk
            if len(held) > MAX_WHOLE_BYTES:
                break
    except httpx.TransportError as error:
        raise LostBeforeToken(repr(error)) from error
    await begin(exchange, response, send)
    await _send_more(send, bytes(held))
    async for chunk in chunks:
        await _send_more(send, chunk)
    await send({"type": "http.response.body", "body": b""})


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
