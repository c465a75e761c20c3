"""Asks every front end, for ever, whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.upstreams import Upstream
from semipd_shell import log

_log = log.logger(__name__)

PERIOD_S = 0.5


async def watch(upstreams: Sequence[Upstream], connections: Connections) -> None:
    """Until cancelled."""
    while True:
        await asyncio.gather(*(_ask(one, connections) for one in upstreams))
        await asyncio.sleep(PERIOD_S)


async def _ask(upstream: Upstream, connections: Connections) -> None:
    ready = await connections.is_ready(upstream)
    if ready != upstream.ready:
        _log.info("engine readiness", engine=upstream.index, ready=ready)
    upstream.ready = ready
