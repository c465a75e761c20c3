"""Sources of wishes. Each hands what it finds to a sink, which refuses by raising."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from semipd_agent.wishes.decode import decode_wish
from semipd_core.agent_config import WishWire
from semipd_core.errors import InvalidSpec, SemipdError
from semipd_shell import log

POLL_S = 0.5

_log = log.logger(__name__)


class WishRefused(SemipdError):
    """The wish is well formed and cannot be taken as things are."""


class WishSink(Protocol):
    def take(self, wish: WishWire, engine_id: str | None) -> Sequence[str]:
        """Take the wish for one engine or (None) all; the ids of the engines that took it.

        Raises: InvalidSpec, WishRefused, JournalUnwritable.
        """
        ...


class WishSource(Protocol):
    async def run(self, sink: WishSink) -> None:
        """Deliver wishes until cancelled."""
        ...


class FileWishSource:
    """A wish in a file, read again whenever the file changes. A bad file changes nothing: `on_problem` hears of it, or None."""

    def __init__(self, path: Path, on_problem: Callable[[str | None], None]) -> None:
        self._path = path
        self._on_problem = on_problem
        self._seen: tuple[int, int, int] | None = None

    async def run(self, sink: WishSink) -> None:
        while True:
            self.poll(sink)
            await asyncio.sleep(POLL_S)

    def poll(self, sink: WishSink) -> None:
        signature = self._signature()
        if signature == self._seen:
            return
        try:
            if signature is not None:
                sink.take(decode_wish(self._path.read_bytes()), None)
        except (InvalidSpec, WishRefused) as error:
            self._say(str(error))
        except (SemipdError, OSError) as error:
            self._say(str(error))
            return  # not the file's fault: the same content is tried again
        else:
            self._on_problem(None)
        self._seen = signature

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _say(self, problem: str) -> None:
        message = f"{self._path.name}: {problem}"
        _log.error("wish refused", problem=message)
        self._on_problem(message)


class HttpWishSource:
    """`PUT /v1/wish` delivers here (`semipd_agent.http.app`), as soon as somebody runs it."""

    def __init__(self) -> None:
        self._sink: WishSink | None = None

    async def run(self, sink: WishSink) -> None:
        self._sink = sink
        await asyncio.Event().wait()

    def put(self, body: bytes, engine_id: str | None) -> tuple[WishWire, Sequence[str]]:
        """Raises: as `WishSink.take`, and InvalidSpec for a body that is no wish."""
        if self._sink is None:
            raise WishRefused("the agent is starting")
        wish = decode_wish(body)
        return wish, self._sink.take(wish, engine_id)
