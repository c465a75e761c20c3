"""Asks every front end of one machine, for ever, whether it is ready."""

from __future__ import annotations

import asyncio

from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.upstreams import Upstream, Upstreams
from semipd_shell import log

_log = log.logger(__name__)

PERIOD_S = 0.5


async def watch(upstreams: Upstreams, connections: Connections) -> None:
    """Until cancelled."""
    while True:
        await asyncio.gather(*(_ask(one, connections) for one in upstreams))
        await asyncio.sleep(PERIOD_S)


async def _ask(upstream: Upstream, connections: Connections) -> None:
    ready = await connections.is_ready(upstream)
    if ready != upstream.ready:
        _log.info("engine readiness", upstream=upstream.name, ready=ready)
    if ready and not upstream.ready:
        upstream.note_answer()
    upstream.ready = ready
