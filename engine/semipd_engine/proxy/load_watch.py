"""Asks every pod's agent, for ever, how loaded the pod is. No answer is no data: what was said last grows stale."""

from __future__ import annotations

import asyncio
import time

import httpx
import msgspec

from semipd_core.routing.load import read_sample
from semipd_core.telemetry import PodLoad
from semipd_engine.proxy.upstreams import Upstream, Upstreams

PERIOD_S = 1.0
TIMEOUT_S = 1.0
CONCURRENCY = 64


class LoadWatch:
    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Until cancelled."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
            while True:
                started_s = time.monotonic()
                await asyncio.gather(*(self._ask(client, each) for each in list(self._upstreams)))
                await asyncio.sleep(max(0.0, started_s + PERIOD_S - time.monotonic()))

    async def _ask(self, client: httpx.AsyncClient, upstream: Upstream) -> None:
        if upstream.address.agent_port is None:
            return
        try:
            async with self._slots:
                answer = await client.get(upstream.address.agent_url + "/v1/load")
            answer.raise_for_status()
            load = msgspec.json.decode(answer.content, type=PodLoad)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return
        upstream.load = read_sample(load, upstream.num_open, time.monotonic())
