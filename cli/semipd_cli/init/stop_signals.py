"""SIGTERM, SIGINT and SIGHUP as a request to stop; a second one asks for haste."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = 0
        self._requested = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def is_requested(self) -> bool:
        return self._requested.is_set()

    @property
    def is_urgent(self) -> bool:
        return self._urgent.is_set()

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._received, number)

    async def wait(self) -> None:
        await self._requested.wait()

    async def wait_urgent(self) -> None:
        await self._urgent.wait()

    def _received(self, number: signal.Signals) -> None:
        self._count += 1
        (self._requested if self._count == 1 else self._urgent).set()
        what = "stopping, open requests finish first" if self._count == 1 else "stopping at once"
        self._say(f"{signal.Signals(number).name}: {what}")
