"""What an engine's front end says of itself, over its unix socket. No answer is no data, never zero."""

from __future__ import annotations

import httpx
import msgspec

from semipd_core.telemetry import FrontEndReport, SloTargets

TIMEOUT_S = 1.0
BASE_URL = "http://front-end"


class FrontEndClient:
    """One keep-alive connection to `front.sock`."""

    def __init__(self, socket_path: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=socket_path)
        self._http = httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=TIMEOUT_S)

    async def window(self) -> FrontEndReport | None:
        try:
            answer = await self._http.get("/internal/window")
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=FrontEndReport)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None

    async def drain(self, lag_s: float) -> bool:
        """Whether the front end has taken it: not ready from now on, closed after `lag_s`."""
        try:
            return (await self._http.post("/internal/drain", params={"lagSeconds": lag_s})).is_success
        except httpx.HTTPError:
            return False

    async def set_slo(self, slo: SloTargets) -> bool:
        """For requests from now on. Whether the front end has taken it."""
        try:
            return (await self._http.put("/internal/slo", content=msgspec.json.encode(slo))).is_success
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        await self._http.aclose()
