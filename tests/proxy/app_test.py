"""The proxy's application without a process: what it answers by itself."""

from __future__ import annotations

import httpx
import pytest

from semipd_engine.proxy.http_app import ProxyApp
from semipd_engine.proxy.serving import build_proxy
from semipd_engine.proxy.upstreams import Upstreams


@pytest.fixture
def app() -> ProxyApp:
    return build_proxy(Upstreams(), lambda: True).app


async def ask(app: ProxyApp, path: str, body: bytes | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        return await client.request("GET" if body is None else "POST", path, content=body)


async def test_bodies_beyond_what_may_be_held_are_refused(app: ProxyApp) -> None:
    app.max_held_bytes = 10
    fits, refused = await ask(app, "/v1/x", b"1" * 10), await ask(app, "/v1/x", b"1" * 11)
    assert "none of 0 engines" in fits.json()["error"]["message"]
    assert refused.status_code == 503
    assert "11 bytes of requests are open, allowed: 10" in refused.json()["error"]["message"]
    assert app.num_in_flight == 0


@pytest.mark.parametrize("knows", [True, False], ids=["it knows its upstreams", "it does not yet"])
async def test_it_is_ready_once_it_knows_its_upstreams_and_not_while_it_drains(knows: bool) -> None:
    app = build_proxy(Upstreams(), lambda: knows).app
    assert (await ask(app, "/ready")).status_code == (200 if knows else 503)
    app.draining = True
    assert (await ask(app, "/ready")).json() == {"ready": False, "draining": True}


async def test_what_is_not_its_own_is_not_found(app: ProxyApp) -> None:
    answer = await ask(app, "/internal/drain", b"")
    assert answer.status_code == 404
    assert "allowed: /v1, /health, /ready, /metrics" in answer.json()["error"]["message"]
