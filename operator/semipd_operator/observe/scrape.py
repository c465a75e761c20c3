"""The agents' windows, all at once within a deadline: who is slow or dead is no data, and delays nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import msgspec

from semipd_core.telemetry import EngineReport
from semipd_operator.plan.naming import AGENT_PORT

CONCURRENCY = 128
AGENT_TIMEOUT_S = 3.0
MAX_BYTES = 4 << 20

_decoder = msgspec.json.Decoder(list[EngineReport])


class Scraper:
    """`port` of every agent."""

    def __init__(self, client: httpx.AsyncClient, port: int = AGENT_PORT) -> None:
        self._client = client
        self._port = port
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def scrape(self, addresses: Mapping[str, str], deadline_s: float) -> dict[str, list[EngineReport]]:
        """Reports by pod name, of those that answered. `addresses`: pod name to IP."""
        found: dict[str, list[EngineReport]] = {}

        async def one(name: str, address: str) -> None:
            async with self._slots:
                reports = await self._fetch(address)
            if reports is not None:
                found[name] = [named(report, name) for report in reports]

        tasks = [asyncio.create_task(one(name, address)) for name, address in addresses.items()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=deadline_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def _fetch(self, address: str) -> list[EngineReport] | None:
        host = f"[{address}]" if ":" in address else address
        try:
            async with asyncio.timeout(AGENT_TIMEOUT_S):
                response = await self._client.get(f"http://{host}:{self._port}/v1/windows")
            if response.status_code != httpx.codes.OK or len(response.content) > MAX_BYTES:
                return None
            return _decoder.decode(response.content)
        except (httpx.HTTPError, OSError, TimeoutError, msgspec.MsgspecError):
            return None


def named(report: EngineReport, pod: str) -> EngineReport:
    """Engine ids are unique in a pod; in a service they carry the pod's name."""
    return msgspec.structs.replace(report, engine_id=f"{pod}/{report.engine_id}")
