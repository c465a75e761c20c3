"""Is the operator alive, and how is it doing? `/healthz` for the kubelet, `/metrics` for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from semipd_operator.loop_metrics import add_loop_metrics
from semipd_operator.metrics import ServiceCollector

if TYPE_CHECKING:
    from semipd_operator.__main__ import Operator

STUCK_S = 120.0  # a service waits for so long and no turn has ended: the loop is stuck


@dataclass(slots=True)
class Health:
    """Times are monotonic."""

    started_s: float = field(default_factory=time.monotonic)
    last_turn_s: float = field(default_factory=time.monotonic)
    turns: int = 0

    def reconciled(self) -> None:
        self.last_turn_s = time.monotonic()
        self.turns += 1

    def is_stuck(self, waiting: int, now_s: float) -> bool:
        return waiting > 0 and now_s - self.last_turn_s > STUCK_S


async def serve_health(operator: Operator) -> None:
    """Until cancelled. Raises: OSError if the port is taken."""
    app = web.Application()

    async def healthz(_: web.Request) -> web.Response:
        if operator.health.is_stuck(len(operator.queue), time.monotonic()):
            return web.Response(status=503, text=f"{len(operator.queue)} services wait, no turn ends")
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        missing = [informer for informer in operator.world.informers if not informer.listed.is_set()]
        return web.Response(status=503 if missing else 200, text=f"{len(missing)} kinds not listed yet")

    async def metrics(request: web.Request) -> web.Response:
        body = render(operator, request.query.getall("name[]", []))
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", operator.settings.health_port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def render(operator: Operator, names: Collection[str] = ()) -> bytes:
    """`names`: of these series alone, as Prometheus's own exporters understand `name[]`; none: of all."""
    registry = build_registry(operator)
    return generate_latest(registry.restricted_registry(names) if names else registry)


def build_registry(operator: Operator) -> CollectorRegistry:
    """Made anew at each scrape: nothing is counted twice, and what is gone is gone."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(name, text, registry=registry).set(value)

    gauge("semipd_operator_leads", "1 on the operator that writes", operator.election.is_leading())
    gauge("semipd_operator_services", "services known", len(operator.world.services))
    gauge("semipd_operator_queue_length", "services that wait for their turn", len(operator.queue))
    gauge("semipd_operator_turns", "turns since the start", operator.health.turns)
    gauge(
        "semipd_operator_turns_failed", "turns that are tried again, since the start", operator.queue.failed
    )
    gauge("semipd_operator_writes", "requests that wrote, since the start", operator.applier.writes)
    gauge("semipd_operator_rounds", "of the cluster loop, since the start", operator.rounds.rounds)
    gauge("semipd_operator_round_seconds", "how long the last round took", operator.rounds.last_round_s)
    looked_at, engines = operator.rounds.reached()
    gauge("semipd_operator_services_looked_at", "by the cluster loop, since it leads", looked_at)
    gauge("semipd_operator_engines_reporting", "to them, when each was looked at last", engines)
    gauge(
        "semipd_operator_round_services_left",
        "services that the last round had no time for",
        operator.rounds.left_out,
    )
    gauge(
        "semipd_operator_round_period_seconds", "between two rounds, as set", operator.settings.round_seconds
    )
    gauge("semipd_operator_kopf_restarts", "since the start", operator.kopf_watch.restarts)
    answers = Gauge(
        "semipd_operator_api_answers", "of the API server, since the start", ["code"], registry=registry
    )
    for code, count in operator.answers().items():
        answers.labels(code).set(count)
    add_loop_metrics(registry, operator.rounds.services)
    registry.register(
        ServiceCollector(operator.rounds.services, operator.world.services, operator.election.is_leading)
    )
    return registry
