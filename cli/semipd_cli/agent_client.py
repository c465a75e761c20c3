"""The agent's HTTP on its unix socket."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx
import msgspec

from semipd_core.agent_config import AgentStatus, WishWire
from semipd_core.api.shape import Words
from semipd_core.errors import InvalidSpec, NotReadyYet
from semipd_core.telemetry import EngineReport

_TIMEOUT_S = 5.0


class AgentClient:
    """Raises, from every method: NotReadyYet if the agent does not answer (it may be starting again)."""

    def __init__(self, socket_path: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=socket_path)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def status(self) -> AgentStatus:
        return msgspec.json.decode(await self._get("/v1/status"), type=AgentStatus)

    async def windows(self) -> list[EngineReport]:
        return msgspec.json.decode(await self._get("/v1/windows"), type=list[EngineReport])

    async def metrics(self) -> str:
        """In Prometheus' text format."""
        return (await self._get("/metrics")).decode()

    async def put_wish(self, wish: WishWire, engine_id: str | None = None) -> None:
        """Raises: InvalidSpec if the agent refuses the wish."""
        parameters = {"engine": engine_id} if engine_id is not None else {}
        response = await self._send("PUT", "/v1/wish", content=msgspec.json.encode(wish), params=parameters)
        if response.is_client_error:
            raise _refusal(response, wish)
        _check(response)

    async def drain(self) -> None:
        _check(await self._send("POST", "/v1/drain"))

    async def _get(self, path: str) -> bytes:
        response = await self._send("GET", path)
        _check(response)
        return response.content

    async def _send(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            return await self._http.request(
                method, path, content=content, params=params, headers={"content-type": "application/json"}
            )
        except httpx.TransportError as error:
            raise NotReadyYet(f"the agent does not answer {method} {path}: {error}", 1.0) from None


def _check(response: httpx.Response) -> None:
    if not response.is_success:
        raise NotReadyYet(f"the agent answered {response.status_code}: {response.text[:200]}", 1.0)


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    given: object
    allowed: str


def _refusal(response: httpx.Response, wish: WishWire) -> InvalidSpec:
    """400: a field of the wish is wrong. 409: no wish like it can be fulfilled, whatever its fields."""
    target = Words(f"({wish.target.prefill_percent}, {wish.target.decode_percent})")
    try:
        refusal = msgspec.json.decode(response.content, type=_Refusal)
    except msgspec.DecodeError:
        return InvalidSpec("target", target, response.text[:200])
    given = target if response.status_code == httpx.codes.CONFLICT else refusal.given
    return InvalidSpec(refusal.path, given, refusal.allowed)
