"""Answering one accepted request: waits for the deltas of its choices, writes them as one body or as server-sent events.

A client that goes away ends the answer at once; whatever ends it, generations still open are aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from semipd_core import messages
from semipd_engine.frontend import api_errors, response_bodies
from semipd_engine.frontend.disconnects import run_until_disconnect
from semipd_engine.frontend.generation import Delta, Generation
from semipd_engine.frontend.open_requests import OpenRequests
from semipd_engine.frontend.request_settings import GenerationSettings

_SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(slots=True, eq=False, kw_only=True)
class Answer:
    """What the generations of one request have produced, in order of arrival."""

    generations: Sequence[Generation]
    settings: GenerationSettings
    form: response_bodies.ResponseForm
    _news: asyncio.Queue[Delta | messages.Failed] = field(default_factory=asyncio.Queue)
    _num_ended: int = 0

    def take(self, news: Delta | messages.Failed) -> None:
        """The sink for `OpenRequests.open`."""
        self._news.put_nowait(news)

    async def next_deltas(self) -> list[Delta]:
        """All that is there, at least one; empty once every choice has ended. Raises: ApiError if one has failed."""
        if self._num_ended == len(self.generations):
            return []
        deltas = [self._checked(await self._news.get())]
        while not self._news.empty():
            deltas.append(self._checked(self._news.get_nowait()))
        self._num_ended += sum(delta.finish is not None for delta in deltas)
        return deltas

    def usage(self) -> dict[str, Any]:
        first_choices = self.generations[:: self.settings.num_choices]
        return response_bodies.usage(self.generations, first_choices=first_choices)

    @staticmethod
    def _checked(news: Delta | messages.Failed) -> Delta:
        if isinstance(news, messages.Failed):
            raise api_errors.from_status(news.status, news.message)
        return news


class AnswerResponse(Response):
    """The answer as an ASGI response. Raises: ApiError if a choice fails before the first byte is out."""

    def __init__(self, answer: Answer, requests: OpenRequests) -> None:
        super().__init__()
        self._answer = answer
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write = self._stream if self._answer.settings.stream else self._write_whole
        try:
            finished = await run_until_disconnect(write(send), receive)
            scope["state"]["record"].client_left = not finished
        finally:
            self._requests.close(self._answer.generations)

    async def _write_whole(self, send: Send) -> None:
        answer = self._answer
        texts = ["" for _ in answer.generations]
        while deltas := await answer.next_deltas():
            for delta in deltas:
                texts[delta.choice] += delta.text
        finishes = [generation.finish for generation in answer.generations]
        whole = answer.form.whole(texts, finishes)
        if answer.settings.return_token_ids:
            for choice, generation in zip(whole["choices"], answer.generations, strict=True):
                choice["token_ids"] = generation.received
        body = msgspec.json.encode(whole | {"usage": answer.usage()})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Send) -> None:
        """The first delta decides the status; an error after it becomes an event."""
        deltas = await self._answer.next_deltas()
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        events = _Events(self._answer)
        try:
            while deltas:
                await _send_more(send, b"".join(map(events.event, deltas)))
                deltas = await self._answer.next_deltas()
            last = events.last()
        except api_errors.ApiError as error:
            last = b"data: " + error.body() + b"\n\n" + response_bodies.SSE_DONE
        await send({"type": "http.response.body", "body": last})


class _Events:
    """Server-sent events of one answer. With `include_usage` every chunk has the key, as OpenAI has it: null but in the last."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._started: set[int] = set()

    def event(self, delta: Delta) -> bytes:
        chunk = self._answer.form.chunk(delta, is_first=delta.choice not in self._started)
        self._started.add(delta.choice)
        settings = self._answer.settings
        if settings.return_token_ids:
            chunk["choices"][0]["token_ids"] = delta.tokens
        if settings.continuous_usage:
            generation = self._answer.generations[delta.choice]
            chunk["usage"] = response_bodies.usage_so_far(generation, delta)
        elif settings.include_usage:
            chunk["usage"] = None
        return response_bodies.sse(chunk)

    def last(self) -> bytes:
        if not self._answer.settings.include_usage:
            return response_bodies.SSE_DONE
        chunk = self._answer.form.last_chunk() | {"usage": self._answer.usage()}
        return response_bodies.sse(chunk) + response_bodies.SSE_DONE


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
