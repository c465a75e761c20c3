"""The agent's HTTP paths (design 0001, "Agent's HTTP"): reads and shows, and passes wishes and drains on."""

from __future__ import annotations

import time

import msgspec
from fastapi import FastAPI, Request, Response

from semipd_agent.agent import Agent
from semipd_agent.http.metrics import render_metrics
from semipd_agent.journal.file import JournalUnwritable
from semipd_agent.status import build_status, build_windows
from semipd_agent.wishes.source import WishRefused
from semipd_core.errors import InvalidSpec
from semipd_core.routing.load import pod_load


def build_app(agent: Agent) -> FastAPI:
    """Readings and orders: for the unix socket alone."""
    app = build_readings(agent)
    _add_orders(app, agent)
    return app


def build_readings(agent: Agent) -> FastAPI:
    """What anybody may see who may reach the pod."""
    app = FastAPI(title="semipd agent", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        return _json({"ready": agent.is_ready}, 200 if agent.is_ready else 503)

    @app.get("/v1/status")
    async def status() -> Response:
        return _json(build_status(agent))

    @app.get("/v1/windows")
    async def windows() -> Response:
        return _json(build_windows(agent))

    @app.get("/v1/load")
    async def load() -> Response:
        return _json(pod_load(build_windows(agent), ready=agent.is_ready, now_s=time.time()))

    @app.get("/metrics")
    async def metrics() -> Response:
        content, media_type = render_metrics(agent)
        return Response(content, media_type=media_type)

    return app


def _add_orders(app: FastAPI, agent: Agent) -> None:
    @app.put("/v1/wish")
    async def put_wish(request: Request, engine: str | None = None) -> Response:
        body = await request.body()
        try:
            wish, taken = agent.http_wishes.put(body, engine)
        except InvalidSpec as error:
            return _json({"path": error.path, "given": error.given, "allowed": error.allowed}, 400)
        except WishRefused as error:
            return _json({"path": "target", "given": "a wish", "allowed": str(error)}, 409)
        except JournalUnwritable as error:
            return _json({"path": "journal", "given": str(error), "allowed": "room on the disk"}, 507)
        return _json({"decisionId": wish.decision_id, "engines": list(taken)})

    @app.post("/v1/drain")
    async def drain() -> Response:
        agent.drain()
        return _json({"draining": True, "timeoutSeconds": agent.config.drain_timeout_seconds}, 202)


def _json(value: object, status_code: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status_code, media_type="application/json")
