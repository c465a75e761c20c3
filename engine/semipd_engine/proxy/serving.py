"""Serves the proxy's application until it is told to end, and ends it in the order in which clients lose nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from semipd_core.routing.choice import Bounds
from semipd_engine.frontend.listener import Listener, build_listener
from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.forwarding import Forwarder
from semipd_engine.proxy.http_app import ProxyApp
from semipd_engine.proxy.metrics import Metrics
from semipd_engine.proxy.upstreams import Upstreams
from semipd_shell import log

_log = log.logger(__name__)

POLL_S = 0.05
AFTER_CUT_S = 2.0  # for error events to leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """`lag_s`: new requests are served although it is not ready any more, for as long as it takes others to see that.

    Then it takes no connection and closes idle ones. `timeout_s` later it cuts what is open; None: somebody else keeps the time.
    """

    lag_s: float = 0.0
    timeout_s: float | None = None


@dataclass(slots=True, eq=False)
class Proxy:
    """The parts, and the end of them all."""

    connections: Connections
    app: ProxyApp
    ending: asyncio.Event

    async def serve(
        self, listening: socket.socket, drain: Drain, background: Sequence[Coroutine[Any, Any, None]]
    ) -> None:
        """Until SIGTERM, or until `ending` is set, and the drain that follows. `background` runs beside it."""
        listener = build_listener(self.app, graceful_s=None)
        _log.info("listening", port=listening.getsockname()[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ending.set)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(listener.serve_on(listening))
            running = [tasks.create_task(each) for each in background]
            await self.ending.wait()
            await self._end(listener, drain)
            await asyncio.wait({serving})
            for task in running:
                task.cancel()
        await self.connections.close()

    async def _end(self, listener: Listener, drain: Drain) -> None:
        """Not ready, then nothing new, then nothing open, then gone."""
        self.app.draining = True
        listener.end_after_answers()
        _log.info("draining", open_requests=self.app.num_in_flight, lag_s=drain.lag_s)
        await asyncio.sleep(drain.lag_s)
        listener.should_exit = True
        deadline_s = None if drain.timeout_s is None else time.monotonic() + drain.timeout_s
        while self.app.num_in_flight:
            if deadline_s is not None and time.monotonic() > deadline_s:
                _log.warning(
                    "requests are open at the end of the drain", open_requests=self.app.num_in_flight
                )
                self.app.cut()
                await asyncio.sleep(AFTER_CUT_S)
                listener.force_exit = True
                break
            await asyncio.sleep(POLL_S)


def build_proxy(
    upstreams: Upstreams, knows_upstreams: Callable[[], bool], bounds: Bounds | None = None
) -> Proxy:
    connections = Connections()
    metrics = Metrics(upstreams, time.monotonic)
    forwarder = Forwarder(upstreams, connections, metrics, time.monotonic, bounds)
    app = ProxyApp(forwarder=forwarder, metrics=metrics, knows_upstreams=knows_upstreams)
    return Proxy(connections=connections, app=app, ending=asyncio.Event())
