"""The HTTP side of all agents: a listener for each pod's address, so that one agent can be gone and the next one hang."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum

from aiohttp import web

from semipd_bench.scale.fleet import Fleet, PodName
from semipd_bench.scale.traffic import EngineTraffic

BACKLOG = 16


class Conduct(StrEnum):
    SERVES = "Serves"
    HANGS = "Hangs"  # accepts, and never answers
    REFUSES = "Refuses"  # nobody listens, and open connections are reset


class AgentServer:
    """`GET http://ADDRESS_OF_POD:port/v1/windows` for every pod of `fleet`."""

    def __init__(self, fleet: Fleet, traffic: Mapping[PodName, EngineTraffic], port: int) -> None:
        self.served = 0
        self._fleet = fleet
        self._traffic = traffic
        self._port = port
        self._conduct: dict[PodName, Conduct] = {}
        self._listeners: dict[PodName, asyncio.Server] = {}
        self._runner = self._build_runner()

    def _build_runner(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/windows", self._windows)
        return web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=300.0, shutdown_timeout=1.0
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises: OSError if the port is taken at one of the addresses."""
        await self._runner.setup()
        try:
            for pod in self._fleet.pod_names():
                await self._listen(pod)
            yield
        finally:
            for listener in self._listeners.values():
                listener.close()
            await self._runner.cleanup()

    async def set_conduct(self, pod: PodName, conduct: Conduct) -> None:
        self._conduct[pod] = conduct
        if conduct is not Conduct.REFUSES:
            await self._listen(pod)
        elif pod in self._listeners:
            self._listeners.pop(pod).close()

    async def _listen(self, pod: PodName) -> None:
        if pod in self._listeners:
            return
        sock = socket.create_server((self._fleet.address_of(pod), self._port), backlog=BACKLOG)
        server = self._runner.server
        assert server is not None
        self._listeners[pod] = await asyncio.get_running_loop().create_server(server, sock=sock)

    async def _windows(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        pod = self._fleet.pod_at(request.transport.get_extra_info("sockname")[0])
        conduct = self._conduct.get(pod, Conduct.SERVES)
        if conduct is Conduct.HANGS:
            await asyncio.Event().wait()
        if conduct is Conduct.REFUSES:
            request.transport.abort()
        self.served += 1
        return web.Response(body=self._traffic[pod].report(time.time()), content_type="application/json")
