"""One chat message, streamed: what a person sees first of a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import msgspec

from semipd_bench.load import Target, open_client
from semipd_core.errors import SemipdError


class ChatFailed(SemipdError):
    """The service did not answer a chat message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """`first_token_at_s` is a reading of the caller's clock."""

    text: str
    first_token_at_s: float


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


async def send_message(
    target: Target,
    message: str,
    *,
    max_tokens: int,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> ChatAnswer:
    """Send one user message; `say` gets the answer piece by piece.

    Raises: ChatFailed.
    """
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": message}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    pieces: list[str] = []
    first_at_s: float | None = None
    try:
        async with (
            open_client(target) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise ChatFailed(f"the chat message was refused: HTTP {response.status_code}: {text[:300]}")
            async for line in response.aiter_lines():
                piece = _text_of(line)
                if piece:
                    first_at_s = clock() if first_at_s is None else first_at_s
                    pieces.append(piece)
                    say(piece)
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        raise ChatFailed(f"the chat message failed: {type(error).__name__}: {error}") from error
    if first_at_s is None:
        raise ChatFailed("the chat message got an empty answer")
    return ChatAnswer(text="".join(pieces), first_token_at_s=first_at_s)


def _text_of(line: str) -> str:
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return ""
    chunk = msgspec.json.decode(data, type=_Chunk)
    return "".join(choice.delta.content or "" for choice in chunk.choices)
