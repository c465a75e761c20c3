"""Answers the API server over TLS; each request reads the operator's metrics anew."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from semipd_cluster.certificates import KeyPair
from semipd_external_metrics.samples import (
    GROUP_VERSION,
    BadSelector,
    Sample,
    build_resources,
    build_values,
    read_samples,
    select,
)

BASE = f"/apis/{GROUP_VERSION}"
TIMEOUT = ClientTimeout(total=5)


def build_app(metrics_url: str) -> web.Application:
    async def samples() -> list[Sample]:
        """Raises: HTTPServiceUnavailable: an HPA then holds."""
        try:
            async with ClientSession(timeout=TIMEOUT) as session, session.get(metrics_url) as answer:
                answer.raise_for_status()
                return read_samples(await answer.text())
        except (ClientError, OSError, TimeoutError) as error:
            raise web.HTTPServiceUnavailable(text=f"{metrics_url}: {error!r}") from error

    async def resources(_: web.Request) -> web.Response:
        return web.json_response(build_resources(await samples()))

    async def values(request: web.Request) -> web.Response:
        where = request.match_info
        try:
            found = select(
                await samples(), where["metric"], where["namespace"], request.query.get("labelSelector", "")
            )
        except BadSelector as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response(build_values(found, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))

    app = web.Application()
    app.add_routes([web.get(BASE, resources), web.get(BASE + "/namespaces/{namespace}/{metric}", values)])
    return app


def build_tls(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context
