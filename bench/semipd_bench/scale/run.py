"""The whole run: from nothing, steady, killed and back, a window turned bad, half of the agents gone or hanging."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightkube import AsyncClient, KubeConfig
from lightkube.generic_resource import create_global_resource

from semipd_bench.scale.agent_server import Conduct
from semipd_bench.scale.agents import Order
from semipd_bench.scale.agents_process import AgentsProcess, running_agents
from semipd_bench.scale.control_plane import ApiServer, running_api_server
from semipd_bench.scale.controllers import Controllers
from semipd_bench.scale.fleet import Fleet, Manifest, build_class, build_service
from semipd_bench.scale.meter import Meter
from semipd_bench.scale.operator_process import OperatorProcess, start_operator, stop_operator
from semipd_bench.scale.result import FromNothing, Outage, Reaction, Restart, ScaleResult, Span
from semipd_bench.scale.traffic import EngineTraffic
from semipd_bench.scale.watcher import Watcher
from semipd_bench.service import free_port
from semipd_core.errors import SemipdError
from semipd_operator.kinds import CLASS, SERVICE

FROM_NOTHING_MAX_S = 1200.0
RESTART_MAX_S = 300.0
REACTION_MAX_S = 150.0
SETTLE_ROUNDS, STEADY_ROUNDS, OUTAGE_ROUNDS = 3, 8, 4
CREATED_AT_ONCE = 16
NAMESPACE: Any = create_global_resource("", "v1", "Namespace", "namespaces")


class NotConverged(SemipdError):
    """The operator did not get there in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRun:
    fleet: Fleet
    round_s: float
    samples: int  # services whose window turns bad
    directory: Path
    say: Callable[[str], None]

    async def measure(self) -> ScaleResult:
        """Raises: NoControlPlane, NotConverged, OperatorEnded, AgentsEnded."""
        with running_api_server(self.directory / "control-plane") as api:
            port = free_port()
            client = AsyncClient(KubeConfig.from_file(api.kubeconfig), trust_env=False)
            watcher, controllers = Watcher(client, self.fleet), Controllers(client, self.fleet)
            agents_log = self.directory / "agents.log"
            try:
                async with running_agents(api.kubeconfig, self.fleet, port, agents_log) as agents:
                    background = [asyncio.create_task(each.run()) for each in (watcher, controllers)]
                    stage = _Stage(self, api, client, watcher, agents, port)
                    try:
                        return await stage.perform()
                    finally:
                        for task in background:
                            task.cancel()
                        await asyncio.gather(*background, return_exceptions=True)
            finally:
                await client.aclose()


@dataclass(slots=True)
class _Stage:
    """A run under way."""

    plan: ScaleRun
    api: ApiServer
    client: AsyncClient
    watcher: Watcher
    agents: AgentsProcess
    agent_port: int

    async def perform(self) -> ScaleResult:
        created_s = await self._create_services()
        async with self._operator("first") as operator:
            meter = Meter(operator, self.api.read_metrics)
            from_nothing = await self._measure_from_nothing(meter)
            steady = await self._measure_steady(meter)
            await stop_operator(operator, kill=True)
        async with self._operator("second") as operator:
            meter = Meter(operator, self.api.read_metrics)
            restart = await self._measure_restart(meter)
            reactions = await self._measure_reactions()
            outages = [
                await self._measure_outage(meter, conduct) for conduct in (Conduct.REFUSES, Conduct.HANGS)
            ]
        return ScaleResult(
            services=self.plan.fleet.services,
            agents=self.plan.fleet.pods,
            round_s=self.plan.round_s,
            versions=self._versions(),
            report_bytes=len(EngineTraffic("engine-0", 0).report(time.time())),
            services_created_s=created_s,
            from_nothing=from_nothing,
            steady=steady,
            restart=restart,
            reactions=tuple(reactions),
            outages=tuple(outages),
        )

    def _versions(self) -> dict[str, str]:
        return {
            "kubernetes": self.api.version,
            "python": platform.python_version(),
            **{name: version(name) for name in ("semipd", "kopf", "lightkube", "aiohttp", "msgspec")},
        }

    @contextlib.asynccontextmanager
    async def _operator(self, identity: str) -> AsyncIterator[OperatorProcess]:
        operator = await start_operator(
            self.api.kubeconfig,
            self.plan.directory / f"operator-{identity}.log",
            identity=identity,
            round_s=self.plan.round_s,
            agent_port=self.agent_port,
            health_port=free_port(),
        )
        try:
            yield operator
        finally:
            await stop_operator(operator)

    # --- the phases -------------------------------------------------------------------------------------------

    async def _create_services(self) -> float:
        fleet, started_s = self.plan.fleet, time.monotonic()
        for name in fleet.namespaces:
            await self.client.create(
                NAMESPACE({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            )
        await self.client.create(CLASS(build_class()))
        await self._create_all(
            SERVICE,
            [build_service(number, fleet.pods_per_service) for number in range(fleet.services)],
        )
        seconds = time.monotonic() - started_s
        self.plan.say(f"{fleet.services} services created in {seconds:.1f} s")
        return seconds

    async def _create_all(self, resource: Any, manifests: Sequence[Manifest]) -> None:
        slots = asyncio.Semaphore(CREATED_AT_ONCE)

        async def create(manifest: Manifest) -> None:
            async with slots:
                await self.client.create(resource(manifest))

        await asyncio.gather(*map(create, manifests))

    async def _measure_from_nothing(self, meter: Meter) -> FromNothing:
        started_s = time.monotonic()
        watcher = self.watcher
        async with meter.measuring():
            waits = [
                self._reach(is_so, what, started_s)
                for is_so, what in (
                    (watcher.all_have_partitions, "every pod has its partition"),
                    (watcher.all_observed, "every service has a status"),
                    (watcher.all_ready, "every service is ready"),
                )
            ]
            partitions_s, observed_s, ready_s = await asyncio.gather(*waits)
            span = await meter.span()
        self._say_span("from nothing", span)
        return FromNothing(partitions_s=partitions_s, observed_s=observed_s, ready_s=ready_s, span=span)

    async def _reach(self, is_so: Callable[[], bool], what: str, started_s: float) -> float:
        if not await self.watcher.wait(is_so, FROM_NOTHING_MAX_S):
            raise NotConverged(f"not within {FROM_NOTHING_MAX_S:.0f} s: {what}")
        seconds = time.monotonic() - started_s
        self.plan.say(f"{what}: after {seconds:.1f} s")
        return seconds

    async def _measure_steady(self, meter: Meter) -> Span:
        await self._settle(meter)
        async with meter.measuring():
            await meter.wait_rounds(STEADY_ROUNDS, 4 * STEADY_ROUNDS * self.plan.round_s)
            span = await meter.span()
        self._say_span("steady", span)
        return span

    async def _settle(self, meter: Meter) -> None:
        async with meter.measuring():
            await meter.wait_rounds(SETTLE_ROUNDS, 4 * SETTLE_ROUNDS * self.plan.round_s)

    async def _measure_restart(self, meter: Meter) -> Restart:
        started_s = time.monotonic()
        services = self.plan.fleet.services
        async with meter.measuring():
            if not await meter.wait(lambda figures: figures.leads, RESTART_MAX_S):
                raise NotConverged(f"the second operator does not lead after {RESTART_MAX_S:.0f} s")
            leads_s = time.monotonic() - started_s
            is_done = await meter.wait(
                lambda figures: figures.queue_length == 0 and figures.services_looked_at == services,
                RESTART_MAX_S,
            )
            if not is_done:
                raise NotConverged(f"not within {RESTART_MAX_S:.0f} s: {meter.figures}")
            converged_s = time.monotonic() - started_s
            span = await meter.span()
        self.plan.say(f"killed and back: leads after {leads_s:.1f} s, converged after {converged_s:.1f} s")
        self._say_span("restart", span)
        await self._settle(meter)
        return Restart(leads_s=leads_s, converged_s=converged_s, span=span)

    async def _measure_reactions(self) -> list[Reaction]:
        """Each at another moment of the round."""
        chosen = random.Random(1).sample(range(self.plan.fleet.services), self.plan.samples)
        waits = [
            self._react(service, self.plan.round_s * number / len(chosen))
            for number, service in enumerate(chosen)
        ]
        found = list(await asyncio.gather(*waits))
        await self.agents.obey(Order(steady_services=chosen))
        shown = ", ".join(f"{_shown(each.first_s)} / {_shown(each.all_s)}" for each in found)
        self.plan.say(f"seconds from a window turned bad to another split, first / all pods: {shown}")
        return found

    async def _react(self, service: int, delay_s: float) -> Reaction:
        await asyncio.sleep(delay_s)
        before = set(self.watcher.targets_of(service))
        await self.agents.obey(Order(heavy_services=[service]))
        started_s = time.monotonic()

        def any_moved() -> bool:
            return not before.issuperset(self.watcher.targets_of(service))

        def all_moved() -> bool:
            return before.isdisjoint(self.watcher.targets_of(service))

        async def until(is_so: Callable[[], bool]) -> float | None:
            is_there = await self.watcher.wait(is_so, REACTION_MAX_S)
            return time.monotonic() - started_s if is_there else None

        first_s, all_s = await asyncio.gather(until(any_moved), until(all_moved))
        return Reaction(first_s=first_s, all_s=all_s)

    async def _measure_outage(self, meter: Meter, conduct: Conduct) -> Outage:
        await self.agents.obey(Order(conduct=Conduct.SERVES))
        await self._settle(meter)
        await self.agents.obey(Order(conduct=conduct))
        async with meter.measuring():
            await meter.wait_rounds(OUTAGE_ROUNDS, 4 * OUTAGE_ROUNDS * self.plan.round_s)
            span = await meter.span()
            engines = tuple(meter.rounds.engines)
        said = self.watcher.said("MetricsAvailable")
        self._say_span(f"every second agent {conduct.value.lower()}", span)
        self.plan.say(f"  engines that report, by round: {engines}; MetricsAvailable: {said}")
        return Outage(conduct=conduct.value, span=span, engines_reporting=engines, said=said)

    def _say_span(self, name: str, span: Span) -> None:
        rounds = " ".join(f"{each:.1f}" for each in span.rounds_s)
        self.plan.say(
            f"{name}: {span.seconds:.0f} s, operator {span.operator_cpu_s:.1f} s of CPU ({span.cpu_percent:.0f} %), "
            f"{span.rss_mb:.0f} MB (peak {span.peak_rss_mb:.0f}), API server {span.api_server_cpu_s:.1f} s, "
            f"writes {span.operator_writes} by the operator, {dict(span.writes)}; rounds {rounds}"
        )


def _shown(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f}"
