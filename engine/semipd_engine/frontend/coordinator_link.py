"""The connection to the coordinator, made again for ever. Each new one starts with every open request."""

from __future__ import annotations

import asyncio
import contextlib
import os

import msgspec

from semipd_core import messages
from semipd_core.telemetry import EngineUsage
from semipd_engine.frontend.open_requests import OpenRequests
from semipd_shell import channel, log

_log = log.logger(__name__)

USAGE_TIMEOUT_S = 0.5
RETRY_S = 0.05  # a local socket: asking is cheap, and a crash costs open requests as little as possible


class CoordinatorLink:
    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._outgoing: asyncio.Queue[messages.Message] | None = None  # None: no connection
        self.was_connected = False  # at least once: the weights are loaded
        self._has_lanes = False  # by the word of this connection
        self._usage: asyncio.Future[EngineUsage] | None = (
            None  # all who ask at the same time get the same answer
        )

    @property
    def is_ready(self) -> bool:
        """Whether the coordinator is there and every role has its lane."""
        return self._outgoing is not None and self._has_lanes

    def post(self, message: messages.Message) -> None:
        """Send soon, in order. Without a connection this drops the message: see `OpenRequests`."""
        if self._outgoing is not None:
            self._outgoing.put_nowait(message)

    async def ask_usage(self) -> EngineUsage | None:
        """None: no answer within USAGE_TIMEOUT_S, or no coordinator."""
        if self._outgoing is None:
            return None
        if self._usage is None or self._usage.done():
            self._usage = asyncio.get_running_loop().create_future()
            self.post(messages.GetUsage())
        done, _ = await asyncio.wait({self._usage}, timeout=USAGE_TIMEOUT_S)
        return next(iter(done)).result() if done else None

    async def run(self, requests: OpenRequests) -> None:
        """Until cancelled."""
        while True:
            try:
                connection = await channel.connect_async(self._socket_path)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._converse(connection, requests)
            finally:
                self._outgoing = self._usage = None
                self._has_lanes = False
                await connection.close()
            _log.warning("coordinator gone", open_requests=requests.num_open)
            await asyncio.sleep(RETRY_S)

    async def _converse(self, connection: channel.AsyncChannel, requests: OpenRequests) -> None:
        """Until the peer is gone."""
        outgoing: asyncio.Queue[messages.Message] = asyncio.Queue()
        outgoing.put_nowait(messages.FrontEndHello(pid=os.getpid()))
        num_resubmitted = 0
        for submit in requests.resubmissions():
            outgoing.put_nowait(submit)
            num_resubmitted += 1
        self._outgoing = outgoing
        self.was_connected = True
        _log.info("coordinator connected", resubmitted=num_resubmitted)
        sender = asyncio.create_task(_send_all(connection, outgoing))
        receiver = asyncio.create_task(self._receive_all(connection, requests))
        try:
            await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, receiver):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, EOFError, OSError):
                    await task

    async def _receive_all(self, connection: channel.AsyncChannel, requests: OpenRequests) -> None:
        while True:
            try:
                message = await connection.receive()
            except msgspec.ValidationError as error:
                _log.error("unknown message from the coordinator", error=str(error))
                return
            if isinstance(message, messages.Tokens | messages.Failed):
                requests.receive(message)
            elif isinstance(message, messages.News):
                for item in message.items:
                    requests.receive(item)
            elif isinstance(message, messages.Readiness):
                self._has_lanes = message.ready
            elif isinstance(message, messages.Usage):
                if self._usage is not None and not self._usage.done():
                    self._usage.set_result(message.usage)
            else:
                _log.error("unexpected message from the coordinator", kind=type(message).__name__)


async def _send_all(connection: channel.AsyncChannel, outgoing: asyncio.Queue[messages.Message]) -> None:
    while True:
        await connection.send(await outgoing.get())
