"""The agent's HTTP as its callers on this machine see it: over the unix socket in the run directory."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec

from semipd_core.agent_config import AgentStatus, WishWire
from semipd_core.errors import SemipdError
from semipd_core.telemetry import EngineReport

TIMEOUT_S = 5.0


class AgentRefused(SemipdError):
    """The agent answered, and not with a success."""


class AgentClient:
    """Raises: httpx.TransportError where no agent answers, AgentRefused where it says no."""

    def __init__(self, run_dir: Path) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(run_dir / "agent.sock"))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=TIMEOUT_S)

    async def status(self) -> AgentStatus:
        return msgspec.json.decode(await self._get("/v1/status"), type=AgentStatus)

    async def windows(self) -> list[EngineReport]:
        return msgspec.json.decode(await self._get("/v1/windows"), type=list[EngineReport])

    async def put_wish(self, wish: WishWire) -> None:
        _body_of(await self._client.put("/v1/wish", content=msgspec.json.encode(wish)))

    async def close(self) -> None:
        await self._client.aclose()

    async def _get(self, path: str) -> bytes:
        return _body_of(await self._client.get(path))


def _body_of(response: httpx.Response) -> bytes:
    if response.is_success:
        return response.content
    raise AgentRefused(f"{response.request.url.path}: HTTP {response.status_code}: {response.text[:300]}")
