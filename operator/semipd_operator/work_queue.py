"""Keys that wait for their turn: each at most once, never two turns of one key at a time, a failed one again later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from semipd_shell import log
from semipd_shell.api_client import retry_after_s
from semipd_shell.informer import Key

FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0

_log = log.logger(__name__)


class WorkQueue:
    """`handle` gets a key; what it raises is logged and the key is tried again, later each time, as a busy server asks for."""

    def __init__(self, handle: Callable[[Key], Awaitable[None]]) -> None:
        self._handle = handle
        self._waiting: dict[Key, None] = {}
        self._busy: set[Key] = set()
        self._failures: dict[Key, tuple[object, int]] = {}  # at what, how often in a row
        self._timers: dict[Key, asyncio.TimerHandle] = {}  # until a key is tried again
        self._news = asyncio.Event()
        self.failed = 0  # turns, since the start

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def add(self, key: Key) -> None:
        self._waiting[key] = None
        self._news.set()

    async def run(self, workers: int) -> None:
        await asyncio.gather(*(self._work() for _ in range(workers)))

    async def _work(self) -> None:
        while True:
            key = self._take()
            if key is None:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                await self._handle(key)
                self._failures.pop(key, None)
                self._stop_timer(key)
            except Exception as error:
                self._retry(key, error)
            finally:
                self._busy.discard(key)
                if key in self._waiting:
                    self._news.set()

    def _take(self) -> Key | None:
        key = next((key for key in self._waiting if key not in self._busy), None)
        if key is not None:
            del self._waiting[key]
            self._busy.add(key)
        return key

    def _retry(self, key: Key, error: Exception) -> None:
        """One that fails at something else than the last has come further, and need not wait for long."""
        what = _what(error)
        last, failures = self._failures.get(key, (what, 0))
        failures = failures + 1 if last == what else 1
        self._failures[key] = what, failures
        self.failed += 1
        delay_s = max(min(FIRST_DELAY_S * 2 ** min(failures - 1, 10), MAX_DELAY_S), retry_after_s(error))
        _log.warning("to be tried again", service=str(key), delay_s=delay_s, problem=repr(error))
        self._stop_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._try_again, key)

    def _try_again(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _stop_timer(self, key: Key) -> None:
        """Turns from news come in between: each of them would begin a row of turns of its own."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()


def _what(error: Exception) -> tuple[type[Exception], str]:
    """Of a request: what for."""
    try:
        return type(error), error.request.url.path  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx2 raises where there was none
        return type(error), ""
