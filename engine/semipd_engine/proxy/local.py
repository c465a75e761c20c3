"""The proxy before the engines of one machine or pod: its upstreams are front ends' sockets, and it ends with its agent."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec

from semipd_core.proxy_config import ProxyConfig
from semipd_core.telemetry import EngineUsage
from semipd_engine.frontend.listener import bind_tcp
from semipd_engine.frontend.picker_metrics import render_usage
from semipd_engine.proxy import readiness
from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.serving import Drain, build_proxy
from semipd_engine.proxy.upstreams import Address, Endpoint, Upstreams
from semipd_shell import log
from semipd_shell.agent_watch import OrphanWatch

_log = log.logger(__name__)

TICK_S = 0.5


async def run_local(config: ProxyConfig) -> None:
    """Serve until SIGTERM and all open requests are finished, or until there has been no agent for a while.

    Raises: InvalidSpec if the address cannot be had.
    """
    upstreams = Upstreams()
    upstreams.sync(
        Endpoint(name=str(index), address=Address(socket_path=path), ready=False)
        for index, path in enumerate(config.upstreams)
    )
    proxy = build_proxy(upstreams, lambda: upstreams.is_any_ready(time.monotonic()))
    proxy.app.more_metrics = partial(_usage, config.served_name, upstreams, proxy.connections)
    background = [
        readiness.watch(upstreams, proxy.connections),
        _watch_agent(config.agent_lock, proxy.ending),
    ]
    await proxy.serve(bind_tcp(config.host, config.port), Drain(lag_s=config.drain_lag_s), background)


async def _usage(served_name: str, upstreams: Upstreams, connections: Connections) -> bytes:
    """Of all engines as of one: to an endpoint picker a pod is one endpoint."""
    bodies = await asyncio.gather(*(connections.get(each, "/internal/usage") for each in upstreams))
    usages = [msgspec.json.decode(body, type=EngineUsage) for body in bodies if body is not None]
    return render_usage(served_name, usages)


async def _watch_agent(lock_path: str, ending: asyncio.Event) -> None:
    watch = OrphanWatch(lock_path)
    while not watch.is_orphaned(time.monotonic()):
        await asyncio.sleep(TICK_S)
    _log.error("no agent: stopping")
    ending.set()
