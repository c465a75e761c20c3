"""The agent's connection to one coordinator: messages out, messages in, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import msgspec

from semipd_core import messages
from semipd_core.telemetry import CoordinatorReport
from semipd_shell import channel, log

STATE_TIMEOUT_S = 1.0

_log = log.logger(__name__)


class CoordinatorLink:
    """`on_message` gets every message in order; `on_end` is called when a connection ends."""

    def __init__(
        self, path: str, on_message: Callable[[messages.AnyMessage], None], on_end: Callable[[], None]
    ) -> None:
        self._path = path
        self._on_message = on_message
        self._on_end = on_end
        self._channel: channel.AsyncChannel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._state_waiters: list[asyncio.Future[CoordinatorReport]] = []
        self.is_connected = False

    async def connect(self) -> bool:
        """Connect, say hello and read the first State; False if that fails."""
        await self.close()
        try:
            self._channel = await channel.connect_async(self._path)
            await self._channel.send(messages.AgentHello(pid=os.getpid()))
        except OSError:
            await self.close()
            return False
        self._reader = asyncio.create_task(self._read(self._channel))
        self.is_connected = await self.ask_state() is not None
        if not self.is_connected:
            await self.close()
        return self.is_connected

    async def send(self, message: messages.Message) -> bool:
        """Whether it was sent; False once the coordinator is gone."""
        if self._channel is None:
            return False
        try:
            await self._channel.send(message)
        except OSError:
            return False
        return True

    async def ask_state(self) -> CoordinatorReport | None:
        """None: no answer within STATE_TIMEOUT_S, or no coordinator."""
        waiter: asyncio.Future[CoordinatorReport] = asyncio.get_running_loop().create_future()
        self._state_waiters.append(waiter)
        try:
            if not await self.send(messages.GetState()):
                return None
            return await asyncio.wait_for(waiter, STATE_TIMEOUT_S)
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return None
        finally:
            if waiter in self._state_waiters:
                self._state_waiters.remove(waiter)

    async def _read(self, source: channel.AsyncChannel) -> None:
        try:
            while True:
                message = await source.receive()
                self._on_message(message)
                if isinstance(message, messages.State):
                    self._answer(message.report)
        except EOFError:
            pass
        except msgspec.MsgspecError as error:
            _log.error("unreadable message from the coordinator", error=str(error))
        self.is_connected = False
        self._drop_waiters()
        self._on_end()

    def _answer(self, report: CoordinatorReport) -> None:
        waiters, self._state_waiters = self._state_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(report)

    def _drop_waiters(self) -> None:
        for waiter in self._state_waiters:
            waiter.cancel()

    async def close(self) -> None:
        self.is_connected = False
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
